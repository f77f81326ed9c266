"""`CacheFolder`: the folder that a daemon may keep states in: its lock, its parts, and how much may go there.

<folder>/lock            held by the process that uses the folder
<folder>/<identity>/     what one model with one set of settings left; see `engine.identity`
"""

import contextlib
import fcntl
import os
import re
import shutil
from pathlib import Path

from engine.errors import LoadError

OTHERS_SHARE = 0.5  # of the bytes allowed, for what other models or settings left
OWNER_ONLY = 0o700
_LOCK = "lock"
_IDENTITY = re.compile("[0-9a-f]{32}")


class CacheFolder:
    """A folder, claimed for this process. Nothing in it is touched but what has an identity's name."""

    def __init__(self, path: Path) -> None:
        """Claim it.

        Raises:
            LoadError: it cannot be used, or another process uses it.
        """
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise self._unusable(error) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise LoadError(
                f"another process keeps its states in {path}: give each a --cache-dir of its own"
            ) from error
        except OSError as error:
            os.close(self._lock)
            raise self._unusable(error) from error

    def close(self) -> None:
        """Let another process have it."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def part(self, identity: str) -> Path:
        """The folder of an identity, made if need be. Raises `LoadError`."""
        path = self.path / identity
        try:
            path.mkdir(mode=OWNER_ONLY, exist_ok=True)
        except OSError as error:
            raise self._unusable(error) from error
        return path

    def room(self, identity: str, max_bytes: int | None) -> int:
        """How many bytes this identity may keep of those allowed: half of what is free, if that is not said.

        Others have to make room for it, the oldest first, until they keep no more than their share.
        """
        ours = self.path / identity
        parts = [path for path in self.path.iterdir() if _IDENTITY.fullmatch(path.name) and path.is_dir()]
        sizes = {path: _size(path) for path in sorted(parts, key=_last_used) if path != ours}
        allowed = max_bytes
        if allowed is None:
            allowed = (_size(ours) + sum(sizes.values()) + shutil.disk_usage(self.path).free) // 2
        for path in list(sizes):
            if sum(sizes.values()) <= OTHERS_SHARE * allowed:
                break
            shutil.rmtree(path, ignore_errors=True)
            del sizes[path]
        return allowed - sum(sizes.values())

    def _unusable(self, error: OSError) -> LoadError:
        return LoadError(f"the cache folder {self.path} cannot be used: {error.strerror or error}")


def _size(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += file.lstat().st_size
    return total


def _last_used(folder: Path) -> float:
    return max((path.stat().st_mtime for path in (folder, folder / "states") if path.exists()), default=0.0)
