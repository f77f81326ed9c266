"""`HashFiles`: a disk for `HashModel`, and `Tidier`, which does by hand what the engine's mover does with threads."""

from dataclasses import dataclass, field

from engine.cache.lower_tier import Load, LowerTier, Save
from engine.filing import FileDamaged, FiledState, Transfer
from tests.support.hash_model import HashModel


@dataclass
class HashFiles:
    """A dictionary as `StateFiles`. It outlives its model, as a disk outlives a process.

    `damaged` are states (by name) and blocks (by key) that cannot be read any more. With `is_full` nothing can be
    written.
    """

    model: HashModel
    states: dict[str, tuple[FiledState, int, list[int]]] = field(default_factory=dict)
    blocks: dict[bytes, list[int]] = field(default_factory=dict)
    damaged: set[str | bytes] = field(default_factory=set)
    is_full: bool = False

    def __post_init__(self) -> None:
        self._unpublished: dict[bytes, list[int]] = {}
        self._unpublished_states: dict[str, tuple[FiledState, int, list[int]]] = {}

    def known(self) -> list[FiledState]:
        """See `StateFiles`."""
        self._unpublished.clear()
        self._unpublished_states.clear()
        whole = {n: s for n, s in self.states.items() if all(key in self.blocks for key in s[0].keys[1:])}
        needed = {key for state, _, _ in whole.values() for key in state.keys[1:]}
        self.states, self.blocks = whole, {key: b for key, b in self.blocks.items() if key in needed}
        return [state for state, _, _ in whole.values()]

    def write(self, transfer: Transfer) -> None:
        """See `StateFiles`."""
        self.write_blocks(transfer)
        self.write_state(transfer)

    def write_blocks(self, transfer: Transfer) -> None:
        """The first half."""
        if self.is_full:
            raise OSError(28, "No space left on device")
        for key, block_id in transfer.blocks:
            self._unpublished[key] = self.model.copy_of_block(block_id)

    def write_state(self, transfer: Transfer) -> None:
        """The second half."""
        tail = self.model.copy_of_block(*transfer.tail) if transfer.tail else []
        state = transfer.state, self.model.copy_of_state(transfer.slot), tail
        self._unpublished_states[transfer.state.name] = state

    def publish(self, transfer: Transfer) -> None:
        """See `StateFiles`."""
        self.publish_blocks(transfer, len(transfer.blocks))
        name = transfer.state.name
        self.states[name] = self._unpublished_states.pop(name)
        self.damaged.discard(name)

    def publish_blocks(self, transfer: Transfer, num_blocks: int) -> None:
        """The first so many of its blocks."""
        for key, _ in transfer.blocks[:num_blocks]:
            self.blocks[key] = self._unpublished.pop(key)
            self.damaged.discard(key)

    def discard(self, transfer: Transfer) -> None:
        """See `StateFiles`."""
        for key, _ in transfer.blocks:
            self._unpublished.pop(key, None)
        self._unpublished_states.pop(transfer.state.name, None)

    def read(self, transfer: Transfer) -> None:
        """See `StateFiles`. What is damaged leaves rubbish in memory."""
        blocks = {}
        for key, block_id in transfer.blocks:
            if key in self.damaged or key not in self.blocks:
                self.model.put(transfer.slot, 999, {})
                raise FileDamaged("a block is damaged", key)
            blocks[block_id] = self.blocks[key]
        name = transfer.state.name
        if name in self.damaged or name not in self.states:
            self.model.put(transfer.slot, 999, blocks)
            raise FileDamaged("a state is damaged")
        found, state, tail = self.states[name]
        assert (found.tokens, found.keys, found.salt) == (
            transfer.state.tokens,
            transfer.state.keys,
            transfer.state.salt,
        )
        if transfer.tail is not None:
            assert len(tail) == transfer.tail[1]
            blocks[transfer.tail[0]] = tail
        self.model.put(transfer.slot, state, blocks)

    def touch(self, states: list[str]) -> None:
        """See `StateFiles`."""

    def remove(self, states: list[str], blocks: list[bytes]) -> None:
        """See `StateFiles`."""
        for name in states:
            self.states.pop(name, None)
        for key in blocks:
            self.blocks.pop(key, None)

    def close(self) -> None:
        """See `StateFiles`."""


@dataclass
class Tidier:
    """Carries out what a disk tier wants, one small piece a call."""

    disk: LowerTier
    files: HashFiles
    loads: list[Load] = field(default_factory=list)
    save: Save | None = None
    is_half_written: bool = False

    def begin_save(self) -> None:
        """The first half of what is to be written next, if anything is."""
        if self.save is None:
            self.files.remove(*self.disk.take_removed())
            self.save = self.disk.next_save()
            if self.save is not None:
                self.files.write_blocks(self.save.transfer)

    def end_save(self) -> None:
        """The second half."""
        save, self.save = self.save, None
        if save is not None:
            self.files.write_state(save.transfer)
            is_sound = self.disk.is_sound(save)
            if is_sound:
                self.files.publish(save.transfer)
            else:
                self.files.discard(save.transfer)
            self.disk.saved(save, is_published=is_sound)

    def load_one(self) -> bool:
        """Read what somebody waits for; False when nobody does."""
        self.loads += self.disk.take_loads()
        if not self.loads:
            return False
        load, damage = self.loads.pop(0), None
        try:
            self.files.read(load.transfer)
        except FileDamaged as error:
            damage = error
        self.disk.loaded(load, damage)
        return True

    def save_all(self) -> None:
        """All that is due."""
        self.end_save()
        self.begin_save()
        while self.save is not None:
            self.end_save()
            self.begin_save()
        self.files.remove(*self.disk.take_removed())
