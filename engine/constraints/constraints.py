"""`Constraints`: all matchers of an engine, their compiled grammars, and the threads on which masks are computed.

A plan knows a matcher by a number. The mask of a step is begun when the step is planned and waited for when its logits
are there, so that it costs time beside the forward pass and not after it.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock, Thread

from llguidance import LLMatcher, LLParserLimits

from engine.constraints.matcher import ConstraintFailed, Mask, Matcher
from engine.constraints.vocabulary import TokenTable
from engine.errors import RequestError
from engine.types import Constraint, Vocabulary

MOST_GRAMMAR_CHARACTERS = 1 << 20
MOST_COMPILED_CHARACTERS = 16 << 20  # of their texts; compiled they are some times as large
NUM_THREADS = 2
LIMITS = LLParserLimits(max_lexer_states=50_000, verbose_errors=False)  # a state takes a kilobyte or two


@dataclass(slots=True)
class _Entry:
    matcher: Matcher
    num_told: int = 0
    mask: "Future[Mask | None] | None" = None


class Constraints:
    """The grammars of running and waiting sequences."""

    def __init__(self, vocabulary: Callable[[], Vocabulary], eos_token_ids: tuple[int, ...]) -> None:
        self._table = TokenTable(vocabulary, eos_token_ids)
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()
        self._lock = Lock()
        self._entries: dict[int, _Entry] = {}
        self._threads = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="deltaloop-mask")

    def read_vocabulary(self) -> None:
        """Begin to, beside something that takes longer: the library lets nobody else work for most of a second."""
        Thread(target=lambda: self._table.inner, name="deltaloop-vocabulary", daemon=True).start()

    def compile(self, constraint: Constraint) -> LLMatcher:
        """The grammar, ready to be copied; from the cache if it can be. Takes milliseconds, seconds for a huge one.

        Raises:
            RequestError: it is none, or too large.
        """
        grammar = constraint.grammar
        with self._lock:
            if grammar in self._compiled:
                self._compiled.move_to_end(grammar)
                return self._compiled[grammar]
        if len(grammar) > MOST_GRAMMAR_CHARACTERS:
            raise RequestError(f"the grammar is longer than {MOST_GRAMMAR_CHARACTERS} characters")
        try:
            grammar.encode()
        except UnicodeEncodeError:
            raise RequestError("the grammar has half a character, a lone surrogate, in it") from None
        compiled = LLMatcher(self._table.inner, grammar, log_level=0, limits=LIMITS)
        if compiled.is_error():
            raise RequestError(_readable(compiled.get_error()))
        with self._lock:
            self._compiled[grammar] = compiled
            while len(self._compiled) > 1 and sum(map(len, self._compiled)) > MOST_COMPILED_CHARACTERS:
                self._compiled.popitem(last=False)
        return compiled

    def open(self, number: int, constraint: Constraint) -> None:
        """A sequence begins. Raises `RequestError`."""
        self._entries[number] = _Entry(Matcher(constraint, self.compile(constraint), self._table))

    def close(self, number: int) -> None:
        """It has ended, or will never begin."""
        self._entries.pop(number, None)

    def begin_mask(self, number: int, tokens: Sequence[int], num_prompt_tokens: int) -> None:
        """Have the mask computed for what follows these, of which the first are a prompt's."""
        entry = self._entries[number]
        start, entry.num_told = num_prompt_tokens + entry.num_told, len(tokens) - num_prompt_tokens
        if entry.mask is None or start < len(tokens):  # else a step is done again
            entry.mask = self._threads.submit(_next_mask, entry.matcher, list(tokens[start:]))

    def mask(self, number: int) -> Mask | None:
        """The mask that was begun last: see `Matcher.mask`. Blocks until it is there. Raises `ConstraintFailed`."""
        pending = self._entries[number].mask
        assert pending is not None
        try:
            return pending.result()
        except ConstraintFailed:
            raise
        except Exception as error:  # whatever went wrong there is one sequence's misfortune
            raise ConstraintFailed(str(error)) from error

    def shut_down(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _readable(error: str) -> str:
    """The library's complaint without its place in the grammar, which is none of the client's."""
    text = re.split(r"\n +\d+ \| ", error, maxsplit=1)[0]
    return re.sub(r"^at \d+\(\d+\): ", "", text).strip()


def _next_mask(matcher: Matcher, token_ids: list[int]) -> Mask | None:
    matcher.advance(token_ids)
    return matcher.mask()
