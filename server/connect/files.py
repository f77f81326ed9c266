"""Putting text in a user's file: at once or not at all, with a copy of what was there, and readable for whom it may be.

Knows nothing of formats or clients.
"""

import contextlib
import os
import stat
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

_PRIVATE = 0o600


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a file: `backup` is the copy of what it was, if it was there."""

    changed: bool
    backup: Path | None = None


def read_text(path: Path) -> str | None:
    """What a file says, to the last line's end; None where there is none. Raises `OSError` or `ValueError`."""
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return None


def put(path: Path, old: str | None, new: str, private: bool) -> Written:
    """Make a file that says `old` say `new`, for its owner alone if `private`. Links are followed, not replaced.

    Raises:
        OSError: it cannot be written; then it is as it was.
    """
    path = path.resolve()
    mode = _mode(path, private)
    if old == new:
        if stat.S_IMODE(path.stat().st_mode) != mode:
            path.chmod(mode)
        return Written(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    backup = None if old is None else _back_up(path, old, mode)
    _replace(path, new, mode)
    return Written(True, backup)


def _mode(path: Path, private: bool) -> int:
    """The file's mode now, or what the user's mask leaves of the usual one."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        mode = 0o666 & ~mask
    return mode & _PRIVATE if private else mode


def _back_up(path: Path, text: str, mode: int) -> Path:
    moment = time.strftime("%Y%m%d-%H%M%S")
    names = (f"{path.name}.bak-{moment}{more}" for more in ("", *(f"-{n}" for n in range(2, 1000))))
    for name in names:
        backup = path.with_name(name)
        with contextlib.suppress(FileExistsError):
            handle = os.open(backup, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE)
            with os.fdopen(handle, "wb") as file:
                file.write(text.encode("utf-8"))
            _hand_over(backup, path)
            backup.chmod(mode)
            return backup
    raise FileExistsError(f"too many copies of {path}")


def _hand_over(new: Path, old: Path) -> None:
    """Give a file the owner of another one, if that one is there and we may."""
    with contextlib.suppress(FileNotFoundError, PermissionError):
        status = old.stat()
        os.chown(new, status.st_uid, status.st_gid)


def _replace(path: Path, text: str, mode: int) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
        _hand_over(Path(name), path)
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
