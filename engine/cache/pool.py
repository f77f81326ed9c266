"""Pools of numbered things: state slots with one owner, KV blocks with several. They do not know what these hold."""

from collections.abc import Iterable

from engine.errors import InvariantViolation


class IdPool:
    """Hands out ids 0 … size-1, each to one owner at a time. The id released last is handed out first."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._free = list(range(size - 1, -1, -1))
        self._is_free = [True] * size

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_used(self) -> int:
        return self.size - len(self._free)

    def is_free(self, i: int) -> bool:
        return self._is_free[i]

    def take(self, count: int) -> list[int] | None:
        """`count` ids, or None and nothing taken when there are not as many."""
        if count > len(self._free):
            return None
        taken = [self._free.pop() for _ in range(count)]
        for i in taken:
            self._is_free[i] = False
        return taken

    def give_back(self, ids: Iterable[int]) -> None:
        for i in ids:
            if self._is_free[i]:
                raise InvariantViolation(f"id {i} was released twice")
            self._is_free[i] = True
            self._free.append(i)


class SharedPool:
    """Ids with any number of holders, of two kinds: live ones compute with them, the others only keep them."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._ids = IdPool(size)
        self._holders = [0] * size
        self._live = [0] * size
        self.num_live = 0

    @property
    def num_free(self) -> int:
        """Ids without any holder."""
        return self._ids.num_free

    def num_holders(self, i: int) -> int:
        return self._holders[i]

    def num_live_holders(self, i: int) -> int:
        return self._live[i]

    def is_live(self, i: int) -> bool:
        return self._live[i] > 0

    def take(self, count: int) -> list[int] | None:
        """`count` free ids for a live holder, or None and nothing taken when there are not as many."""
        taken = self._ids.take(count)
        if taken is not None:
            for i in taken:
                self._holders[i] = self._live[i] = 1
            self.num_live += count
        return taken

    def hold(self, ids: Iterable[int], *, live: bool) -> None:
        """One more holder of ids that have one."""
        for i in ids:
            if not self._holders[i]:
                raise InvariantViolation(f"id {i} is held, but nobody's")
            self._holders[i] += 1
            if live:
                self.num_live += not self._live[i]
                self._live[i] += 1

    def let_go(self, ids: Iterable[int], *, live: bool) -> None:
        """One holder less; an id without any is free."""
        for i in ids:
            if not self._holders[i] or (live and not self._live[i]):
                raise InvariantViolation(f"id {i} was released twice")
            self._holders[i] -= 1
            if live:
                self._live[i] -= 1
                self.num_live -= not self._live[i]
            if not self._holders[i]:
                self._ids.give_back([i])
