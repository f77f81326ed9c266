"""Exact replay: an answer that comes back in a conversation is the tokens that were generated.

Text and calls have lost what the tokens had: where words were cut, spaces at the ends, the order of a call's arguments.
Encoded anew they would be other tokens than those the model's state has seen, and the answer would be read again. So
answers are remembered by the exact prompt they followed, and used where the message that comes back means the same.

Knows conversations and token ids; nothing of requests or engines.
"""

import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from server.chat.answer_store import AnswerStore, KnownAnswer
from server.chat.conversation import Message, ToolCall, parsed_arguments
from server.chat.events import GenerationEvent, TextDelta, ToolCallArguments, ToolCallStarted

DEFAULT_MAX_BYTES = 64 << 20
_ENTRY_BYTES = 1000  # of an answer, beside its text and ids
_KEY_BYTES = 16


class PromptKey:
    """The name of a growing token list and a salt; equal names mean equal lists."""

    def __init__(self, salt: str) -> None:
        self._hash = blake2b(salt.encode() + b"\0", digest_size=_KEY_BYTES)
        self._num_ids = 0

    def of(self, ids: Sequence[int], following: Sequence[int] = ()) -> bytes:
        """The name of `ids`, which only ever grow, and of what follows them."""
        self._hash.update(array("I", ids[self._num_ids :]).tobytes())
        self._num_ids = len(ids)
        whole = self._hash.copy()
        whole.update(array("I", following).tobytes())
        return whole.digest()


@dataclass
class Answer:
    """An answer in the making: what was generated, and the message that clients make of it."""

    ids: "array[int]" = field(default_factory=lambda: array("I"))
    _text: list[str] = field(default_factory=list)
    _calls: list[ToolCallStarted] = field(default_factory=list)
    _arguments: dict[int, list[str]] = field(default_factory=dict)

    def add(self, ids: Iterable[int], events: Iterable[GenerationEvent]) -> None:
        """More tokens, without one that only ended the answer, and the events they brought."""
        self.ids.extend(ids)
        for event in events:
            match event:
                case TextDelta():
                    self._text.append(event.text)
                case ToolCallStarted():
                    self._calls.append(event)
                case ToolCallArguments():
                    self._arguments.setdefault(event.index, []).append(event.fragment)

    def message(self) -> Message:
        """As it comes back from a client that changes nothing."""
        calls = tuple(
            ToolCall(call.id, call.name, parsed_arguments("".join(self._arguments.get(call.index, ()))))
            for call in self._calls
        )
        return Message("assistant", "".join(self._text), calls)


class History:
    """Remembers answers, least recently used out first. Safe to use from several threads."""

    def __init__(self, max_bytes: int = DEFAULT_MAX_BYTES, store: AnswerStore | None = None) -> None:
        """With a store, what earlier runs left is known, and what is remembered stays there."""
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._answers: OrderedDict[bytes, list[KnownAnswer]] = OrderedDict()
        self._lock = threading.Lock()
        self._store: AnswerStore | None = None
        for key, answer in store.take_found() if store else ():
            self._set(key, [*self._answers.get(key, ()), answer])
        self._store = store
        self._shrink()

    @property
    def num_bytes(self) -> int:
        """Bytes held, within a few percent."""
        return self._num_bytes

    def remember(self, salt: str, prompt_ids: Sequence[int], answer: Answer) -> None:
        """Keep an answer to a prompt; of several that mean the same, the last."""
        key, message = PromptKey(salt).of(prompt_ids), answer.message()
        with self._lock:
            others = [known for known in self._answers.get(key, ()) if not means_the_same(known.message, message)]
            self._set(key, [*others, KnownAnswer(salt, message, answer.ids)])
            self._shrink()

    def forget(self, salted: Callable[[str], bool]) -> None:
        """Drop all answers to prompts with such salts."""
        with self._lock:
            for key in [key for key, answers in self._answers.items() if salted(answers[0].salt)]:
                self._set(key, [])

    def close(self) -> None:
        """Write down what is not yet written."""
        if self._store is not None:
            self._store.close()

    def _shrink(self) -> None:
        while self._num_bytes > self._max_bytes:
            self._set(next(iter(self._answers)), [])

    def _set(self, key: bytes, answers: list[KnownAnswer]) -> None:
        """Let these be all to a prompt, and the latest."""
        self._num_bytes -= sum(map(_size, self._answers.pop(key, ())))
        self._num_bytes += sum(map(_size, answers))
        if answers:
            self._answers[key] = answers
        if self._store is not None:
            self._store.put(key, answers)

    def find(self, key: bytes, message: Message) -> "array[int] | None":
        """What was generated after the prompt of this name, if it means the same as `message`."""
        with self._lock:
            for known in self._answers.get(key, ()):
                if means_the_same(known.message, message):
                    self._answers.move_to_end(key)
                    return known.ids
        return None


class Replay:
    """The answers of one conversation that are known, in the order of its messages."""

    def __init__(self, history: History, salt: str, messages: Iterable[Message], opening_ids: Sequence[int]) -> None:
        """`opening_ids` is what stands between an assistant's control token and its answer."""
        self.num_replayed = 0
        self._history = history
        self._key = PromptKey(salt)
        self._answers = iter([message for message in messages if message.role == "assistant"])
        self._opening_ids = opening_ids

    def next_answer(self, ids: Sequence[int]) -> list[int] | None:
        """The ids of the next assistant's message, its opening included, if it was generated after just `ids`."""
        message = next(self._answers, None)
        if message is None:
            return None
        known = self._history.find(self._key.of(ids, self._opening_ids), message)
        if known is None:
            return None
        self.num_replayed += 1
        return [*self._opening_ids, *known]


def means_the_same(one: Message, other: Message) -> bool:
    """Whether two messages differ at most in spaces around the text and in how arguments are written.

    Arguments too deep to compare pass for different ones.
    """
    calls = [(call.name, call.arguments) for call in one.tool_calls]
    others = [(call.name, call.arguments) for call in other.tool_calls]
    if len(calls) != len(others) or one.content.strip() != other.content.strip():
        return False
    pairs = zip(calls, others, strict=True)
    try:
        return all(name == known and _is_same(value, known_value) for (name, value), (known, known_value) in pairs)
    except RecursionError:
        return False


def _is_same(one: Any, other: Any) -> bool:
    """Equal as JSON: true is not 1, while 1 and 1.0 are one number."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_same(value, other[name]) for name, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_is_same(*pair) for pair in zip(one, other, strict=True))
    return bool(one == other)


def _size(answer: KnownAnswer) -> int:
    calls = sum(len(call.name) + len(str(call.arguments)) for call in answer.message.tool_calls)
    return _ENTRY_BYTES + 2 * (len(answer.message.content) + calls) + len(answer.ids) * answer.ids.itemsize
