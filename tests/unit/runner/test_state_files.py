"""States and KV blocks as files: what is written comes back bit by bit, and what was not written never does."""

import os
from array import array
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

import pytest
import torch

from engine.batch import PagedKV, RecurrentState
from engine.filing import FileDamaged, FiledState, Transfer
from engine.runner import state_files
from engine.runner.cache_folder import CacheFolder
from engine.runner.sealed import read_head, read_sealed, write_sealed
from engine.runner.state_files import FolderOfStates
from engine.runner.storage import Storage

IDENTITY, OTHER = "1" * 32, "2" * 32
BLOCK_SIZE = 4


def storage(seed: int) -> Storage:
    """Two layers of each kind, filled with random numbers."""
    generator = torch.Generator().manual_seed(seed)

    def paged() -> PagedKV:
        keys, values = (torch.randn(6, BLOCK_SIZE, 2, 8, generator=generator).bfloat16() for _ in range(2))
        return PagedKV(keys, values)

    def recurrent() -> RecurrentState:
        return RecurrentState(torch.randn(5, 3, 4, 4, generator=generator), torch.randn(5, 3, 7, generator=generator))

    return Storage((recurrent(), paged(), recurrent(), paged()))


def key(number: int) -> bytes:
    return blake2b(bytes([number]), digest_size=16).digest()


def transfer(slot: int = 2, block_ids: tuple[int, ...] = (3, 0), tail: tuple[int, int] | None = (5, 3)) -> Transfer:
    num_tokens = len(block_ids) * BLOCK_SIZE + (tail[1] if tail else 0)
    keys = tuple(key(i) for i in range(len(block_ids) + 1))
    state = FiledState(f"{num_tokens:032x}", array("I", range(num_tokens)), keys, "salt/", "session", 2, True)
    return Transfer(state, slot, tuple(zip(keys[1:], block_ids, strict=True)), tail)


def opened(folder: Path, memory: Storage, identity: str = IDENTITY) -> FolderOfStates:
    return FolderOfStates(CacheFolder(folder), identity, memory)


@pytest.fixture
def files(tmp_path: Path) -> FolderOfStates:
    """A folder with one state in it."""
    files = opened(tmp_path / "cache", storage(1))
    files.write(transfer())
    files.publish(transfer())
    return files


def reopened(files: FolderOfStates, memory: Storage | None = None) -> FolderOfStates:
    files.close()
    return opened(files.path.parent, memory or storage(2))


def all_files(files: FolderOfStates) -> list[Path]:
    return sorted(path for path in files.path.rglob("*") if path.is_file() and path.name != "lock")


def test_what_is_written_comes_back_elsewhere(files: FolderOfStates) -> None:
    memory = storage(2)
    again = reopened(files, memory)
    [state] = again.known()
    expected = transfer().state
    for name in ("name", "tokens", "keys", "salt", "session", "num_turns", "is_answer"):
        assert getattr(state, name) == getattr(expected, name)
    before = storage(2)
    again.read(transfer(slot=4, block_ids=(1, 2), tail=(0, 3)))
    for ours, theirs, untouched in zip(memory.layers, storage(1).layers, before.layers, strict=True):
        if isinstance(ours, RecurrentState):
            assert isinstance(theirs, RecurrentState)
            assert torch.equal(ours.delta[4], theirs.delta[2])
            assert torch.equal(ours.conv[4], theirs.conv[2])
        else:
            assert isinstance(theirs, PagedKV)
            assert isinstance(untouched, PagedKV)
            for part in ("keys", "values"):
                here, there, old = (getattr(kv, part) for kv in (ours, theirs, untouched))
                assert torch.equal(here[1], there[3])
                assert torch.equal(here[2], there[0])
                assert torch.equal(here[0, :3], there[5, :3])
                assert torch.equal(here[0, 3:], old[0, 3:])


def test_a_state_of_whole_blocks(tmp_path: Path) -> None:
    files = opened(tmp_path, storage(1))
    whole = transfer(tail=None)
    files.write(whole)
    files.publish(whole)
    again = reopened(files)
    assert [len(state.tokens) for state in again.known()] == [8]
    again.read(whole)


def test_files_are_the_owners_alone(files: FolderOfStates) -> None:
    assert len(all_files(files)) == 3
    for path in [*all_files(files), files.path.parent / "lock"]:
        assert path.stat().st_mode & 0o077 == 0
    assert files.path.stat().st_mode & 0o077 == 0


