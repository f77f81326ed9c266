"""`CacheManager`: the only cache object the scheduler knows.

A running sequence holds one state slot and the KV blocks of its tokens. The manager keeps both pools and the
arithmetic between tokens and blocks; it knows no tensors and no sequences.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from engine.cache.pool import IdPool
from engine.errors import InvariantViolation


@dataclass(slots=True)
class Allocation:
    """What one running sequence holds."""

    slot: int
    block_ids: list[int]


class CacheManager:
    """Admits, grows and releases allocations. Running out is a normal answer, never an error."""

    def __init__(self, num_blocks: int, block_size: int, num_slots: int) -> None:
        self.block_size = block_size
        self._blocks = IdPool(num_blocks)
        self._slots = IdPool(num_slots)

    @property
    def num_blocks(self) -> int:
        return self._blocks.size

    @property
    def num_blocks_free(self) -> int:
        return self._blocks.num_free

    @property
    def num_slots_used(self) -> int:
        return self._slots.num_used

    @property
    def usage(self) -> float:
        """Share of the KV blocks in use, 0 to 1."""
        return self._blocks.num_used / self._blocks.size

    def admit(self, num_tokens: int, num_spare_blocks: int) -> Allocation | None:
        """A slot and the blocks for `num_tokens`, if that leaves `num_spare_blocks` free; else None."""
        num_blocks = self.num_blocks_for(num_tokens)
        if self._slots.num_free == 0 or num_blocks + num_spare_blocks > self._blocks.num_free:
            return None
        slots, block_ids = self._slots.take(1), self._blocks.take(num_blocks)
        assert slots is not None
        assert block_ids is not None
        return Allocation(slots[0], block_ids)

    def grow(self, allocation: Allocation, num_tokens: int) -> bool:
        """Make room for `num_tokens` in all; False, and nothing changed, when there are not enough blocks."""
        missing = self.num_blocks_for(num_tokens) - len(allocation.block_ids)
        if missing <= 0:
            return True
        block_ids = self._blocks.take(missing)
        if block_ids is None:
            return False
        allocation.block_ids.extend(block_ids)
        return True

    def release(self, allocation: Allocation) -> None:
        self._blocks.give_back(allocation.block_ids)
        self._slots.give_back([allocation.slot])

    def num_blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def check(self, live: Iterable[Allocation]) -> None:
        """Raise `InvariantViolation` unless exactly these allocations account for everything in use."""
        blocks: list[int] = []
        slots: list[int] = []
        for allocation in live:
            blocks.extend(allocation.block_ids)
            slots.append(allocation.slot)
        for name, ids, pool in (("blocks", blocks, self._blocks), ("slots", slots, self._slots)):
            if len(ids) != len(set(ids)):
                raise InvariantViolation(f"two sequences share {name}")
            if any(pool.is_free(i) for i in ids):
                raise InvariantViolation(f"a sequence holds {name} that were released")
            if len(ids) != pool.num_used:
                raise InvariantViolation(f"{pool.num_used} {name} in use, but running sequences hold {len(ids)}")
