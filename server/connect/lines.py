"""Files of variables, one a line: `.env` files, and scripts that a shell sources. Other lines stay as they are.

Knows nothing of clients.
"""

import re
import shlex
from collections.abc import Mapping

from server.connect.tree import plain

_LINE = re.compile(r"^([ \t]*(?:export[ \t]+)?)([A-Za-z_]\w*)=(.*)$", re.MULTILINE)


def parse(text: str) -> dict[str, str]:
    """The variables and their values. Raises `ValueError` for quotes that do not close in their line."""
    return {match[2]: "".join(shlex.split(match[3], comments=True)) for match in _LINE.finditer(text)}


def edited(text: str, content: Mapping[str, str], before: str) -> str:
    """The text with these variables in it; a line that sets one already is replaced where it stands."""
    present = parse(text)
    for name, value in plain(content).items():
        setting = f"{name}={shlex.quote(value)}"
        if name not in present:
            text += "\n" if text and not text.endswith("\n") else ""
            text += f"{before}{setting}\n"
        elif present[name] != value:
            last = [match for match in _LINE.finditer(text) if match[2] == name][-1]
            text = text[: last.start()] + (last[1] or before) + setting + text[last.end() :]
    return text
