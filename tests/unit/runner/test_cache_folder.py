"""Whose a cache folder is, what is removed from it, and how much may go there."""

import errno
import fcntl
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.errors import LoadError
from engine.runner.cache_folder import CacheFolder

OURS, OTHERS, OLDEST = "1" * 32, "2" * 32, "3" * 32


def put(folder: Path, name: str, num_bytes: int) -> Path:
    path = folder / name / "states"
    path.mkdir(parents=True)
    (path / "state").write_bytes(bytes(num_bytes))
    return folder / name


def test_one_process_at_a_time(tmp_path: Path) -> None:
    first = CacheFolder(tmp_path)
    with pytest.raises(LoadError, match="another process"):
        CacheFolder(tmp_path)
    first.close()
    first.close()
    CacheFolder(tmp_path).close()


def test_a_folder_that_cannot_be_had(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LoadError, match="cannot be used"):
        CacheFolder(tmp_path / "file")


def test_a_file_system_without_locks_is_called_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(LoadError, match="No locks available"):
        CacheFolder(tmp_path)


def test_what_others_left_makes_room_and_nothing_else_does(tmp_path: Path) -> None:
    old, new = put(tmp_path, OLDEST, 4000), put(tmp_path, OTHERS, 4000)
    mine = put(tmp_path, "thesis", 50_000)
    ours = put(tmp_path, OURS, 9000)
    for path, moment in ((old, 1), (new, 2)):
        for touched in (path, path / "states"):
            os.utime(touched, (moment, moment))
    folder = CacheFolder(tmp_path)
    sizes = {name: sum(p.lstat().st_size for p in (tmp_path / name).rglob("*")) for name in (OLDEST, OTHERS)}
    assert folder.room(OURS, 100_000) == 100_000 - sum(sizes.values())
    assert folder.room(OURS, 18_000) == 18_000 - sizes[OTHERS]
    assert not old.exists()
    assert new.exists()
    assert folder.room(OURS, 1000) == 1000
    assert not new.exists()
    assert mine.exists()
    assert ours.exists()
    folder.close()


def test_half_of_what_is_free_stays_half_after_restarts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "thesis", 70_000)
    folder, capacity = CacheFolder(tmp_path), 100_000
    kept = 0

    def disk_usage(path: Path) -> SimpleNamespace:
        return SimpleNamespace(free=capacity - kept)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    for _ in range(5):
        room = folder.room(OURS, None)
        assert room <= capacity // 2 + 4096  # a folder takes some itself
        shutil.rmtree(tmp_path / OURS, ignore_errors=True)
        put(tmp_path, OURS, room - 4096)
        kept = room
    folder.close()
