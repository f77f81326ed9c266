"""The seam between the cache and its lower tiers: states that are written there, or read, beside the steps.

Like a plan these are plain integers and bytes, so that what carries them out knows nothing of the cache, and a test can
do without files. Standard library only.
"""

from array import array
from dataclasses import dataclass
from typing import Protocol

KEY_BYTES = 16  # of a name of a prefix


@dataclass(frozen=True, slots=True, eq=False)
class FiledState:
    """What a state's file says of it, but the state itself.

    Attributes:
        name: of the file, made from the tokens and the salt.
        tokens: all that it has seen.
        keys: the names of its prefixes of 0, 1, … whole KV blocks: of the blocks' files, but the first.
        salt, session, num_turns, is_answer: see `engine.cache`.
        idle_seconds: since it was last used.
    """

    name: str
    tokens: "array[int]"
    keys: tuple[bytes, ...]
    salt: str
    session: str | None
    num_turns: int
    is_answer: bool
    idle_seconds: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Transfer:
    """A state on its way between memory and files.

    Attributes:
        slot: where the state is, or is to be.
        blocks: names and ids of the whole KV blocks that go with it; those missing are on the other side already.
        tail: id of the block after the whole ones, and how many tokens of it belong to the state; None for none.
    """

    state: FiledState
    slot: int
    blocks: tuple[tuple[bytes, int], ...]
    tail: tuple[int, int] | None


class FileDamaged(Exception):
    """A file is not what was written, or not ours. `block` is the name of the KV block in it, if it has one."""

    def __init__(self, reason: str, block: bytes | None = None) -> None:
        super().__init__(reason)
        self.block = block


class StateFiles(Protocol):
    """Whatever keeps states: a folder, or a dictionary in a test.

    Calls block; one thread reads, one writes, one does the rest.
    """

    def known(self) -> list[FiledState]:
        """All that could be read, whatever was left half done removed."""
        ...

    def write(self, transfer: Transfer) -> None:
        """Put down a copy that nobody finds yet. What is copied may be overwritten meanwhile: then it is discarded.

        Raises:
            OSError: the disk is full, or worse.
        """
        ...

    def publish(self, transfer: Transfer) -> None:
        """What was written stands. Raises `OSError`."""
        ...

    def discard(self, transfer: Transfer) -> None:
        """What was written was not to be."""
        ...

    def read(self, transfer: Transfer) -> None:
        """Bring a state back.

        Raises:
            FileDamaged: it will never be had. Memory holds rubbish.
            OSError: it cannot be had now. Memory holds rubbish.
        """
        ...

    def touch(self, states: list[str]) -> None:
        """These were used just now."""
        ...

    def remove(self, states: list[str], blocks: list[bytes]) -> None:
        """Forget files, by name; those that are not there too."""
        ...

    def close(self) -> None:
        """What is being written or read ends soon, with an `OSError`, and nothing more is begun."""
        ...
