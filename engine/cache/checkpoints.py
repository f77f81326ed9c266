"""`Checkpoints`: which states of which token prefixes are kept, and which of them is worth least.

A recurrent state cannot be cut: it is good for continuing after exactly the tokens it has seen. A checkpoint is a copy
of one, with the KV blocks of the same tokens. Checkpoints form a tree by their prefixes; each tier has its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Generic, TypeVar

from engine.cache.prefix import Lineage
from engine.types import CacheTier

LIVE_SECONDS = 900.0
FORGIVEN_SECONDS = 60.0
# How likely somebody comes back, against where a conversation is known to go on.
NEW_END, BEFORE_END, INSIDE = 0.3, 0.5, 0.1


@dataclass(slots=True, eq=False)
class KnownPrefix:
    """That the state after the first `position` tokens of some sequence is kept, wherever that is.

    Attributes:
        lineage: the sequence, or more of it.
        num_turns: how often an answer's end was continued on the way here: zero for a conversation's first turn.
        is_answer: it stands at the end of an answer, where the conversation's next turn begins.
        last_used: when it, or one after it, was made or continued from.
        num_hits: how often it was continued from.
        parent, children: the nearest ones before and after it.
    """

    lineage: Lineage
    position: int
    num_turns: int
    is_answer: bool
    last_used: float
    num_hits: int = field(default=0, kw_only=True)
    parent: "KnownPrefix | None" = field(default=None, kw_only=True)
    children: "list[KnownPrefix]" = field(default_factory=list, kw_only=True)

    def use(self, now: float) -> None:
        """Note that its conversation goes on."""
        known: KnownPrefix | None = self
        while known is not None:
            known.last_used = now
            known = known.parent

    def is_prefix_of(self, lineage: Lineage) -> bool:
        """Whether these tokens begin with all that it has read."""
        return self.position <= lineage.num_common_tokens(self.lineage)

    def value(self, now: float) -> float:
        """Tokens that somebody may be saved: those it has beyond the one before it, if they come back."""
        if self._is_end:
            likely = 1.0 if self._goes_on else NEW_END
        elif not self.children or any(child._is_end for child in self.children):
            likely = BEFORE_END  # where one goes on who asks again, or sends the answer back as another one
        else:
            likely = INSIDE * (1 + self.num_hits)
        return self.num_beyond * likely * (FORGIVEN_SECONDS / (now - self.last_used + FORGIVEN_SECONDS)) ** 2

    @property
    def num_beyond(self) -> int:
        """Tokens that it has and the one before it has not."""
        return self.position - (self.parent.position if self.parent else 0)

    def is_protected(self, now: float) -> bool:
        """Whether it is where a live conversation will go on, which no side request may end."""
        return self._goes_on and self._is_end and now - self.last_used < LIVE_SECONDS

    @property
    def _is_end(self) -> bool:
        return self.is_answer and not self.children

    @property
    def _goes_on(self) -> bool:
        return self.num_turns > 0 or self.lineage.session is not None


@dataclass(slots=True, eq=False)
class Checkpoint(KnownPrefix):
    """One in memory.

    Attributes:
        slot: where the state is.
        block_ids: the KV blocks of the prefix; the last one may be partly another's.
        made: when, or when it last became an end.
        num_pins: plans in flight that read it.
        saved_in: lower tiers that have it, or have no use for it.
    """

    slot: int
    block_ids: tuple[int, ...]
    made: float
    num_pins: int = field(default=0, kw_only=True)
    saved_in: set[CacheTier] = field(default_factory=set, kw_only=True)


Kept = TypeVar("Kept", bound=KnownPrefix)


class Checkpoints(Generic[Kept]):
    """Finds checkpoints by prefix."""

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._by_key: dict[bytes, list[Kept]] = {}
        self._roots: list[KnownPrefix] = []

    def __len__(self) -> int:
        return sum(map(len, self._by_key.values()))

    def __iter__(self) -> Iterator[Kept]:
        return chain.from_iterable(self._by_key.values())

    def longest(self, lineage: Lineage, limit: int) -> Kept | None:
        """The one of the longest prefix with at most `limit` tokens."""
        for key in reversed(lineage.keys_up_to(limit // self._block_size)):
            known = self._by_key.get(key, ())
            fitting = [c for c in known if c.position <= limit and self._has_tail(c, lineage)]
            if fitting:
                return max(fitting, key=lambda c: c.position)
        return None

    def at(self, lineage: Lineage, position: int) -> Kept | None:
        """The one of just the first `position` tokens."""
        known = self._by_key.get(lineage.key(position // self._block_size), ())
        return next((c for c in known if c.position == position and self._has_tail(c, lineage)), None)

    def add(self, checkpoint: Kept) -> None:
        """Enter one whose prefix has none yet."""
        parent = self.longest(checkpoint.lineage, checkpoint.position - 1)
        siblings = self._children_of(parent)
        checkpoint.parent = parent
        checkpoint.children = [other for other in siblings if self._begins_with(other, checkpoint)]
        for other in checkpoint.children:
            other.parent = checkpoint
            siblings.remove(other)
        siblings.append(checkpoint)
        self._by_key.setdefault(self._key(checkpoint), []).append(checkpoint)

    def remove(self, checkpoint: Kept) -> None:
        """Forget one; what came after it comes after the one before it."""
        key, siblings = self._key(checkpoint), self._children_of(checkpoint.parent)
        self._by_key[key].remove(checkpoint)
        if not self._by_key[key]:
            del self._by_key[key]
        siblings.remove(checkpoint)
        siblings.extend(checkpoint.children)
        for child in checkpoint.children:
            child.parent = checkpoint.parent

    def _children_of(self, parent: KnownPrefix | None) -> list[KnownPrefix]:
        return self._roots if parent is None else parent.children

    def _key(self, checkpoint: KnownPrefix) -> bytes:
        return checkpoint.lineage.key(checkpoint.position // self._block_size)

    def _begins_with(self, longer: KnownPrefix, shorter: KnownPrefix) -> bool:
        if longer.position <= shorter.position:
            return False
        key = longer.lineage.key(shorter.position // self._block_size)
        return key == self._key(shorter) and self._has_tail(shorter, longer.lineage)

    def _has_tail(self, checkpoint: KnownPrefix, lineage: Lineage) -> bool:
        """Whether the tokens after its last whole block are the same; for those before, the names were compared."""
        position = checkpoint.position
        start = position - position % self._block_size
        return list(checkpoint.lineage.tokens[start:position]) == list(lineage.tokens[start:position])
