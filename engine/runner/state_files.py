"""`FolderOfStates`: states and KV blocks as sealed files in a folder, straight from and into the engine's tensors.

    <folder>/<identity>/states/<name>         what the state is of; the state, then the block after the whole ones
    <folder>/<identity>/blocks/<xx>/<name>    one KV block of all layers

An identity is a hash of all that the bits of a state depend on; states of another are never looked at. Files are not
forced onto the disk: after a power cut some are incomplete or rubbish, which their checksums tell.
"""

import contextlib
import fcntl
import json
import logging
import os
import re
import shutil
import time
from array import array
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from engine.batch import PagedKV, RecurrentState
from engine.errors import LoadError
from engine.filing import FileDamaged, FiledState, Transfer
from engine.runner.sealed import read_head, read_sealed, sealed_bytes, write_sealed
from engine.runner.storage import Storage

logger = logging.getLogger(__name__)

OTHERS_SHARE = 0.5  # of the bytes allowed, for what other models or settings left
_TEMPORARY = ".part"
_OWNER_ONLY = 0o700
_IDENTITY = re.compile("[0-9a-f]{32}")


class FolderOfStates:
    """Implements `StateFiles` over a storage."""

    def __init__(self, folder: Path, identity: str, storage: Storage, max_bytes: int | None = None) -> None:
        """Takes the folder for this process, and removes what others left if it is too much, the oldest first. Then
        `max_bytes` is what is left of those allowed: half of what is free, if it is not said.

        Raises:
            LoadError: it cannot be used, or another process uses it.
        """
        self.folder = folder / identity
        self._identity = identity
        self._storage = storage
        self._states = self.folder / "states"
        self._blocks = self.folder / "blocks"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for needed in (self.folder, self._states, self._blocks):
                needed.mkdir(mode=_OWNER_ONLY, exist_ok=True)
            self._lock = _locked(self.folder)
            allowed = max_bytes or _size(folder) + shutil.disk_usage(folder).free // 2
            self.max_bytes = allowed - _thin_out(folder, self.folder, int(OTHERS_SHARE * allowed))
        except OSError as error:
            raise LoadError(f"the cache folder {folder} cannot be used: {error.strerror or error}") from error

    def close(self) -> None:
        """Let another process have the folder."""
        os.close(self._lock)

    # --- StateFiles -----------------------------------------------------------------------------------------------

    def known(self) -> list[FiledState]:
        """See `StateFiles.known`."""
        whole = self._whole_blocks()
        states, needed = [], set[str]()
        for path in list(self._states.iterdir()):
            try:
                state = self._described(path)
                if not all(key.hex() in whole for key in state.keys[1:]):
                    raise FileDamaged(f"{path.name} misses KV blocks")
            except (FileDamaged, OSError) as error:
                if not path.name.endswith(_TEMPORARY):
                    logger.warning("a kept state on disk cannot be used: %s", error)
                path.unlink(missing_ok=True)
            else:
                states.append(state)
                needed.update(key.hex() for key in state.keys[1:])
        for name in whole - needed:
            self._block_path(name).unlink(missing_ok=True)
        return states

    def write(self, transfer: Transfer) -> None:
        """See `StateFiles.write`."""
        for key, block_id in transfer.blocks:
            path = self._block_path(key.hex())
            path.parent.mkdir(mode=_OWNER_ONLY, exist_ok=True)
            write_sealed(_temporary(path), self._block_head(key), _views(self._block_parts(block_id)))
        # The block after the whole ones may be another's to go on in: its own tokens are copied before they are summed.
        tail = [part.clone() for part in self._tail_parts(transfer)]
        state = _views(self._state_parts(transfer.slot)) + _views(tail)
        write_sealed(_temporary(self._states / transfer.state.name), self._state_head(transfer.state), state)

    def publish(self, transfer: Transfer) -> None:
        """See `StateFiles.publish`. The state comes last: it is found only when all its blocks are there."""
        for path in self._paths(transfer):
            _temporary(path).replace(path)

    def discard(self, transfer: Transfer) -> None:
        """See `StateFiles.discard`."""
        for path in self._paths(transfer):
            with contextlib.suppress(OSError):
                _temporary(path).unlink(missing_ok=True)

    def read(self, transfer: Transfer) -> None:
        """See `StateFiles.read`."""
        for key, block_id in transfer.blocks:
            try:
                _fill(self._block_path(key.hex()), self._block_head(key), self._block_parts(block_id))
            except (FileDamaged, OSError) as error:
                raise FileDamaged(f"KV block: {error}", key) from error
        parts = self._state_parts(transfer.slot) + self._tail_parts(transfer)
        try:
            _fill(self._states / transfer.state.name, self._state_head(transfer.state), parts)
        except OSError as error:
            raise FileDamaged(str(error)) from error

    def touch(self, states: list[str]) -> None:
        """See `StateFiles.touch`. The time of a file is when its state was last used."""
        for name in states:
            with contextlib.suppress(OSError):
                os.utime(self._states / name)

    def remove(self, states: list[str], blocks: list[bytes]) -> None:
        """See `StateFiles.remove`."""
        for path in [*(self._states / name for name in states), *(self._block_path(key.hex()) for key in blocks)]:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    # --- names and heads ------------------------------------------------------------------------------------------

    def _paths(self, transfer: Transfer) -> Iterator[Path]:
        yield from (self._block_path(key.hex()) for key, _ in transfer.blocks)
        yield self._states / transfer.state.name

    def _block_path(self, name: str) -> Path:
        return self._blocks / name[:2] / name

    def _whole_blocks(self) -> set[str]:
        """Names of blocks' files that are as long as they should be; what else is found goes."""
        size = sealed_bytes(len(self._block_head(b"\0" * 16)), _num_bytes(self._block_parts(0)))
        names = set()
        for folder in list(self._blocks.iterdir()):
            for entry in list(os.scandir(folder)):
                if entry.stat().st_size == size and not entry.name.endswith(_TEMPORARY):
                    names.add(entry.name)
                else:
                    os.unlink(entry.path)
        return names

    def _block_head(self, key: bytes) -> bytes:
        return self._identity.encode() + key

    def _state_head(self, state: FiledState) -> bytes:
        facts = {
            "identity": self._identity,
            "num_tokens": len(state.tokens),
            "salt": state.salt,
            "session": state.session,
            "num_turns": state.num_turns,
            "is_answer": state.is_answer,
        }
        return json.dumps(facts).encode() + b"\n" + state.tokens.tobytes() + b"".join(state.keys)

    def _described(self, path: Path) -> FiledState:
        """What a file says of itself."""
        if path.name.endswith(_TEMPORARY):
            raise FileDamaged(f"{path.name} was never finished")
        facts_text, _, rest = read_head(path).partition(b"\n")
        facts = json.loads(facts_text)
        if facts["identity"] != self._identity:
            raise FileDamaged(f"{path.name} is of another model, or of other settings")
        num_token_bytes = facts["num_tokens"] * array("I").itemsize
        keys = rest[num_token_bytes:]
        return FiledState(
            name=path.name,
            tokens=array("I", rest[:num_token_bytes]),
            keys=tuple(keys[i : i + 16] for i in range(0, len(keys), 16)),
            salt=facts["salt"],
            session=facts["session"],
            num_turns=facts["num_turns"],
            is_answer=facts["is_answer"],
            idle_seconds=max(0.0, time.time() - path.stat().st_mtime),
        )

    # --- tensors --------------------------------------------------------------------------------------------------

    def _block_parts(self, block_id: int) -> list[Tensor]:
        """A KV block's keys and values, layer by layer, each contiguous."""
        paged = [memory for memory in self._storage.layers if isinstance(memory, PagedKV)]
        return [part[block_id] for memory in paged for part in (memory.keys, memory.values)]

    def _tail_parts(self, transfer: Transfer) -> list[Tensor]:
        if transfer.tail is None:
            return []
        block_id, num_tokens = transfer.tail
        return [part[:num_tokens] for part in self._block_parts(block_id)]

    def _state_parts(self, slot: int) -> list[Tensor]:
        recurrent = [memory for memory in self._storage.layers if isinstance(memory, RecurrentState)]
        return [part[slot] for memory in recurrent for part in (memory.delta, memory.conv)]


