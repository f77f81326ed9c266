"""`Matcher`: how far one answer has come in its grammar, and which tokens may go on from there."""

import re
from collections import deque
from dataclasses import dataclass
from itertools import islice

from llguidance import LLMatcher

from engine.constraints.syntax import Syntax
from engine.constraints.vocabulary import TokenTable
from engine.types import Constraint

NO_TOKEN = -1
MOST_OPENING_BYTES = 512  # of the text before a token are looked at for an opening


class ConstraintFailed(Exception):
    """The grammar library gave up on a grammar, or the tokens so far do not fit it."""


@dataclass(frozen=True, slots=True)
class Mask:
    """What may come next: a bit for each token, the lowest first. `is_greedy`: the most likely of these has to."""

    bits: bytes
    is_greedy: bool = False


class Matcher:
    """Follows one sequence's generated tokens. With an opening it holds stretches only; between these all is free."""

    def __init__(self, constraint: Constraint, compiled: LLMatcher, table: TokenTable) -> None:
        self._compiled = compiled
        self._table = table
        self._opening = re.compile(constraint.opening.encode(), re.DOTALL) if constraint.opening is not None else None
        self._held = compiled.deep_copy() if self._opening is None else None
        self._recent: deque[tuple[int, bytes]] = deque()
        self._text = b""
        self._forget_text()
        self._syntax = Syntax(*constraint.values) if constraint.values is not None else None

    def advance(self, token_ids: list[int]) -> None:
        """These were generated. Raises `ConstraintFailed`."""
        for token_id in token_ids:
            if self._held is None:
                self._look_for_opening(token_id)
            else:
                self._held.consume_token(token_id)
                self._check(self._held)
                self._read_syntax([token_id])
                if self._opening is not None and self._held.is_stopped():
                    self._held = None
                    self._forget_text()

    def mask(self) -> Mask | None:
        """What may come next; None for anything. Raises `ConstraintFailed`."""
        if self._held is None:
            return None
        bits = self._held.compute_bitmask()
        self._check(self._held)
        return Mask(bits, self._syntax is not None and not self._syntax.in_value)

    def _look_for_opening(self, token_id: int) -> None:
        assert self._opening is not None
        piece = self._table.bytes_of(token_id)
        self._recent.append((token_id, piece))
        self._text += piece
        while len(self._text) > MOST_OPENING_BYTES:
            self._text = self._text[len(self._recent.popleft()[1]) :]
        found = self._opening.search(self._text)
        if found is None:
            return
        num_bytes = 0
        for number, (_, piece) in enumerate(self._recent):
            if num_bytes == found.start("held"):
                self._hold([token_id for token_id, _ in islice(self._recent, number, None)])
                return
            num_bytes += len(piece)

    def _forget_text(self) -> None:
        """What comes next stands at the start of a line."""
        self._recent = deque([(NO_TOKEN, b"\n")])
        self._text = b"\n"

    def _hold(self, token_ids: list[int]) -> None:
        """From here on, unless what is there already fits nothing."""
        held = self._compiled.deep_copy()
        if held.try_consume_tokens(token_ids) == len(token_ids) and not held.is_error():
            self._held = held
            self._read_syntax(token_ids)

    def _read_syntax(self, token_ids: list[int]) -> None:
        if self._syntax is not None:
            self._syntax.feed(b"".join(map(self._table.bytes_of, token_ids)))

    def _check(self, held: LLMatcher) -> None:
        if held.is_error():
            raise ConstraintFailed(next(iter(held.get_error().splitlines()), "it does not fit"))
