"""`CallObject`: the JSON object of one call, `{"name": ..., "arguments": {...}}`, in portions.

Lives here: which member is which, and what of the arguments may go out. It may not know the tags around the object.

The members may come in any order, and others with them. Arguments that are an object are handed on as they come. Text
that holds such an object counts as the object, and null or nothing as an empty one; that waits for its end. The last
bracket of the arguments waits for the end of the whole object, so that a call that is cut off never looks complete.
"""

import json

from server.chat.json_scan import Expects, JsonScanner, mended

_ARGUMENTS = ("arguments", "parameters")


class CallObject:
    """Feed it the text from the opening bracket on. `name` is the function's, once known."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.told_to = 0
        self._json = JsonScanner()
        self._is_refused = False
        self._written: list[str] = []  # all before the arguments, for a call that breaks there
        self._key: list[str] = []
        self._member: str | None = None  # whose value is being read
        self._value: list[str] = []
        self._fragments: list[str] = []
        self._arguments: str | None = None  # complete, as far as they have not gone out
        self._streams = False

    @property
    def is_done(self) -> bool:
        return self._json.expects is Expects.NOTHING

    @property
    def is_broken(self) -> bool:
        """Whether the object cannot go on like that: it is no JSON, or names no function."""
        return self._json.is_broken or self._is_refused

    @property
    def has_arguments(self) -> bool:
        """Whether the arguments are complete, whatever becomes of the rest."""
        return self._arguments is not None

    def feed(self, text: str, at: int, ended: bool) -> int:
        """Read `text` from `at` on: to its end, the object's, a unit that is not whole or wrong, or behind the name.

        Returns where it stopped; `told_to` is where the last unit was that brought some of the arguments.
        """
        self.told_to = at
        had_name = self.name is not None
        while at < len(text) and not self.is_done and not self.is_broken:
            was_in_key = self._json.in_key
            step = self._json.step(text, at, ended)
            if step is None:
                break
            at, written = step
            if self.is_broken:
                break
            self._note(written, was_in_key or self._json.in_key)
            if self._streams and written:
                self.told_to = at
            if self.name is not None and not had_name:
                break
        return at

    def take(self) -> str:
        """The arguments that came since the last time."""
        taken = "".join(self._fragments)
        self._fragments.clear()
        return taken

    def close(self) -> str | None:
        """The rest of the arguments if they are complete or lack only brackets; None if more is wrong with them."""
        missing = self._json.missing
        if self._arguments is None and missing is not None:
            if self._value and self._member in _ARGUMENTS:
                self._end_arguments(missing[:-1])
            else:
                self._arguments = "{}"
        return self._arguments

    def as_written(self) -> str:
        """What has not gone out yet of a call whose arguments are broken: no JSON, whatever follows."""
        if self._streams:
            return ""
        return "".join(self._value if self._value and self._member in _ARGUMENTS else self._written)

    def _note(self, written: str, is_key: bool) -> None:
        depth, expects = self._json.depth, self._json.expects
        if self._arguments is None and not self._streams:
            self._written.append(written)
        if self._member is not None:
            self._note_value(written, has_ended=depth == 1 and expects is Expects.COMMA)
        elif depth == 1 and is_key:
            self._key.append(written)
        elif depth == 1 and expects is Expects.VALUE:
            self._member = json.loads("".join(self._key))
            self._key.clear()

    def _note_value(self, written: str, has_ended: bool) -> None:
        if not self._value and written.isspace():
            return
        is_first = not self._value
        if is_first or not self._streams:
            self._value.append(written)
        is_arguments = self._member in _ARGUMENTS and self._arguments is None
        if is_arguments and is_first:
            self._streams = written == "{"
        if has_ended:
            if is_arguments:
                self._end_arguments("")
            elif self._member == "name" and self.name is None:
                self._end_name()
            self._member = None
            self._value.clear()
        elif is_arguments and self._streams:
            self._fragments.append(written)

    def _end_name(self) -> None:
        text = "".join(self._value)
        name = json.loads(text).strip() if text.startswith('"') else ""
        self._is_refused = not name
        self.name = name or None

    def _end_arguments(self, missing: str) -> None:
        if self._streams:
            self._arguments, self._streams = missing or "}", False
        else:
            self._arguments = _object_in("".join(self._value) + missing)


def _object_in(text: str) -> str:
    """The object that arguments mean which are JSON, but no object; as they are if they mean none."""
    if text == "null":
        return "{}"
    if not text.startswith('"'):
        return text
    inner = json.loads(text).strip()
    value = mended(inner) if inner.startswith("{") else None
    return value or (text if inner else "{}")
