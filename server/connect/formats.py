"""The formats of configuration files: how each is read, changed and written, by libraries that keep comments.

A change is trusted only after the changed text has been read back and says what it should. Knows nothing of clients.
"""

import io
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import product
from typing import Any

import tomlkit
import tomlkit.exceptions
import yaml
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from server.connect import json_edit, json_nodes, lines
from server.connect.tree import CannotMerge, merge, plain

_FLAT = (2, 0)
_STEPS = [(2, 2), _FLAT, *product((4, 3, 8), (0, 2, 4))]  # blanks before what is in a table, before dashes of a list


class Unreadable(Exception):
    """A file is not what its format asks for."""


@dataclass(frozen=True, slots=True)
class Format:
    """One format. `parse` gives plain values, None for an empty text; both raise `ValueError` for what it is not."""

    name: str
    parse: Callable[[str], Any]
    edit: Callable[[str, Any], str]

    def merged(self, text: str, content: Any) -> str:
        """The text, changed so that it says `content` as well; the same text, if it says so already.

        Raises:
            Unreadable: the text is not of this format.
            CannotMerge: it leaves no place for the content.
        """
        is_crlf = "\n" in text and text.count("\r\n") == text.count("\n")
        text, original = text.replace("\r\n", "\n") if is_crlf else text, text
        try:
            before = self.parse(text)
            wanted = merge(self.parse(text), content)
            if before == wanted and before is not None:
                return original
            changed = self.edit(text, content)
            if self.parse(changed) != wanted:
                raise CannotMerge("it is written in a way that cannot be added to safely")
        except ValueError as error:
            raise Unreadable(f"it is not {self.name}: {' '.join(str(error).split())}") from None
        return changed.replace("\n", "\r\n") if is_crlf else changed

    def fresh(self, content: Any) -> str:
        """A text that says `content`."""
        return self.merged("", content)


def _parse_json(text: str) -> Any:
    return None if json_nodes.is_blank(text) else json_nodes.read(text).value


def _parse_yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, YAMLError, RecursionError) as error:
        raise ValueError(_yaml_problem(error)) from None


def _yaml_problem(error: Exception) -> str:
    """What is wrong, and where; the whole message quotes the line, which may have a key in it."""
    mark = getattr(error, "problem_mark", None)
    where = f" in line {mark.line + 1}" if mark else ""
    return f"{getattr(error, 'problem', None) or type(error).__name__}{where}"


def _edit_yaml(text: str, content: Any) -> str:
    if yaml.safe_load(text) is None:
        text += "\n" if text and not text.endswith("\n") else ""
        return text + _dumped(plain(content), *(_STEPS[0] if isinstance(content, Mapping) else _FLAT))
    try:
        steps = min(_STEPS, key=lambda steps: _num_changed_lines(text, _dumped(_yaml_document(text), *steps)))
        return _dumped(merge(_yaml_document(text), content), *steps)
    except YAMLError as error:
        raise ValueError(_yaml_problem(error)) from None


def _yaml_document(text: str) -> Any:
    parser = YAML()
    parser.preserve_quotes = True
    return parser.load(text)


def _dumped(document: Any, mapping: int, offset: int) -> str:
    """A document whose tables go in by `mapping` blanks, and whose lists' dashes by `offset`."""
    parser = YAML()
    parser.width = 1 << 16  # lines stay as long as they are
    parser.indent(mapping=mapping, sequence=offset + 2, offset=offset)
    stream = io.StringIO()
    parser.dump(document, stream)
    return stream.getvalue()


def _num_changed_lines(old: str, new: str) -> int:
    lines = SequenceMatcher(a=old.splitlines(), b=new.splitlines(), autojunk=False)
    return sum(max(a_end - a, b_end - b) for tag, a, a_end, b, b_end in lines.get_opcodes() if tag != "equal")


def _edit_toml(text: str, content: Any) -> str:
    try:
        return tomlkit.dumps(merge(tomlkit.parse(text), content))
    except tomlkit.exceptions.TOMLKitError as error:
        raise ValueError(str(error)) from None


JSON = Format("valid JSON", _parse_json, json_edit.edited)
YAML_FILE = Format("valid YAML", _parse_yaml, _edit_yaml)
TOML = Format("valid TOML", lambda text: tomllib.loads(text) or None, _edit_toml)
VARIABLES = Format("a list of variables", lines.parse, lambda text, content: lines.edited(text, content, ""))
EXPORTS = Format("a list of variables", lines.parse, lambda text, content: lines.edited(text, content, "export "))
