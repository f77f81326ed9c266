"""`SeenTokens`: what penalties look at."""

from array import array
from collections.abc import Iterable


class SeenTokens:
    """The distinct tokens of a growing text in the order of their first appearance, and how often each was generated.

    A penalty needs no more. Counting token by token and copying arrays keeps it cheap in long conversations.
    """

    def __init__(self, prompt_ids: Iterable[int]) -> None:
        self._places = {token_id: place for place, token_id in enumerate(dict.fromkeys(prompt_ids))}
        self._ids = array("q", self._places)
        self._counts = array("q", bytes(self._ids.itemsize * len(self._ids)))

    def add(self, token_id: int) -> None:
        """Count a generated token."""
        place = self._places.setdefault(token_id, len(self._ids))
        if place == len(self._ids):
            self._ids.append(token_id)
            self._counts.append(0)
        self._counts[place] += 1

    def snapshot(self) -> "tuple[array[int], array[int]]":
        """Ids and counts as they are now."""
        return self._ids[:], self._counts[:]
