"""`StatesInMemory`: states and KV blocks copied from a GPU's memory into the machine's own, which is larger.

Nothing of it is on disk and nothing can be damaged: what was let go is all that may be missing.
"""

import threading
from collections.abc import Sequence

from torch import Tensor

from engine.filing import FileDamaged, FiledState, Transfer
from engine.runner.storage import Storage


class StatesInMemory:
    """Implements `StateFiles` over a storage. How much there may be its lower tier knows."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._states: dict[str, list[Tensor]] = {}
        self._blocks: dict[bytes, list[Tensor]] = {}
        self._written: tuple[dict[bytes, list[Tensor]], list[Tensor]] = ({}, [])
        self._stopped = threading.Event()

    def known(self) -> list[FiledState]:
        """See `StateFiles.known`: nothing, at the start."""
        return []

    def write(self, transfer: Transfer) -> None:
        """See `StateFiles.write`."""
        blocks = {}
        for key, block_id in transfer.blocks:
            self._check_is_open()
            blocks[key] = _copies(self._storage.block_parts(block_id))
        self._written = blocks, _copies(self._state_parts(transfer))

    def publish(self, transfer: Transfer) -> None:
        """See `StateFiles.publish`."""
        blocks, state = self._written
        self._blocks |= blocks
        self._states[transfer.state.name] = state
        self.discard(transfer)

    def discard(self, transfer: Transfer) -> None:
        """See `StateFiles.discard`."""
        self._written = ({}, [])

    def read(self, transfer: Transfer) -> None:
        """See `StateFiles.read`."""
        for key, block_id in transfer.blocks:
            self._check_is_open()
            if key not in self._blocks:
                raise FileDamaged("a KV block is gone", key)
            _fill(self._storage.block_parts(block_id), self._blocks[key])
        if transfer.state.name not in self._states:
            raise FileDamaged("a state is gone")
        _fill(self._state_parts(transfer), self._states[transfer.state.name])

    def touch(self, states: list[str]) -> None:
        """See `StateFiles.touch`: nobody looks."""

    def remove(self, states: list[str], blocks: list[bytes]) -> None:
        """See `StateFiles.remove`."""
        for name in states:
            self._states.pop(name, None)
        for key in blocks:
            self._blocks.pop(key, None)

    def close(self) -> None:
        """See `StateFiles.close`."""
        self._stopped.set()

    def _state_parts(self, transfer: Transfer) -> list[Tensor]:
        """The state, and its tokens of the block after the whole ones."""
        parts = self._storage.state_parts(transfer.slot)
        if transfer.tail is None:
            return parts
        block_id, num_tokens = transfer.tail
        return parts + [part[:num_tokens] for part in self._storage.block_parts(block_id)]

    def _check_is_open(self) -> None:
        if self._stopped.is_set():
            raise InterruptedError("the engine is closing")


def _copies(parts: Sequence[Tensor]) -> list[Tensor]:
    return [part.to("cpu", copy=True) for part in parts]


def _fill(parts: Sequence[Tensor], copies: Sequence[Tensor]) -> None:
    for part, copy in zip(parts, copies, strict=True):
        part.copy_(copy)
