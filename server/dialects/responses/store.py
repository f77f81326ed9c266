"""`ResponseStore`: responses that are kept for a while in memory, so that clients can fetch them and go on from them.

Lives here: who may see which, for how long, and how much there may be of it. It may not know HTTP, events or prompts.

A response holds on to the turns before it, so a conversation can go on from its last response when the others are gone;
what several hold counts once.
"""

import json
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from server.json_text import to_json

MAX_RESPONSES = 1024
MAX_BYTES = 64 << 20
KEEP_SECONDS = 3600.0  # since it was last asked for
_ENTRY_BYTES = 1000  # of a turn, beside its items
_ITEM_BYTES = 300  # of an item, beside its text

Item = dict[str, Any]
Key = tuple[str, str]  # whose, and the id


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """What one response added to a conversation, as JSON: its input and its output. `before` is all before that."""

    items: tuple[bytes, ...]
    ids: tuple[str, ...]
    before: "Turn | None" = None

    @staticmethod
    def of(items: Sequence[Item], before: "Turn | None") -> "Turn":
        """Each of the items has an id."""
        return Turn(tuple(map(to_json, items)), tuple(item["id"] for item in items), before)

    @property
    def num_bytes(self) -> int:
        """About what it takes."""
        return _ENTRY_BYTES + sum(map(len, self.items)) + _ITEM_BYTES * len(self.items)

    def back(self) -> "Iterator[Turn]":
        """This one, then those before it."""
        turn: Turn | None = self
        while turn is not None:
            yield turn
            turn = turn.before

    def conversation(self) -> list[Item]:
        """Everything that was said, from the beginning."""
        return [json.loads(item) for turn in reversed([*self.back()]) for item in turn.items]


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """One response: the object as JSON, its turn, and how many of that one's items were its input."""

    response: bytes
    status: str
    turn: Turn
    num_inputs: int

    @property
    def inputs(self) -> list[Item]:
        """What it answered, without what was said before."""
        return [json.loads(item) for item in self.turn.items[: self.num_inputs]]


class ResponseStore:
    """Responses of all clients, each seen by its own alone; least recently used out first."""

    def __init__(
        self,
        max_responses: int = MAX_RESPONSES,
        max_bytes: int = MAX_BYTES,
        keep_seconds: float = KEEP_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_responses = max_responses
        self._max_bytes = max_bytes
        self._keep_seconds = keep_seconds
        self._clock = clock
        self._stored: OrderedDict[Key, tuple[Stored, float]] = OrderedDict()  # and when it was last asked for
        self._holders: Counter[Turn] = Counter()
        self._items: dict[Key, tuple[bytes, Turn]] = {}
        self._num_bytes = 0

    @property
    def num_bytes(self) -> int:
        """Bytes held, within a few percent."""
        return self._num_bytes

    def __len__(self) -> int:
        return len(self._stored)

    def put(self, owner: str, response_id: str, stored: Stored) -> None:
        """Keep a response. One that is larger than all there may be is not kept."""
        self._drop((owner, response_id))
        if len(stored.response) + sum(turn.num_bytes for turn in stored.turn.back()) > self._max_bytes:
            return  # others would be gone before this one is
        self._stored[owner, response_id] = stored, self._clock()
        self._num_bytes += len(stored.response)
        for turn in stored.turn.back():
            self._holders[turn] += 1
            if self._holders[turn] == 1:
                self._num_bytes += turn.num_bytes
                self._items.update(
                    ((owner, name), (item, turn)) for name, item in zip(turn.ids, turn.items, strict=True)
                )
        self._tidy()

    def get(self, owner: str, response_id: str) -> Stored | None:
        """One of the owner's responses, which counts as a use of it."""
        self._tidy()
        found = self._stored.get((owner, response_id))
        if found is None:
            return None
        self._stored[owner, response_id] = found[0], self._clock()
        self._stored.move_to_end((owner, response_id))
        return found[0]

    def item(self, owner: str, item_id: str) -> Item | None:
        """An item of one of the owner's responses."""
        self._tidy()
        found = self._items.get((owner, item_id))
        return None if found is None else dict(json.loads(found[0]))

    def delete(self, owner: str, response_id: str) -> bool:
        """Forget a response; whether there was one. What others that followed it hold on to stays."""
        self._tidy()
        return self._drop((owner, response_id))

    def _tidy(self) -> None:
        """Drop what has had its time, and what there is too much of."""
        oldest = self._clock() - self._keep_seconds
        while self._stored:
            key, (_, used) = next(iter(self._stored.items()))
            if used > oldest and len(self._stored) <= self._max_responses and self._num_bytes <= self._max_bytes:
                return
            self._drop(key)

    def _drop(self, key: Key) -> bool:
        found = self._stored.pop(key, None)
        if found is None:
            return False
        self._num_bytes -= len(found[0].response)
        for turn in found[0].turn.back():
            self._holders[turn] -= 1
            if not self._holders[turn]:
                self._let_go(key[0], turn)
        return True

    def _let_go(self, owner: str, turn: Turn) -> None:
        del self._holders[turn]
        self._num_bytes -= turn.num_bytes
        for name in turn.ids:
            if self._items.get((owner, name), (b"", None))[1] is turn:
                del self._items[owner, name]
