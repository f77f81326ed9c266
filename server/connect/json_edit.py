"""Changing a JSON text only where it must be: comments, order, spaces and commas stay as their author left them.

Knows nothing of clients or files.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from server.connect.json_nodes import Node, is_blank, read
from server.connect.tree import CannotMerge, Unless, is_list_of_tables, place_in, plain, same

_INDENT = re.compile(r'^([ \t]+)"', re.MULTILINE)

Change = tuple[int, int, str]  # from, up to, and what comes there


def fresh(content: Any) -> str:
    """A text that says `content`."""
    return json.dumps(plain(content), indent=2, ensure_ascii=False) + "\n"


def edited(text: str, content: Any) -> str:
    """The text, changed so that it says `content` as well. Raises `ValueError` or `CannotMerge`."""
    if is_blank(text):
        return text + fresh(content)
    for start, end, new in sorted(_changes(text, read(text), content), reverse=True):
        text = text[:start] + new + text[end:]
    return text


def _changes(text: str, node: Node, content: Any) -> Iterator[Change]:
    """What makes `node` say `content`; the counterpart of `tree.merge` on a text."""
    if node.value is None:
        yield node.start, node.end, _written(text, plain(content), _line_indent(text, node.start))
    elif isinstance(content, Unless):
        return
    elif isinstance(content, Mapping):
        yield from _changes_of_object(text, node, content)
    elif is_list_of_tables(content):
        yield from _changes_of_list(text, node, content)
    elif not same(node.value, content):
        yield node.start, node.end, _written(text, plain(content), _line_indent(text, node.start))


def _changes_of_object(text: str, node: Node, content: Mapping[str, Any]) -> Iterator[Change]:
    if not isinstance(node.value, dict):
        raise CannotMerge(f"there is no object where {', '.join(content)} should be")
    new = {key: value for key, value in content.items() if key not in node.members}
    for key, value in content.items():
        if key not in new:
            yield from _changes(text, node.members[key], value)
    yield from _added(text, node, [(f"{json.dumps(key, ensure_ascii=False)}: ", v) for key, v in new.items()])


def _changes_of_list(text: str, node: Node, content: list[Mapping[str, Any]]) -> Iterator[Change]:
    if not isinstance(node.value, list):
        raise CannotMerge("there is no list where one should be")
    new = []
    for item in content:
        index = place_in(node.value, item)
        if index is None:
            new.append(("", item))
        else:
            yield from _changes(text, node.items[index], item)
    yield from _added(text, node, new)


def _added(text: str, node: Node, parts: list[tuple[str, Any]]) -> Iterator[Change]:
    """New parts behind the last one and its comments, each with what comes before its value."""
    if not parts:
        return
    outer = _line_indent(text, node.start)
    inner = outer + _unit(text)
    if node.part_end is not None:
        last = [*node.members.values(), *node.items][-1]
        inner = _line_indent(text, last.start) if "\n" in text[node.start : last.start] else inner
    place, close = len(text[: node.end - 1].rstrip()), node.end - 1
    lines = [f"\n{inner}{before}{_written(text, plain(value), inner)}" for before, value in parts]
    new = ",".join(lines) + ("," if node.comma else "")
    if node.part_end is not None and not node.comma:
        if place == node.part_end:
            new = f",{new}"
        else:
            yield node.part_end, node.part_end, ","
    if "\n" in text[place:close]:
        yield place, place, new
    else:
        yield place, close, f"{new}\n{outer}"


def _written(text: str, value: Any, indent: str) -> str:
    """A value as it looks in a line that is indented so far."""
    return json.dumps(value, indent=_unit(text), ensure_ascii=False).replace("\n", f"\n{indent}")


def _unit(text: str) -> str:
    """How much deeper this text's author goes at each level."""
    first = _INDENT.search(text)
    return first[1] if first else "  "


def _line_indent(text: str, place: int) -> str:
    line = text[text.rfind("\n", 0, place) + 1 : place]
    return line[: len(line) - len(line.lstrip(" \t"))]
