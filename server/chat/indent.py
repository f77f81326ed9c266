"""Ends a completion where the code goes on outside the block that is being written: at a line with less indentation.

Knows text, no tokens.
"""

_BLANKS = frozenset(" \t")
_BREAKS = frozenset("\r\n")


class IndentStop:
    """Feed it text; it gives back what belongs to the block. The first line has begun already, blank ones pass."""

    def __init__(self, least: int) -> None:
        """`least` blanks must stand before each line; 0 lets everything pass."""
        self.found = False
        self._least = least
        self._held = ""  # a line break and the blanks after it, until what follows is known
        self._width = 0

    def feed(self, text: str) -> str:
        """The text that may be shown; once `found` there is none any more."""
        if not self._least:
            return text
        shown = []
        for character in text:
            if self.found:
                break
            shown.append(self._take(character))
        return "".join(shown)

    def _take(self, character: str) -> str:
        if not self._held and character not in _BREAKS:
            return character
        if character in _BREAKS:
            self._width = 0
        elif character in _BLANKS:
            self._width += 1
        else:
            self.found = self._width < self._least and "\n" in self._held
            held = self.flush()
            return "" if self.found else held + character
        self._held += character
        return ""

    def flush(self) -> str:
        """The text that was held back, when no more will come."""
        held, self._held = self._held, ""
        return held
