"""Copies of states in the host's memory: what was copied comes back bit by bit, whatever happened to the original."""

import pytest
import torch

from engine.filing import FileDamaged, Transfer
from engine.runner.host_states import StatesInMemory
from engine.runner.storage import Storage
from tests.unit.runner.test_state_files import key, storage, transfer


def contents(memory: Storage, what: Transfer) -> list[torch.Tensor]:
    """Copies of all that a transfer moves."""
    parts = memory.state_parts(what.slot)
    for _, block_id in what.blocks:
        parts += memory.block_parts(block_id)
    if what.tail is not None:
        parts += [part[: what.tail[1]] for part in memory.block_parts(what.tail[0])]
    return [part.clone() for part in parts]


def kept(memory: Storage) -> StatesInMemory:
    """With one state in it."""
    copies = StatesInMemory(memory)
    copies.write(transfer())
    copies.publish(transfer())
    return copies


@pytest.mark.parametrize("tail", [(5, 3), None])
def test_what_is_copied_comes_back_elsewhere(tail: tuple[int, int] | None) -> None:
    memory = storage(1)
    copies = StatesInMemory(memory)
    given = transfer(tail=tail)
    before = contents(memory, given)
    copies.write(given)
    copies.publish(given)
    for parts in (memory.state_parts(2), *(memory.block_parts(i) for i in (0, 3, 5))):
        for part in parts:
            part.zero_()
    taken = transfer(slot=4, block_ids=(1, 2), tail=(4, 3) if tail else None)
    copies.read(taken)
    assert all(torch.equal(a, b) for a, b in zip(before, contents(memory, taken), strict=True))


def test_of_the_last_block_only_its_own_tokens_are_written() -> None:
    memory = storage(1)
    copies = kept(memory)
    rest = [part[3:].clone() for part in memory.block_parts(4)]
    copies.read(transfer(slot=4, block_ids=(1, 2), tail=(4, 3)))
    assert all(torch.equal(a, part[3:]) for a, part in zip(rest, memory.block_parts(4), strict=True))


def test_what_was_not_published_is_not_there() -> None:
    copies = StatesInMemory(storage(1))
    copies.write(transfer())
    with pytest.raises(FileDamaged) as caught:
        copies.read(transfer())
    assert caught.value.block == key(1)
    copies.discard(transfer())
    with pytest.raises(FileDamaged):
        copies.read(transfer())
    assert copies.known() == []


def test_what_was_let_go_is_not_there() -> None:
    copies = kept(storage(1))
    copies.remove([transfer().state.name, "never there"], [])
    with pytest.raises(FileDamaged) as caught:
        copies.read(transfer())
    assert caught.value.block is None
    copies = kept(storage(1))
    copies.remove([], [key(2), b"never there"])
    with pytest.raises(FileDamaged) as caught:
        copies.read(transfer())
    assert caught.value.block == key(2)


def test_nothing_begins_after_the_end() -> None:
    copies = kept(storage(1))
    copies.close()
    with pytest.raises(InterruptedError):
        copies.read(transfer())
    with pytest.raises(InterruptedError):
        copies.write(transfer())
