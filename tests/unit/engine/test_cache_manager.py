"""Pools of ids, and the manager over them."""

import pytest

from engine.cache.manager import Allocation, CacheManager
from engine.cache.pool import IdPool
from engine.cache.prefix import Lineage
from engine.errors import InvariantViolation


def admitted(manager: CacheManager, num_tokens: int, num_spare_blocks: int = 0) -> Allocation:
    allocation = manager.admit(_lineage(num_tokens), num_spare_blocks)
    assert allocation is not None
    return allocation


def _lineage(num_tokens: int) -> Lineage:
    return Lineage(list(range(num_tokens)), 4)


def test_a_pool_hands_out_each_id_once() -> None:
    pool = IdPool(5)
    first, second = pool.take(2), pool.take(3)
    assert first is not None
    assert second is not None
    assert sorted(first + second) == [0, 1, 2, 3, 4]
    assert (pool.num_free, pool.num_used) == (0, 5)


def test_a_pool_takes_all_or_nothing() -> None:
    pool = IdPool(3)
    assert pool.take(4) is None
    assert pool.num_free == 3
    assert pool.take(0) == []


def test_what_is_given_back_can_be_taken_again() -> None:
    pool = IdPool(2)
    assert pool.take(2) is not None
    pool.give_back([1])
    assert pool.take(1) == [1]


def test_releasing_twice_is_a_violation() -> None:
    pool = IdPool(2)
    taken = pool.take(1)
    assert taken is not None
    pool.give_back(taken)
    with pytest.raises(InvariantViolation, match="released twice"):
        pool.give_back(taken)


@pytest.mark.parametrize(("num_tokens", "num_blocks"), [(0, 0), (1, 1), (63, 1), (64, 1), (65, 2), (128, 2), (129, 3)])
def test_blocks_for_tokens(num_tokens: int, num_blocks: int) -> None:
    assert CacheManager(1, 64, 1).num_blocks_for(num_tokens) == num_blocks


def test_admission_takes_a_slot_and_the_blocks() -> None:
    manager = CacheManager(num_blocks=10, block_size=4, num_slots=2)
    allocation = admitted(manager, 9)
    assert len(allocation.block_ids) == 3
    assert (manager.num_blocks_free, manager.num_slots_used, manager.usage) == (7, 1, 0.3)


def test_admission_leaves_the_spare_blocks() -> None:
    manager = CacheManager(num_blocks=4, block_size=4, num_slots=2)
    assert manager.admit(_lineage(9), num_spare_blocks=2) is None
    assert (manager.num_blocks_free, manager.num_slots_used) == (4, 0)
    assert admitted(manager, 9, num_spare_blocks=1)


def test_admission_needs_a_slot() -> None:
    manager = CacheManager(num_blocks=4, block_size=4, num_slots=1)
    admitted(manager, 1)
    assert manager.admit(_lineage(1), 0) is None
    assert manager.num_blocks_free == 3


def test_growing_keeps_the_blocks_in_place_and_adds_what_is_missing() -> None:
    manager = CacheManager(num_blocks=4, block_size=4, num_slots=1)
    allocation = admitted(manager, 4)
    before = list(allocation.block_ids)
    assert manager.grow(allocation, 4)
    assert allocation.block_ids == before
    assert manager.grow(allocation, 13)
    assert allocation.block_ids[:1] == before
    assert len(allocation.block_ids) == 4


def test_growing_that_does_not_fit_changes_nothing() -> None:
    manager = CacheManager(num_blocks=2, block_size=4, num_slots=1)
    allocation = admitted(manager, 4)
    assert not manager.grow(allocation, 12)
    assert (len(allocation.block_ids), manager.num_blocks_free) == (1, 1)


def test_releasing_gives_everything_back() -> None:
    manager = CacheManager(num_blocks=4, block_size=4, num_slots=1)
    allocation = admitted(manager, 6)
    manager.grow(allocation, 12)
    manager.release(allocation)
    assert (manager.num_blocks_free, manager.num_slots_used) == (4, 0)
    manager.check([])


def test_check_finds_a_leak() -> None:
    manager = CacheManager(num_blocks=4, block_size=4, num_slots=2)
    admitted(manager, 4)
    with pytest.raises(InvariantViolation, match="1 state slots in use, but 0 are held"):
        manager.check([])


def test_check_finds_a_shared_block_and_a_shared_slot() -> None:
    manager = CacheManager(num_blocks=4, block_size=4, num_slots=2)
    first, second = admitted(manager, 4), admitted(manager, 4)
    manager.check([first, second])
    with pytest.raises(InvariantViolation, match="other holders"):
        manager.check([first, Allocation(second.slot, list(first.block_ids))])
    with pytest.raises(InvariantViolation, match="share a state slot"):
        manager.check([first, Allocation(first.slot, second.block_ids)])


def test_check_finds_a_block_that_was_released_though_the_count_is_right() -> None:
    manager = CacheManager(num_blocks=4, block_size=4, num_slots=2)
    allocation = admitted(manager, 4)
    free = next(i for i in range(4) if i not in allocation.block_ids)
    with pytest.raises(InvariantViolation, match="other holders"):
        manager.check([Allocation(allocation.slot, [free])])


def test_beyond_the_slots_a_sequence_may_have_a_checkpoints() -> None:
    manager = CacheManager(num_blocks=20, block_size=4, num_slots=1, num_checkpoints=2)
    first = admitted(manager, 4)
    assert not manager.has_slot()
    assert manager.has_slot(num_extra=1)
    second = manager.admit(_lineage(4), 0, num_extra=1)
    assert second is not None
    assert (manager.has_slot(1), manager.has_slot(2)) == (False, True)
    manager.check([first, second])
    for allocation in (first, second):
        manager.retire(allocation, _lineage(4), 4, is_answer=False)
    assert manager.num_checkpoints_kept == 1  # both had read the same
    manager.check([])


def test_without_memory_for_checkpoints_there_is_nothing_beyond_the_slots() -> None:
    manager = CacheManager(num_blocks=20, block_size=4, num_slots=1)
    admitted(manager, 4)
    assert not manager.has_slot(num_extra=3)
    assert manager.admit(_lineage(4), 0, num_extra=3) is None


def test_what_it_starts_from_does_not_go_for_its_own_slot() -> None:
    manager = CacheManager(num_blocks=20, block_size=4, num_slots=1, num_checkpoints=1)
    manager.retire(admitted(manager, 9), _lineage(9), 8, is_answer=False)
    other = manager.admit(Lineage(list(range(50, 59)), 4), 0)
    assert other is not None
    assert manager.admit(_lineage(12), 0, num_extra=1) is None
    assert manager.num_checkpoints_kept == 1
    manager.check([other])
