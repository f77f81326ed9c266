"""The end of a growing text, and what can already be said about it.

Lives here: a cursor over text that arrives in pieces, with questions whose answer is yes, no, or None for "not known
yet". It may not know what it is searched for.
"""

import re
from collections.abc import Iterable

_SPACE = re.compile(r"\s*")


class Tail:
    """The part of a stream that is not dealt with yet: `text` from `at` on. Positions hold until the next `feed`."""

    def __init__(self) -> None:
        self.text = ""
        self.at = 0
        self.ended = False
        self._num_gone = 0

    @property
    def is_empty(self) -> bool:
        return self.at == len(self.text)

    @property
    def num_done(self) -> int:
        """How much of the stream is dealt with."""
        return self._num_gone + self.at

    def feed(self, text: str) -> None:
        """Let go of what is dealt with and append `text`."""
        self._num_gone += self.at
        self.text = self.text[self.at :] + text
        self.at = 0

    def skip(self, length: int) -> None:
        """So much more text came while nothing waited, and is dealt with already."""
        self._num_gone += length

    def find(self, sought: str) -> int:
        """Where `sought` comes next; -1 if it has not come."""
        return self.text.find(sought, self.at)

    def num_begun(self, literal: str) -> int:
        """How much of `literal` the text ends with: it may go on."""
        most = min(len(literal) - 1, len(self.text) - self.at)
        return next((n for n in range(most, 0, -1) if self.text.endswith(literal[:n])), 0)

    def take(self, end: int) -> str:
        """The text up to `end`, now dealt with."""
        taken = self.text[self.at : end]
        self.at = end
        return taken

    def has(self, literal: str, at: int) -> bool | None:
        """Whether `literal` stands at `at`; None while the text ends inside it."""
        if self.text.startswith(literal, at):
            return True
        if self.ended or len(self.text) - at >= len(literal):
            return False
        return None if literal.startswith(self.text[at:]) else False

    def has_any(self, literals: Iterable[str], at: int) -> bool | None:
        """Whether one of `literals` stands at `at`; None while one still could."""
        answers = [self.has(literal, at) for literal in literals]
        return True if True in answers else None if None in answers else False

    def has_followed(self, literal: str, at: int, followers: Iterable[str], or_end: bool = True) -> bool | None:
        """Whether `literal` stands at `at` and then, whitespace aside, one of `followers` or the end of the stream."""
        answer = self.has(literal, at)
        if not answer:
            return answer
        behind = self.skip_space(at + len(literal))
        if self.ended and behind == len(self.text):
            return or_end
        return self.has_any(followers, behind)

    def tag_end(self, start: int) -> int:
        """Where the tag that `start` is in ends: at ">", or at the end of its line; -1 if neither came yet."""
        ends = [end for end in (self.text.find(">", start), self.text.find("\n", start)) if end >= 0]
        return min(ends, default=-1)

    def behind_tag(self, end: int) -> int:
        """Where the text goes on after a tag with that end."""
        return end + 1 if self.text[end] == ">" else end

    def skip_space(self, at: int) -> int:
        """The first position from `at` on that is no whitespace, or the end of the text."""
        found = _SPACE.match(self.text, at)
        return found.end() if found else at

    def before_newline(self, end: int) -> int:
        """`end`, or where the line break just before it begins."""
        for character in "\n\r":
            if end == self.at or self.text[end - 1] != character:
                break
            end -= 1
        return end

    def before_open_end(self) -> int:
        """Where the text ends, or a line break at its end begins, one that is not whole yet too."""
        end = len(self.text)
        return end - 1 if end > self.at and self.text[end - 1] == "\r" else self.before_newline(end)
