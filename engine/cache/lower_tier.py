"""`LowerTier`: which states are kept outside the memory of steps, which go there next, and which is worth least there.

Bookkeeping alone: what it decides comes out as transfers and names of files, for others to carry out beside the steps.
"Disk" and "files" are main memory and copies in it where that is the tier; each tier decides for itself.
A KV block is one file for all states that have it; a state is a file of its own, good only with its blocks' files.
"""

import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b

from engine.cache.checkpoints import Checkpoint, Checkpoints, KnownPrefix
from engine.cache.manager import Arrival, CacheManager
from engine.cache.prefix import Lineage
from engine.errors import InvariantViolation
from engine.filing import KEY_BYTES, FileDamaged, FiledState, Transfer
from engine.types import CacheTier

SETTLE_SECONDS = 1.0  # a state that something longer takes the place of so soon is not written
INSIDE_TOKENS = 512  # beyond the state before it on disk: for less, one between others is not written
MIN_GAIN_BLOCKS = 0.5  # for less nobody waits for the disk


@dataclass(slots=True, eq=False)
class FiledCheckpoint(KnownPrefix):
    """One on disk; `num_loads` under way read it."""

    file: FiledState
    num_bytes: int
    num_loads: int = field(default=0, kw_only=True)


@dataclass(slots=True, eq=False)
class Save:
    """A checkpoint being written."""

    checkpoint: Checkpoint
    filed: FiledCheckpoint
    transfer: Transfer
    is_wanted: bool = True


@dataclass(slots=True, eq=False)
class Load:
    """A state being read. Who wants it waits while it is `under_way`."""

    tier: CacheTier
    filed: FiledCheckpoint
    arrival: Arrival
    transfer: Transfer
    begun: float
    under_way: bool = True
    seconds: float = 0.0


