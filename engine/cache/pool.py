"""A pool of interchangeable numbered things: KV blocks, or state slots. It knows nothing of what they hold."""

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
