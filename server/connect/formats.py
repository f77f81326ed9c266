"""The formats of configuration files: how each is read, changed and written, by libraries that keep comments.

A change is trusted only after the changed text has been read back and says what it should. Knows nothing of clients.
"""

import io
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import tomlkit
import tomlkit.exceptions
import yaml
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.util import load_yaml_guess_indent

from server.connect import json_edit, json_nodes, lines
from server.connect.tree import CannotMerge, merge, plain


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
        try:
            before = self.parse(text)
            wanted = merge(self.parse(text), content)
            if before == wanted and before is not None:
                return text
            changed = self.edit(text, content)
            if self.parse(changed) != wanted:
                raise CannotMerge("it is written in a way that cannot be added to safely")
        except ValueError as error:
            raise Unreadable(f"it is not valid {self.name}: {' '.join(str(error).split())}") from None
        return changed

    def fresh(self, content: Any) -> str:
        """A text that says `content`."""
        return self.merged("", content)


def _parse_json(text: str) -> Any:
    return None if json_nodes.is_blank(text) else json_nodes.read(text).value


def _parse_yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from None


def _edit_yaml(text: str, content: Any) -> str:
    parser = YAML()
    parser.preserve_quotes = True
    parser.width = 1 << 16  # lines stay as long as they are
    if yaml.safe_load(text) is None:
        if isinstance(content, Mapping):
            parser.indent(mapping=2, sequence=4, offset=2)
        return text + _dumped(parser, plain(content))
    try:
        document, indent, offset = load_yaml_guess_indent(text, yaml=parser)
    except YAMLError as error:
        raise ValueError(str(error)) from None
    parser.indent(mapping=indent or 2, sequence=(offset or 0) + 2, offset=offset or 0)
    return _dumped(parser, merge(document, content))


def _dumped(parser: YAML, document: Any) -> str:
    stream = io.StringIO()
    parser.dump(document, stream)
    return stream.getvalue()


def _edit_toml(text: str, content: Any) -> str:
    try:
        return tomlkit.dumps(merge(tomlkit.parse(text), content))
    except tomlkit.exceptions.TOMLKitError as error:
        raise ValueError(str(error)) from None


JSON = Format("JSON", _parse_json, json_edit.edited)
YAML_FILE = Format("YAML", _parse_yaml, _edit_yaml)
TOML = Format("TOML", lambda text: tomllib.loads(text) or None, _edit_toml)
VARIABLES = Format("a list of variables", lines.parse, lambda text, content: lines.edited(text, content, ""))
EXPORTS = Format("a list of variables", lines.parse, lambda text, content: lines.edited(text, content, "export "))