def test_nobody_finds_what_is_not_published(tmp_path: Path) -> None:
    files = opened(tmp_path, storage(1))
    files.write(transfer())
    assert len(all_files(files)) == 3
    again = reopened(files)
    assert again.known() == []
    assert all_files(again) == []
    again.write(transfer())
    again.discard(transfer())
    assert all_files(again) == []


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def flipped(place: float) -> Callable[[Path], None]:
    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[int(place * (len(content) - 1))] ^= 1
        path.write_bytes(content)

    return flip


def gone(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize(
    "damage", [truncated, empty, gone, *(flipped(place / 7) for place in range(8))], ids=lambda damage: damage.__name__
)
def test_damaged_files_are_refused(
    files: FolderOfStates, number: int, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    damage(all_files(files)[number])
    again = reopened(files)
    known = again.known()
    if known:  # its payload is looked at when it is read
        with pytest.raises(FileDamaged) as caught:
            again.read(transfer())
        assert caught.value.block in (None, key(1), key(2))
    else:
        assert len(caplog.records) <= 1
        assert all_files(again) == []


def test_the_damaged_block_is_named(files: FolderOfStates) -> None:
    [path] = [path for path in all_files(files) if path.name == key(2).hex()]
    flipped(0.5)(path)
    with pytest.raises(FileDamaged) as caught:
        files.read(transfer())
    assert caught.value.block == key(2)


def test_a_block_under_anothers_name_is_refused(files: FolderOfStates) -> None:
    one, other = (files.path / "blocks" / key(i).hex()[:2] / key(i).hex() for i in (1, 2))
    other.write_bytes(one.read_bytes())
    with pytest.raises(FileDamaged):
        files.read(transfer())


def test_states_of_another_model_are_not_seen(files: FolderOfStates, tmp_path: Path) -> None:
    files.close()
    other = opened(files.path.parent, storage(2), OTHER)
    assert other.known() == []
    for path in all_files(files):  # not even when somebody moves them
        target = other.path / path.relative_to(files.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    assert other.known() == []


def test_blocks_that_no_state_has_go(files: FolderOfStates) -> None:
    state = files.path / "states" / transfer().state.name
    state.unlink()
    again = reopened(files)
    assert again.known() == []
    assert all_files(again) == []


def test_removing_and_touching(files: FolderOfStates) -> None:
    name = transfer().state.name
    os.utime(files.path / "states" / name, (0, 0))
    assert files.known()[0].idle_seconds > 1e6
    files.touch([name, "none"])
    assert files.known()[0].idle_seconds < 60
    files.remove([name, "none"], [key(1), key(9)])
    assert [path.name for path in all_files(files)] == [key(2).hex()]


def test_odd_files_are_left_alone(files: FolderOfStates, tmp_path: Path) -> None:
    (files.path / "blocks" / ".DS_Store").write_text("x")
    (files.path / "blocks" / "ab" / "folder").mkdir(parents=True)
    (files.path / "blocks" / "ab" / "broken").symlink_to("nowhere")
    (files.path / "states" / "folder").mkdir()
    os.mkfifo(files.path / "states" / "pipe")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine").write_text("x")
    (files.path / "blocks" / "zz").symlink_to(elsewhere)
    assert len(reopened(files).known()) == 1
    assert (elsewhere / "mine").exists()


def test_a_block_among_the_states_is_no_state(files: FolderOfStates) -> None:
    block = next(path for path in all_files(files) if path.name == key(1).hex())
    (files.path / "states" / ("a" * 32)).write_bytes(block.read_bytes())
    assert len(reopened(files).known()) == 1


def test_what_fails_for_a_moment_is_not_damaged(files: FolderOfStates, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*given: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(state_files, "read_sealed", busy)
    with pytest.raises(OSError, match="Too many"):
        files.read(transfer())


def test_nothing_goes_on_after_closing(files: FolderOfStates) -> None:
    files.close()
    with pytest.raises(InterruptedError):
        files.write(transfer())
    with pytest.raises(InterruptedError):
        files.read(transfer())


def test_sealed_files_of_another_size_or_head_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    payload = bytes(range(200)) * 1000
    write_sealed(path, b"head", [memoryview(payload)[i : i + 100] for i in range(0, len(payload), 100)])
    assert read_head(path) == b"head"
    back = bytearray(len(payload))
    read_sealed(path, b"head", [memoryview(back)[i : i + 1000] for i in range(0, len(payload), 1000)])
    assert back == payload
    with pytest.raises(FileDamaged, match="something else"):
        read_sealed(path, b"tail", [memoryview(back)])
    with pytest.raises(FileDamaged, match="another size"):
        read_sealed(path, b"head", [memoryview(back)[1:]])