class LowerTier:
    """Decides for one cache manager. Sizes are in bytes: of a state, of a KV block, and of all files together."""

    def __init__(
        self,
        tier: CacheTier,
        cache: CacheManager,
        state_bytes: int,
        block_bytes: int,
        max_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tier = tier
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self.num_evictions = 0
        self._cache = cache
        self._state_bytes = state_bytes
        self._block_bytes = block_bytes
        self._clock = clock
        self._filed = Checkpoints[FiledCheckpoint](cache.block_size)
        self._num_holders: dict[bytes, int] = {}
        self._loads: dict[FiledCheckpoint, Load] = {}
        self._to_load: list[Load] = []
        self._save: Save | None = None
        self._used: dict[str, None] = {}
        self._states_to_remove: list[str] = []
        self._blocks_to_remove: list[bytes] = []

    def __len__(self) -> int:
        return len(self._filed)

    @property
    def filed(self) -> Iterable[FiledCheckpoint]:
        """All that are on disk, to look at."""
        return self._filed

    def has(self, lineage: Lineage, position: int) -> bool:
        """Whether the state after so many tokens is here."""
        return self._filed.at(lineage, position) is not None

    def know(self, states: Iterable[FiledState]) -> None:
        """Enter what earlier runs left, and drop what is too much of it."""
        now, size = self._clock(), self._cache.block_size
        for state in states:
            lineage = Lineage(state.tokens, size, state.salt, state.session, state.keys)
            self._hold(state.keys)
            self._enter(self._checkpoint_of(lineage, state, now - state.idle_seconds))
        self._make_room(0)

    # --- writing --------------------------------------------------------------------------------------------------

    def next_save(self, settled: bool = True) -> Save | None:
        """What is to be written now, which takes its room at once. One at a time: `saved` comes before the next.

        What was made a moment ago has not `settled`.
        """
        assert self._save is None
        now = self._clock()
        due = [c for c in self._unsaved() if not settled or now - c.made >= SETTLE_SECONDS]
        ends = sorted((c for c in due if not c.children), key=lambda c: -c.value(now))
        for checkpoint in [*ends, *sorted((c for c in due if c.children), key=lambda c: c.position)]:
            checkpoint.saved_in.add(self.tier)
            if self._is_worth_writing(checkpoint):
                self._save = self._planned(checkpoint)
                if self._save is not None:
                    return self._save
        return None

    def is_sound(self, save: Save) -> bool:
        """Whether what was written is what was meant: nobody got its memory meanwhile."""
        return save.is_wanted and self._cache.is_kept(save.checkpoint)

    def saved(self, save: Save, is_published: bool, is_worth_another_try: bool = False) -> None:
        """The end of a save."""
        self._save = None
        if is_published and save.is_wanted:
            self._enter(save.filed)
            return
        if is_worth_another_try:
            save.checkpoint.saved_in.discard(self.tier)
        self._let_go(save.filed.file.keys)
        if is_published:
            self._states_to_remove.append(save.filed.file.name)

    @property
    def lag_seconds(self) -> float:
        """How long the state that waits longest to be written has been there; 0 when all are."""
        waiting = [c.made for c in self._unsaved()] + ([self._save.checkpoint.made] if self._save else [])
        return self._clock() - min(waiting) if waiting else 0.0

    @property
    def next_save_in(self) -> float | None:
        """Seconds until there may be something to write; None for not before something new is kept."""
        made = [c.made for c in self._unsaved()]
        return max(0.0, min(made) + SETTLE_SECONDS - self._clock()) if made else None

    def _unsaved(self) -> Iterator[Checkpoint]:
        return (c for c in self._cache.checkpoints if self.tier not in c.saved_in)

    def _is_worth_writing(self, checkpoint: Checkpoint) -> bool:
        """Where prompts end; and inside them, what saves much beyond what is on disk."""
        if self.has(checkpoint.lineage, checkpoint.position):
            return False
        before = self._filed.longest(checkpoint.lineage, checkpoint.position - 1)
        num_beyond = checkpoint.position - (before.position if before else 0)
        return not checkpoint.children or num_beyond >= INSIDE_TOKENS

    def _planned(self, checkpoint: Checkpoint) -> Save | None:
        position, size = checkpoint.position, self._cache.block_size
        lineage = checkpoint.lineage.cut(position)
        keys = tuple(lineage.keys_up_to(position // size))
        tokens = lineage.tokens
        assert isinstance(tokens, array)
        state = FiledState(
            name=_state_name(keys[-1], tokens[position - position % size :]),
            tokens=tokens,
            keys=keys,
            salt=lineage.salt,
            session=lineage.session,
            num_turns=checkpoint.num_turns,
            is_answer=checkpoint.is_answer,
        )
        filed = self._checkpoint_of(lineage, state, checkpoint.last_used)
        blocks = zip(keys[1:], checkpoint.block_ids, strict=False)
        missing = tuple((key, i) for key, i in blocks if key not in self._num_holders)
        self._hold(keys)  # from here on they are there, and stay
        if not self._make_room(filed.num_bytes, keys):
            self._let_go(keys)
            return None
        transfer = Transfer(state, checkpoint.slot, missing, self._tail(checkpoint.block_ids, position))
        return Save(checkpoint, filed, transfer)

    # --- reading --------------------------------------------------------------------------------------------------

    def find(self, lineage: Lineage) -> FiledCheckpoint | None:
        """The state that a sequence of these tokens goes on from best; None if memory has one as good, or nearly."""
        filed = self._filed.longest(lineage, len(lineage.tokens) - 1)
        if filed is None:
            return None
        filed.use(self._clock())
        self._used[filed.file.name] = None
        hit = self._cache.match(lineage)
        gain = filed.position - (hit.position if hit else 0)
        return filed if filed in self._loads or gain >= MIN_GAIN_BLOCKS * self._cache.block_size else None

    def load(self, filed: FiledCheckpoint, lineage: Lineage) -> Load | None:
        """Have it read, if it is not being read already; None while memory has no room for it."""
        if filed in self._loads:
            return self._loads[filed]
        arrival = self._cache.expect(filed, lineage, self.tier)
        if arrival is None:
            return None
        filed.num_loads += 1
        filed.num_hits += 1
        block_ids, first = arrival.checkpoint.block_ids, arrival.num_shared_blocks
        blocks = tuple(zip(filed.file.keys[1 + first :], block_ids[first:], strict=False))
        tail = self._tail(block_ids, filed.position)
        load = Load(
            self.tier, filed, arrival, Transfer(filed.file, arrival.checkpoint.slot, blocks, tail), self._clock()
        )
        self._loads[filed] = load
        self._to_load.append(load)
        return load

    def take_loads(self) -> list[Load]:
        """Those to be begun."""
        begun, self._to_load = self._to_load, []
        return begun

    def loaded(self, load: Load, failure: Exception | None = None) -> None:
        """The end of a load. What is damaged goes, and with a KV block all that have it."""
        load.under_way = False
        load.seconds = self._clock() - load.begun
        del self._loads[load.filed]
        load.filed.num_loads -= 1
        self._cache.arrived(load.arrival, is_sound=failure is None)
        if isinstance(failure, FileDamaged):
            for filed in [f for f in self._filed if f is load.filed or failure.block in f.file.keys[1:]]:
                self._remove(filed)

    # --- what is there --------------------------------------------------------------------------------------------

    def forget(self, salted: Callable[[str], bool]) -> int:
        """Drop all states with such salts; how many that were."""
        return self._forget(lambda known: salted(known.lineage.salt))

    def forget_prefixes(self, lineage: Lineage) -> int:
        """Drop all states that a sequence of these tokens could start from."""
        return self._forget(lambda known: known.is_prefix_of(lineage))

    def _forget(self, is_meant: Callable[[FiledCheckpoint], bool]) -> int:
        chosen = [f for f in self._filed if is_meant(f)]
        for filed in chosen:
            self._remove(filed)
        if self._save is not None and is_meant(self._save.filed):
            self._save.is_wanted = False
        return len(chosen)

    def take_used(self) -> list[str]:
        """The states that were asked for since the last time."""
        used, self._used = list(self._used), {}
        return used

    def take_removed(self) -> tuple[list[str], list[bytes]]:
        """Names of the states' and of the blocks' files that are to be removed before anything else is written."""
        states, self._states_to_remove = self._states_to_remove, []
        blocks, self._blocks_to_remove = self._blocks_to_remove, []
        if not states and not blocks:
            return [], []
        # What was dropped may have been wanted again since, by the very save that it was dropped for.
        kept = {filed.file.name for filed in [*self._filed, *([self._save.filed] if self._save else [])]}
        return [name for name in states if name not in kept], [key for key in blocks if key not in self._num_holders]

    def _make_room(self, num_bytes: int, keys: tuple[bytes, ...] = ()) -> bool:
        """For so many more and blocks that are counted already, at the cost of what saves least for its size.

        False, and nothing lost, when that could never do.
        """
        if self.num_bytes + num_bytes <= self.max_bytes:
            return True
        read = [f for f in self._filed if f.num_loads]
        blocks = {key for names in (keys, *(f.file.keys for f in read)) for key in names[1:]}
        if num_bytes + sum(f.num_bytes for f in read) + len(blocks) * self._block_bytes > self.max_bytes:
            return False
        now = self._clock()
        idle = [f for f in self._filed if not f.num_loads]
        for filed in sorted(idle, key=lambda f: (f.is_protected(now), f.value(now) / self._own_bytes(f))):
            self._remove(filed)
            self.num_evictions += 1
            if self.num_bytes + num_bytes <= self.max_bytes:
                break
        return True

    def _own_bytes(self, filed: FiledCheckpoint) -> float:
        return filed.num_bytes + filed.num_beyond * self._block_bytes / self._cache.block_size

    def _checkpoint_of(self, lineage: Lineage, state: FiledState, last_used: float) -> FiledCheckpoint:
        position = len(state.tokens)
        tail_bytes = position % self._cache.block_size * self._block_bytes // self._cache.block_size
        num_bytes = self._state_bytes + tail_bytes + state.tokens.itemsize * position + KEY_BYTES * len(state.keys)
        return FiledCheckpoint(lineage, position, state.num_turns, state.is_answer, last_used, state, num_bytes)

    def _tail(self, block_ids: tuple[int, ...], position: int) -> tuple[int, int] | None:
        num_whole, num_tokens = divmod(position, self._cache.block_size)
        return (block_ids[num_whole], num_tokens) if num_tokens else None

    def _enter(self, filed: FiledCheckpoint) -> None:
        """Its blocks are held already."""
        self._filed.add(filed)
        self.num_bytes += filed.num_bytes

    def _remove(self, filed: FiledCheckpoint) -> None:
        self._filed.remove(filed)
        self.num_bytes -= filed.num_bytes
        self._states_to_remove.append(filed.file.name)
        self._let_go(filed.file.keys)

    def _hold(self, keys: tuple[bytes, ...]) -> None:
        for key in keys[1:]:
            num_holders = self._num_holders.get(key, 0)
            self._num_holders[key] = num_holders + 1
            self.num_bytes += 0 if num_holders else self._block_bytes

    def _let_go(self, keys: tuple[bytes, ...]) -> None:
        for key in keys[1:]:
            self._num_holders[key] -= 1
            if not self._num_holders[key]:
                del self._num_holders[key]
                self._blocks_to_remove.append(key)
                self.num_bytes -= self._block_bytes

    def check(self) -> None:
        """Raise `InvariantViolation` unless the states account for all blocks and bytes."""
        holders: dict[bytes, int] = {}
        for filed in [*self._filed, *([self._save.filed] if self._save else [])]:
            for key in filed.file.keys[1:]:
                holders[key] = holders.get(key, 0) + 1
        if holders != self._num_holders:
            raise InvariantViolation(f"blocks in {self.tier} have other holders than those that hold them")
        if self.num_bytes != len(holders) * self._block_bytes + sum(f.num_bytes for f in self._filed):
            raise InvariantViolation(f"{self.num_bytes} bytes in {self.tier} are not what the states account for")


def _state_name(key: bytes, tail: "array[int]") -> str:
    return blake2b(key + tail.tobytes(), digest_size=KEY_BYTES).hexdigest()
