"""`Syntax`: whether what comes next in a held text is part of a value or of what is written around values."""

import re

MOST_BYTES = 512  # of what was written last are looked at


class Syntax:
    """Follows a held text. `in_value` tells of what comes next."""

    def __init__(self, beginning: str, end: str) -> None:
        """A value begins where the text so far matches a regular expression at its end, and ends with a text."""
        self._beginning = re.compile(rf"(?:{beginning})\Z".encode(), re.DOTALL)
        self._end = end.encode()
        self._text = b""
        self.in_value = False

    def feed(self, text: bytes) -> None:
        """More of it."""
        self._text += text
        if self.in_value and self._end in self._text:
            self.in_value = False
            self._text = self._text[self._text.index(self._end) + len(self._end) :]
        if not self.in_value and self._beginning.search(self._text):
            self.in_value = True
            self._text = self._text[-1:]  # the line break before a value may be the one before its end
        self._text = self._text[-MOST_BYTES:]
