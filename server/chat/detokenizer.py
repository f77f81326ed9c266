"""Token ids to text, as they come.

Lives here: what a half-arrived character means for a stream. It may not know stop strings, tool calls or requests.
"""

import codecs
from collections.abc import Iterable

from server.chat.tokenizer import Tokenizer


class Detokenizer:
    """The text of one growing token sequence.

    However the ids are portioned, the texts of all `feed`s and the final `flush` joined are
    `tokenizer.decode(all_ids)`: a character whose bytes are not all there is held back, bytes that can never become one
    turn into U+FFFD. Work is linear in the tokens, since only the bytes of an open character (at most three) are kept.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._open = b""  # the beginning of a character

    def feed(self, ids: Iterable[int]) -> str:
        """The text that is certain once these ids are known too."""
        known = self._open + self._tokenizer.join_bytes(ids, self._skip_special_tokens)
        text, num_decoded = codecs.utf_8_decode(known, "replace", False)
        self._open = known[num_decoded:]
        return text

    def flush(self) -> str:
        """The text of what was held back; nothing more will come."""
        held, self._open = self._open, b""
        return held.decode("utf-8", "replace")
