"""JSON that arrives in portions: where a value ends, and its text with small slips mended.

Lives here: a scanner that takes one unit at a time (a bracket, a word, some of a string) and says what to write for it.
It keeps brackets and strings apart and knows what may come next; it may not know what the JSON is about.

Written as it came, but for what models get wrong and can mean only one thing: a line break or another control
character in a string, a backslash that escapes nothing, a comma before a closing bracket, Python's True, False, None.
What is written is at any time the beginning of a JSON value, and where the scanner breaks, no JSON goes on like that.
"""

import json
import re
from enum import Enum, auto

_SPACE = re.compile(r"[ \t\r\n]+")
_COMMA = re.compile(r",[ \t\r\n]*")
_PLAIN = re.compile(r'[^"\\\x00-\x1f]+')
_ESCAPE = re.compile(r'\\(["\\/bfnrt]|u[0-9a-fA-F]{4})')
_OPEN_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{0,3})?\Z")
_WORD = re.compile(r"[-+.eE0-9]+|[A-Za-z]{1,5}")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_NAMED = {"true": "true", "false": "false", "null": "null", "True": "true", "False": "false", "None": "null"}


class Expects(Enum):
    """What may come next, outside strings. A container may also end where it expects a key, an element or a comma."""

    VALUE = auto()
    ELEMENT = auto()
    KEY = auto()
    COLON = auto()
    COMMA = auto()
    NOTHING = auto()


_BEFORE_VALUE = (Expects.VALUE, Expects.ELEMENT)
_BEFORE_CLOSER = (Expects.COMMA, Expects.KEY, Expects.ELEMENT)


class JsonScanner:
    """Follows one JSON value. `expects` is what may come next; `in_key` tells whether a member's key is being read."""

    def __init__(self) -> None:
        self.expects = Expects.VALUE
        self.in_key = False
        self.is_broken = False
        self._in_string = False
        self._closers: list[str] = []

    @property
    def depth(self) -> int:
        """How many containers are open."""
        return len(self._closers)

    @property
    def missing(self) -> str | None:
        """The closing brackets that would complete the value; None if more than these is missing."""
        if self._in_string or self.expects in (Expects.VALUE, Expects.COLON):
            return None
        return "".join(reversed(self._closers))

    def step(self, text: str, at: int, ended: bool) -> tuple[int, str] | None:
        """Take the unit at `at`: where the text goes on, and what to write. None if the unit is not whole yet.

        With `ended` no more text will come. A unit that cannot be there breaks the scanner and is not taken.
        """
        if self._in_string:
            return self._step_in_string(text, at, ended)
        character = text[at]
        if space := _SPACE.match(text, at):
            return space.end(), space[0]
        if character == "," and self.expects is Expects.COMMA:
            return self._comma(text, at, ended)
        if self.expects in _BEFORE_VALUE and (word := _WORD.match(text, at)):
            return self._word(word[0], at, is_whole=ended or word.end() < len(text))
        if character == '"' and self.expects in (*_BEFORE_VALUE, Expects.KEY):
            self._in_string, self.in_key = True, self.expects is Expects.KEY
        elif character in "{[" and self.expects in _BEFORE_VALUE:
            self._closers.append("}" if character == "{" else "]")
            self.expects = Expects.KEY if character == "{" else Expects.ELEMENT
        elif character == ":" and self.expects is Expects.COLON:
            self.expects = Expects.VALUE
        elif self._closers and character == self._closers[-1] and self.expects in _BEFORE_CLOSER:
            self._closers.pop()
            self._value_ended()
        else:
            return self._break(at)
        return at + 1, character

    def _comma(self, text: str, at: int, ended: bool) -> tuple[int, str] | None:
        comma = _COMMA.match(text, at)
        end = comma.end() if comma else at + 1
        if end == len(text) and not ended:
            return None
        if text[end : end + 1] in ("", "<", self._closers[-1]):
            return end, ""
        self.expects = Expects.KEY if self._closers[-1] == "}" else Expects.ELEMENT
        return end, text[at:end]

    def _word(self, word: str, at: int, is_whole: bool) -> tuple[int, str] | None:
        if not is_whole and (not word.isalpha() or any(name.startswith(word) for name in _NAMED)):
            return None
        written = word if _NUMBER.fullmatch(word) else _NAMED.get(word)
        if written is None:
            return self._break(at)
        self._value_ended()
        return at + len(word), written

    def _step_in_string(self, text: str, at: int, ended: bool) -> tuple[int, str] | None:
        if found := _PLAIN.match(text, at) or _ESCAPE.match(text, at):
            return found.end(), found[0]
        character = text[at]
        if character == '"':
            self._in_string = False
            if self.in_key:
                self.in_key, self.expects = False, Expects.COLON
            else:
                self._value_ended()
            return at + 1, character
        if character != "\\":
            return at + 1, json.dumps(character)[1:-1]
        if _OPEN_ESCAPE.match(text, at) and not ended:
            return None
        return (at + 2, "'") if text.startswith("'", at + 1) else (at + 1, "\\\\")

    def _value_ended(self) -> None:
        self.expects = Expects.COMMA if self._closers else Expects.NOTHING

    def _break(self, at: int) -> tuple[int, str]:
        self.is_broken = True
        return at, ""


def mended(text: str) -> str | None:
    """The JSON value that `text` is, with small slips mended; None if it is none."""
    scanner = JsonScanner()
    parts: list[str] = []
    at = 0
    while at < len(text) and not scanner.is_broken:
        step = scanner.step(text, at, ended=True)
        if step is not None:
            at, written = step
            parts.append(written)
    return "".join(parts) if scanner.expects is Expects.NOTHING and not scanner.is_broken else None
