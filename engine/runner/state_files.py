"""`FolderOfStates`: states and KV blocks as sealed files in a folder, straight from and into the engine's tensors.

    <path>/states/<name>         what the state is of; the state, then the block after the whole ones
    <path>/blocks/<xx>/<name>    one KV block of all layers

An identity is a hash of all that the bits of a state depend on; states of another are never looked at. Files are not
forced onto the disk: after a power cut some are incomplete or rubbish, which their checksums tell.
"""

import contextlib
import json
import logging
import os
import threading
import time
from array import array
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from engine.errors import LoadError
from engine.filing import KEY_BYTES, FileDamaged, FiledState, Transfer
from engine.runner.cache_folder import OWNER_ONLY, CacheFolder
from engine.runner.sealed import read_head, read_sealed, sealed_bytes, write_sealed
from engine.runner.storage import Storage

logger = logging.getLogger(__name__)

_TEMPORARY = ".part"


class FolderOfStates:
    """Implements `StateFiles` over a storage."""

    def __init__(self, folder: CacheFolder, identity: str, storage: Storage) -> None:
        """Raises `LoadError` when the folder cannot be used."""
        self.path = folder.part(identity)
        self._folder = folder
        self._identity = identity
        self._storage = storage
        self._states = self.path / "states"
        self._blocks = self.path / "blocks"
        self._stopped = threading.Event()
        try:
            for needed in (self._states, self._blocks):
                needed.mkdir(mode=OWNER_ONLY, exist_ok=True)
        except OSError as error:
            raise LoadError(f"the cache folder {self.path} cannot be used: {error.strerror or error}") from error

    # --- StateFiles -----------------------------------------------------------------------------------------------

    def known(self) -> list[FiledState]:
        """See `StateFiles.known`."""
        whole = self._whole_blocks()
        states, needed = [], set[str]()
        for path in _files(self._states):
            try:
                state = self._described(path)
                if not all(key.hex() in whole for key in state.keys[1:]):
                    raise FileDamaged(f"{path.name} misses KV blocks")
            except (FileDamaged, OSError) as error:
                if not path.name.endswith(_TEMPORARY):
                    logger.warning("a kept state on disk cannot be used: %s", error)
                _unlink(path)
            else:
                states.append(state)
                needed.update(key.hex() for key in state.keys[1:])
        for name in whole - needed:
            _unlink(self._block_path(name))
        return states

    def write(self, transfer: Transfer) -> None:
        """See `StateFiles.write`."""
        for key, block_id in transfer.blocks:
            if self._stopped.is_set():
                raise InterruptedError("the engine is closing")
            path = self._block_path(key.hex())
            path.parent.mkdir(mode=OWNER_ONLY, exist_ok=True)
            write_sealed(_temporary(path), self._block_head(key), _views(self._storage.block_parts(block_id)))
        # The block after the whole ones may be another's to go on in: its own tokens are copied before they are summed.
        tail = [part.clone() for part in self._tail_parts(transfer)]
        state = _views(self._storage.state_parts(transfer.slot)) + _views(tail)
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
            if self._stopped.is_set():
                raise InterruptedError("the engine is closing")
            try:
                _fill(self._block_path(key.hex()), self._block_head(key), self._storage.block_parts(block_id))
            except (FileDamaged, FileNotFoundError) as error:
                raise FileDamaged(f"KV block: {error}", key) from error
        parts = self._storage.state_parts(transfer.slot) + self._tail_parts(transfer)
        try:
            _fill(self._states / transfer.state.name, self._state_head(transfer.state), parts)
        except FileNotFoundError as error:
            raise FileDamaged(str(error)) from error

    def touch(self, states: list[str]) -> None:
        """See `StateFiles.touch`. The time of a file is when its state was last used."""
        for name in states:
            with contextlib.suppress(OSError):
                os.utime(self._states / name)

    def remove(self, states: list[str], blocks: list[bytes]) -> None:
        """See `StateFiles.remove`."""
        for path in [*(self._states / name for name in states), *(self._block_path(key.hex()) for key in blocks)]:
            _unlink(path)

    def close(self) -> None:
        """See `StateFiles.close`."""
        self._stopped.set()
        self._folder.close()

    # --- names and heads ------------------------------------------------------------------------------------------

    def _paths(self, transfer: Transfer) -> Iterator[Path]:
        yield from (self._block_path(key.hex()) for key, _ in transfer.blocks)
        yield self._states / transfer.state.name

    def _block_path(self, name: str) -> Path:
        return self._blocks / name[:2] / name

    def _whole_blocks(self) -> set[str]:
        """Names of blocks' files that are as long as they should be; what else is found goes."""
        size = sealed_bytes(len(self._block_head(bytes(KEY_BYTES))), _num_bytes(self._storage.block_parts(0)))
        names = set()
        for folder in _folders(self._blocks):
            for path in _files(folder):
                if path.stat().st_size == size and not path.name.endswith(_TEMPORARY):
                    names.add(path.name)
                else:
                    _unlink(path)
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
        try:
            facts = json.loads(facts_text)
            identity = facts["identity"]
        except (ValueError, KeyError, TypeError) as error:
            raise FileDamaged(f"{path.name} is no state") from error
        if identity != self._identity:
            raise FileDamaged(f"{path.name} is of another model, or of other settings")
        num_token_bytes = facts["num_tokens"] * array("I").itemsize
        keys = rest[num_token_bytes:]
        return FiledState(
            name=path.name,
            tokens=array("I", rest[:num_token_bytes]),
            keys=tuple(keys[i : i + KEY_BYTES] for i in range(0, len(keys), KEY_BYTES)),
            salt=facts["salt"],
            session=facts["session"],
            num_turns=facts["num_turns"],
            is_answer=facts["is_answer"],
            idle_seconds=max(0.0, time.time() - path.stat().st_mtime),
        )

    def _tail_parts(self, transfer: Transfer) -> list[Tensor]:
        if transfer.tail is None:
            return []
        block_id, num_tokens = transfer.tail
        return [part[:num_tokens] for part in self._storage.block_parts(block_id)]


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


def _files(folder: Path) -> list[Path]:
    """Regular files alone: what else is there is not ours."""
    with os.scandir(folder) as entries:
        return [Path(entry.path) for entry in entries if entry.is_file(follow_symlinks=False)]


def _folders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("%s could not be removed: %s", path, error.strerror)
