"""`CacheManager`: the only cache object the scheduler knows.

A running sequence holds one state slot and the KV blocks of its tokens. What nobody holds keeps checkpoints: states of
prefixes that may come again, with their blocks. Who runs goes before what is kept. The manager keeps the pools, the
checkpoints and the arithmetic between tokens and blocks; it knows no tensors and no sequences.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from heapq import nsmallest
from itertools import chain

from engine.cache.checkpoints import Checkpoint, Checkpoints, KnownPrefix
from engine.cache.pool import IdPool, SharedPool
from engine.cache.prefix import Lineage
from engine.errors import InvariantViolation
from engine.types import CacheTier

RANKED_TOGETHER = 32  # checkpoints, for one to go: with many of them ranking takes longer than one should wait


@dataclass(slots=True)
class Allocation:
    """What one running sequence holds.

    Attributes:
        hit: the checkpoint it starts from, pinned until the step that restores it has ended.
        reserved: slots that the step in flight fills, with the positions they are for.
        num_turns: see `Checkpoint`.
    """

    slot: int
    block_ids: list[int]
    hit: Checkpoint | None = None
    reserved: list[tuple[int, int]] = field(default_factory=list)
    num_turns: int = 0


@dataclass(slots=True, eq=False)
class Arrival:
    """Room for a state on its way into memory; it becomes a checkpoint when it is there."""

    checkpoint: Checkpoint
    num_shared_blocks: int
    is_wanted: bool = True


class CacheManager:
    """Admits, grows and releases allocations, and keeps what they leave. Running out is a normal answer, no error."""

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        num_slots: int,
        num_checkpoints: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.block_size = block_size
        self.num_checkpoints = num_checkpoints
        self.num_evictions = 0
        self.num_changes = 0
        self._num_slots = num_slots
        self._num_running = 0
        self._clock = clock
        self._blocks = SharedPool(num_blocks)
        self._slots = IdPool(num_slots + num_checkpoints)
        self._checkpoints = Checkpoints[Checkpoint](block_size)
        self._arriving: list[Arrival] = []
        self._next_to_go: list[tuple[Checkpoint, float, int]] = []

    @property
    def num_blocks(self) -> int:
        return self._blocks.size

    @property
    def num_blocks_free(self) -> int:
        """Blocks that a running sequence may take, what is only kept included."""
        return self._blocks.size - self._blocks.num_live

    @property
    def num_slots_used(self) -> int:
        """Slots of running sequences."""
        return self._num_running

    @property
    def num_slots_free(self) -> int:
        """Slots that more sequences may run in, what is only kept left alone."""
        return max(0, self._num_slots - self._num_running)

    def has_slot(self, num_extra: int = 0) -> bool:
        """Whether one more sequence may run: beside those there are slots for, `num_extra` may have a checkpoint's."""
        if self._num_running < self._num_slots:
            return True
        return self._num_running < self._num_slots + num_extra and self._has_checkpoint_room(is_side=True)

    @property
    def num_checkpoints_kept(self) -> int:
        return len(self._checkpoints)

    @property
    def num_blocks_kept(self) -> int:
        """Blocks that nobody runs with, and checkpoints have."""
        return self._blocks.size - self._blocks.num_free - self._blocks.num_live

    @property
    def checkpoints(self) -> Iterable[Checkpoint]:
        """All that are kept, to look at."""
        return self._checkpoints

    @property
    def usage(self) -> float:
        """Share of the KV blocks that running sequences hold, 0 to 1."""
        return self._blocks.num_live / self._blocks.size

    # --- running sequences ----------------------------------------------------------------------------------------

    def match(self, lineage: Lineage, most: int | None = None) -> Checkpoint | None:
        """Where a sequence of these tokens could start, after `most` tokens at the latest: the last one is always
        computed."""
        last = len(lineage.tokens) - 1
        return self._checkpoints.longest(lineage, last if most is None else min(most, last))

    def admit(
        self, lineage: Lineage, num_spare_blocks: int, most: int | None = None, num_extra: int = 0
    ) -> Allocation | None:
        """A slot and the blocks for all tokens, if that leaves `num_spare_blocks` free; else None. See `match` and
        `has_slot`."""
        if not self.has_slot(num_extra):
            return None
        hit = self.match(lineage, most)
        while not self._fits(lineage, hit, num_spare_blocks):
            if hit is None or self._num_running:
                return None
            # Nobody will give anything back. A copy of a block that is not full takes one more than reading it again.
            hit = self._checkpoints.longest(lineage, hit.position - 1)
        shared = self._shared_blocks(hit)
        num_new = self.num_blocks_for(len(lineage.tokens)) - len(shared)
        if hit is not None:
            self._pin(hit)
            self._blocks.hold(shared, live=True)
        if self._num_running >= self._num_slots and not self._make_checkpoint_room(is_side=True):
            assert hit is not None  # it has the only slot there could be
            self._blocks.let_go(shared, live=True)
            self._unpin(hit)
            return None
        block_ids, slot = self._take_blocks(num_new), self._take_slot()
        assert block_ids is not None
        self._num_running += 1
        num_turns = hit.num_turns + hit.is_answer if hit else 0
        return Allocation(slot, shared + block_ids, hit, num_turns=num_turns)

    def _shared_blocks(self, hit: Checkpoint | None) -> list[int]:
        """The blocks that a sequence has in common with what it starts from: the full ones."""
        return list(hit.block_ids[: hit.position // self.block_size]) if hit else []

    def _fits(self, lineage: Lineage, hit: Checkpoint | None, num_spare_blocks: int) -> bool:
        num_new = self.num_blocks_for(len(lineage.tokens)) - len(self._shared_blocks(hit))
        num_revived = sum(not self._blocks.is_live(i) for i in (hit.block_ids if hit else ()))
        return num_new + num_revived + num_spare_blocks <= self.num_blocks_free

    def num_blocks_after(self, leaving: Allocation) -> int:
        """Blocks that a running sequence could take if this one left; none if its state could not be kept."""
        if not self.num_checkpoints or not self._has_checkpoint_room(leaving.num_turns == 0, is_leaving=True):
            return 0
        return self.num_blocks_free + sum(self._blocks.num_live_holders(i) == 1 for i in leaving.block_ids)

    def num_lost_tokens(self, lineage: Lineage, num_computed_tokens: int, num_blocks: int) -> int:
        """How many tokens a sequence would compute again that left so many computed ones and then lost some blocks, the
        last ones first."""
        most = max(0, num_computed_tokens - num_blocks * self.block_size)
        kept = self._checkpoints.longest(lineage, most)
        return num_computed_tokens - (kept.position if kept else 0)

    def grow(self, allocation: Allocation, num_tokens: int) -> bool:
        """Make room for `num_tokens` in all; False, and nothing changed, when there are not enough blocks."""
        missing = self.num_blocks_for(num_tokens) - len(allocation.block_ids)
        if missing <= 0:
            return True
        block_ids = self._take_blocks(missing)
        if block_ids is None:
            return False
        allocation.block_ids.extend(block_ids)
        return True

    def restored(self, allocation: Allocation) -> None:
        """The checkpoint that the allocation starts from was copied: it may go."""
        if allocation.hit is not None:
            self._unpin(allocation.hit)
            allocation.hit = None

    def release(self, allocation: Allocation) -> None:
        """Give everything back, and keep nothing."""
        self.restored(allocation)
        self.drop_reserved(allocation)
        self._blocks.let_go(allocation.block_ids, live=True)
        self._slots.give_back([allocation.slot])
        self._num_running -= 1

    def num_blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    # --- checkpoints ----------------------------------------------------------------------------------------------

    def reserve(self, allocation: Allocation, lineage: Lineage, position: int) -> int | None:
        """A slot for the state after `position` tokens, which the step being planned fills; None: no need or room."""
        if not self.num_checkpoints or self._is_known(lineage, position):
            return None
        if not self._make_checkpoint_room(is_side=allocation.num_turns == 0):
            return None
        slot = self._take_slot()
        allocation.reserved.append((position, slot))
        return slot

    def commit(self, allocation: Allocation, lineage: Lineage) -> None:
        """The step has filled what was reserved: from now on it can be continued from."""
        reserved, allocation.reserved = allocation.reserved, []
        for position, slot in reserved:
            if self._is_known(lineage, position):  # by one that was computed at the same time
                self._slots.give_back([slot])
            else:
                self._keep(allocation, lineage, position, slot, is_answer=False)

    def drop_reserved(self, allocation: Allocation) -> None:
        """The step has failed."""
        self._slots.give_back(slot for _, slot in allocation.reserved)
        allocation.reserved = []

    def retire(self, allocation: Allocation, lineage: Lineage, num_computed_tokens: int, is_answer: bool) -> None:
        """Give back what a sequence held, but keep its state as it is, which costs no copy."""
        worth_it = num_computed_tokens > 0 and not self._is_known(lineage, num_computed_tokens)
        is_side = allocation.num_turns == 0
        if not self.num_checkpoints or not worth_it or not self._make_checkpoint_room(is_side, is_leaving=True):
            self.release(allocation)
            return
        self.restored(allocation)
        self.drop_reserved(allocation)
        self._keep(allocation, lineage, num_computed_tokens, allocation.slot, is_answer)
        self._blocks.let_go(allocation.block_ids, live=True)
        self._num_running -= 1

    def forget(self, salted: Callable[[str], bool]) -> int:
        """Drop all checkpoints with such salts, but those in use; how many that were."""
        return self._forget(lambda known: salted(known.lineage.salt))

    def forget_prefixes(self, lineage: Lineage) -> int:
        """Drop all checkpoints that a sequence of these tokens could start from, but those in use."""
        return self._forget(lambda known: known.is_prefix_of(lineage))

    def _forget(self, is_meant: Callable[[Checkpoint], bool]) -> int:
        unused = [c for c in self._checkpoints if not c.num_pins and is_meant(c)]
        for checkpoint in unused:
            self._remove(checkpoint)
        for arrival in self._arriving:
            arrival.is_wanted = arrival.is_wanted and not is_meant(arrival.checkpoint)
        return len(unused)

    def has(self, lineage: Lineage, position: int) -> bool:
        """Whether the state after so many of these tokens is kept."""
        return self._checkpoints.at(lineage, position) is not None

    def is_kept(self, checkpoint: Checkpoint) -> bool:
        """Whether it is still what it was: its slot and blocks have not been given to others since it was made."""
        return self._checkpoints.at(checkpoint.lineage, checkpoint.position) is checkpoint

    # --- what comes from another tier -----------------------------------------------------------------------------

    def expect(self, known: KnownPrefix, lineage: Lineage, tier: CacheTier) -> Arrival | None:
        """Room for a state that a sequence of these tokens wants; None while there is none. What blocks memory has of
        the same prefix are shared. Those who run keep a spare block each, as when one more is admitted."""
        hit = self._checkpoints.longest(lineage, known.position - 1)
        shared = self._shared_blocks(hit)
        num_new = self.num_blocks_for(known.position) - len(shared)
        num_revived = sum(not self._blocks.is_live(i) for i in shared)
        if num_new + num_revived + self._num_running > self.num_blocks_free:
            return None
        self._blocks.hold(shared, live=True)  # not to be evicted for the rest
        if not self._make_checkpoint_room(is_side=known.num_turns + known.is_answer == 0):
            self._blocks.let_go(shared, live=True)
            return None
        block_ids, slot, now = self._take_blocks(num_new), self._take_slot(), self._clock()
        assert block_ids is not None
        origin = (lineage, known.position, known.num_turns, known.is_answer)
        checkpoint = Checkpoint(*origin, now, slot, (*shared, *block_ids), now, saved_in={tier})
        arrival = Arrival(checkpoint, len(shared))
        self._arriving.append(arrival)
        return arrival

    def arrived(self, arrival: Arrival, is_sound: bool) -> None:
        """The state is there, and can be continued from; or it is not."""
        self._arriving.remove(arrival)
        checkpoint = arrival.checkpoint
        if is_sound and arrival.is_wanted and not self._is_known(checkpoint.lineage, checkpoint.position):
            self._blocks.hold(checkpoint.block_ids, live=False)
            self._enter(checkpoint)
        else:
            self._slots.give_back([checkpoint.slot])
        self._blocks.let_go(checkpoint.block_ids, live=True)

    def _is_known(self, lineage: Lineage, position: int) -> bool:
        known = self._checkpoints.at(lineage, position)
        if known is None:
            return False
        known.use(self._clock())
        return True

    def _keep(self, allocation: Allocation, lineage: Lineage, position: int, slot: int, is_answer: bool) -> None:
        block_ids = tuple(allocation.block_ids[: self.num_blocks_for(position)])
        self._blocks.hold(block_ids, live=False)
        now = self._clock()
        checkpoint = Checkpoint(lineage, position, allocation.num_turns, is_answer, now, slot, block_ids, now)
        self._enter(checkpoint)

    def _enter(self, checkpoint: Checkpoint) -> None:
        self._checkpoints.add(checkpoint)
        checkpoint.use(self._clock())
        self.num_changes += 1

    def _pin(self, checkpoint: Checkpoint) -> None:
        checkpoint.num_pins += 1
        checkpoint.num_hits += 1
        checkpoint.use(self._clock())
        self._blocks.hold(checkpoint.block_ids, live=True)

    def _unpin(self, checkpoint: Checkpoint) -> None:
        checkpoint.num_pins -= 1
        self._blocks.let_go(checkpoint.block_ids, live=True)

    # --- eviction -------------------------------------------------------------------------------------------------

    def _take_blocks(self, count: int) -> list[int] | None:
        """Free blocks, at the cost of checkpoints if need be."""
        if count > self.num_blocks_free:
            return None
        while count > self._blocks.num_free:
            self._evict_for_blocks()
        return self._blocks.take(count)

    def _take_slot(self) -> int:
        """There is one: checkpoints never take those of sequences that may yet run."""
        slots = self._slots.take(1)
        assert slots is not None
        return slots[0]

    def _make_checkpoint_room(self, is_side: bool, is_leaving: bool = False) -> bool:
        """A slot beside those for running sequences, or for the state of one that is leaving its own; False when only
        what a live conversation needs could go."""
        if self._has_spare_slot(is_leaving):
            return True
        least = self._least_to_evict(is_side)
        if least is not None:
            self._evict(least)
        return least is not None

    def _has_checkpoint_room(self, is_side: bool, is_leaving: bool = False) -> bool:
        """Whether `_make_checkpoint_room` would have one."""
        return self._has_spare_slot(is_leaving) or self._least_to_evict(is_side) is not None

    def _has_spare_slot(self, is_leaving: bool) -> bool:
        num_running = self._num_running - is_leaving
        num_to_spare = self._slots.num_free - max(0, self._num_slots - num_running)
        return num_to_spare >= (0 if is_leaving else 1)

    def _least_to_evict(self, is_side: bool) -> Checkpoint | None:
        least = self._least() or self._least(anew=True)
        return None if least is None or (is_side and least.is_protected(self._clock())) else least

    def _least(self, anew: bool = False) -> Checkpoint | None:
        """The one worth least of those that nobody uses; several are ranked together, and looked at one by one."""
        if anew:
            now = self._clock()
            unused = [c for c in self._checkpoints if not c.num_pins]
            ranked = nsmallest(1 + len(unused) // RANKED_TOGETHER, unused, key=self._rank)
            first = [c for c in ranked if not c.is_protected(now)] or ranked[:1]
            self._next_to_go = [(c, c.last_used, len(c.children)) for c in first]
        for checkpoint, last_used, num_children in self._next_to_go:
            is_same = checkpoint.last_used == last_used and len(checkpoint.children) == num_children
            if is_same and not checkpoint.num_pins and self.is_kept(checkpoint):
                return checkpoint
        return None

    def _evict_for_blocks(self) -> None:
        """One whose last block nobody else has, if there is one: of the others no block would become free at once."""
        idle = [c for c in self._checkpoints if c.block_ids and not self._blocks.is_live(c.block_ids[-1])]
        alone = [c for c in idle if self._blocks.num_holders(c.block_ids[-1]) == 1]
        self._evict(min(alone or idle, key=self._rank))

    def _rank(self, checkpoint: Checkpoint) -> tuple[bool, float]:
        now = self._clock()
        return checkpoint.is_protected(now), checkpoint.value(now)

    def _evict(self, checkpoint: Checkpoint) -> None:
        self.num_evictions += 1
        self._remove(checkpoint)

    def _remove(self, checkpoint: Checkpoint) -> None:
        self._checkpoints.remove(checkpoint)
        self.num_changes += 1
        parent = checkpoint.parent
        if isinstance(parent, Checkpoint) and not parent.children:  # an end that was none before
            parent.made, parent.saved_in = self._clock(), set()
        self._blocks.let_go(checkpoint.block_ids, live=False)
        self._slots.give_back([checkpoint.slot])

    def check(self, live: Iterable[Allocation]) -> None:
        """Raise `InvariantViolation` unless these allocations and the checkpoints account for everything in use."""
        live = list(live)
        kept, arriving = list(self._checkpoints), [a.checkpoint for a in self._arriving]
        slots = [a.slot for a in live] + [slot for a in live for _, slot in a.reserved]
        slots += [c.slot for c in chain(kept, arriving)]
        if len(slots) != len(set(slots)):
            raise InvariantViolation("two share a state slot")
        if any(self._slots.is_free(slot) for slot in slots):
            raise InvariantViolation("a state slot is held that was released")
        if len(slots) != self._slots.num_used or len(live) != self._num_running:
            raise InvariantViolation(f"{self._slots.num_used} state slots in use, but {len(slots)} are held")
        holders = [0] * self._blocks.size
        for i in chain.from_iterable([a.block_ids for a in live] + [list(c.block_ids) for c in arriving]):
            holders[i] += 1
        for checkpoint in kept:
            for i in checkpoint.block_ids:
                holders[i] += 1 + checkpoint.num_pins
        if any(count != self._blocks.num_holders(i) for i, count in enumerate(holders)):
            raise InvariantViolation("blocks have other holders than those that hold them")
        if sum(c.num_pins for c in kept) != sum(a.hit is not None for a in live):
            raise InvariantViolation("checkpoints are pinned by nobody")
