"""`CustomInput`: the text that a tool of free text is called with, out of the arguments that the model writes.

Lives here: reading the JSON string of `{"input": "…"}` while it comes. It may not know events or items.
"""

import json
import re

from server.dialects.responses.offer import INPUT

_BEGINNING = re.compile(rf'\s*\{{\s*"{INPUT}"\s*:\s*"')
_LONGEST_BEGINNING = 64
# Whole units of a JSON string; half of a surrogate pair waits for the other half.
_UNITS = re.compile(
    r"(?:[^\"\\]+|\\[\"\\/bfnrt]|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[0-9a-fA-F]{4}"
    r"|\\u(?![dD][89abAB])[0-9a-fA-F]{4}|\\u[dD][89abAB][0-9a-fA-F]{2}(?=[^\\]|\\[^u]))*"
)


class CustomInput:
    """Feed it the arguments in portions; it gives the text as far as that is known."""

    def __init__(self) -> None:
        self._arguments: list[str] = []
        self._rest = ""  # not yet read
        self._is_inside = False
        self._is_over = False

    def feed(self, fragment: str) -> str:
        """More of the arguments; more of the text."""
        self._arguments.append(fragment)
        if self._is_over:
            return ""
        self._rest += fragment
        if not self._is_inside and not self._enter():
            return ""
        return self._read()

    def finish(self) -> str:
        """What is still to come of the text. What has another shape than it should is told as it is."""
        if self._is_inside:
            return "" if self._is_over else self._rest
        whole = "".join(self._arguments)
        return "" if whole.strip() == "{}" else whole

    @property
    def is_whole(self) -> bool:
        """Whether the arguments are complete."""
        return is_complete("".join(self._arguments))

    def _enter(self) -> bool:
        found = _BEGINNING.match(self._rest)
        if found is None:
            self._is_over = len(self._rest) > _LONGEST_BEGINNING
            return False
        self._is_inside = True
        self._rest = self._rest[found.end() :]
        return True

    def _read(self) -> str:
        found = _UNITS.match(self._rest)
        assert found is not None  # it matches nothing, too
        self._rest = self._rest[found.end() :]
        self._is_over = self._rest.startswith('"')
        return str(json.loads(f'"{found[0]}"', strict=False))


def is_complete(arguments: str) -> bool:
    """Whether a call's arguments are all there: those of one that was cut off are no JSON."""
    try:
        json.loads(arguments)
    except (ValueError, RecursionError):
        return False
    return True