def _temporary(path: Path) -> Path:
    return path.with_name(path.name + _TEMPORARY)


def _num_bytes(parts: list[Tensor]) -> int:
    return sum(part.numel() * part.itemsize for part in parts)


def _views(parts: list[Tensor]) -> list[memoryview]:
    """The bytes of tensors, copies of those that are on a device."""
    return [part.cpu().reshape(-1).view(torch.uint8).numpy().data for part in parts]


def _fill(path: Path, head: bytes, parts: list[Tensor]) -> None:
    """Read a file into tensors."""
    on_cpu = [part if part.device.type == "cpu" else torch.empty_like(part, device="cpu") for part in parts]
    read_sealed(path, head, _views(on_cpu))
    for part, read in zip(parts, on_cpu, strict=True):
        if part is not read:
            part.copy_(read)


def _locked(folder: Path) -> int:
    """A lock that ends with this process."""
    file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        raise LoadError(f"another process keeps its states in {folder}; give each a --cache-dir of its own") from error
    return file


def _thin_out(folder: Path, ours: Path, most_bytes: int) -> int:
    """Remove folders of other identities, the oldest first, until they have no more than that; what they have then."""
    others = sorted((path for path in folder.iterdir() if path != ours and _is_identity(path)), key=_last_used)
    sizes = {path: _size(path) for path in others}
    for path in others:
        if sum(sizes.values()) <= most_bytes:
            break
        with contextlib.suppress(LoadError):  # somebody is at work there
            lock = _locked(path)
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)
            del sizes[path]
    return sum(sizes.values())


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _is_identity(folder: Path) -> bool:
    """Whether it is one of these folders, and none of the user's own."""
    return bool(_IDENTITY.fullmatch(folder.name)) and (folder / "lock").exists() and (folder / "states").is_dir()


def _last_used(folder: Path) -> float:
    return max((path.stat().st_mtime for path in (folder, folder / "states") if path.exists()), default=0.0)
