"""A bounded memory of encoded pieces of text.

Lives here: keeping the token ids of what was encoded lately, within a budget of bytes. It may not know what a piece is.
"""

import threading
from array import array
from collections import OrderedDict
from collections.abc import Sequence

_ENTRY_BYTES = 300  # the dictionary's link, the key's and the array's headers


class PieceCache:
    """Text to token ids, least recently used out first. Safe to use from several threads.

    Ids are kept as 32-bit integers: four bytes a token beside the text itself, where a list takes up to forty.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._entries: OrderedDict[str, array[int]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def num_bytes(self) -> int:
        """Bytes held, within a few percent."""
        return self._num_bytes

    def get(self, text: str) -> Sequence[int] | None:
        """The ids of `text` if they are still known."""
        with self._lock:
            ids = self._entries.get(text)
            if ids is not None:
                self._entries.move_to_end(text)
            return ids

    def put(self, text: str, ids: Sequence[int]) -> None:
        """Remember `ids`. What alone exceeds the budget is not kept."""
        kept = array("I", ids)
        with self._lock:
            if text in self._entries or _size(text, kept) > self._max_bytes:
                return
            self._entries[text] = kept
            self._num_bytes += _size(text, kept)
            while self._num_bytes > self._max_bytes:
                self._num_bytes -= _size(*self._entries.popitem(last=False))


def _size(text: str, ids: "array[int]") -> int:
    bytes_per_character = 1 if text.isascii() else 2 if max(text) < "\U00010000" else 4
    return _ENTRY_BYTES + len(text) * bytes_per_character + len(ids) * ids.itemsize
