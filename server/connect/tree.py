"""Merging what a client needs into what its file says already: tables by key, lists of tables by their first key.

Knows nothing of formats: it works on plain values and, in place, on the documents of libraries that keep comments.
"""

from collections.abc import Mapping, MutableMapping, MutableSequence, Sequence
from dataclasses import dataclass
from typing import Any


class CannotMerge(Exception):
    """The file says something that leaves no place for ours."""


@dataclass(frozen=True, slots=True)
class Unless:
    """A value for a key that is absent; a present one is as good."""

    value: Any


def plain(content: Any) -> Any:
    """The content for a file that says nothing yet."""
    match content:
        case Unless():
            return content.value
        case Mapping():
            return {key: plain(value) for key, value in content.items()}
        case list():
            return [plain(item) for item in content]
        case _:
            return content


def merge(existing: Any, content: Any) -> Any:
    """What takes the place of `existing`: itself, changed, or a value of `content` in its stead.

    Raises:
        CannotMerge: there is something of another kind where a table or list of tables is needed.
    """
    if existing is None:
        return plain(content)
    if isinstance(content, Unless):
        return existing
    if isinstance(content, Mapping):
        return _merge_table(existing, content)
    if is_list_of_tables(content):
        return _merge_tables(existing, content)
    return existing if same(existing, content) else plain(content)


def _merge_table(existing: Any, content: Mapping[str, Any]) -> Any:
    if not isinstance(existing, MutableMapping):
        raise CannotMerge(f"there is a {_kind(existing)} where {', '.join(content)} should be")
    for key, value in content.items():
        old = existing.get(key)
        new = merge(old, value)
        if new is not old:
            existing[key] = new
    return existing


def _merge_tables(existing: Any, content: Sequence[Mapping[str, Any]]) -> Any:
    if not isinstance(existing, MutableSequence):
        raise CannotMerge(f"there is a {_kind(existing)} where a list should be")
    for item in content:
        index = place_in(existing, item)
        if index is None:
            existing.append(plain(item))
        else:
            merge(existing[index], item)
    return existing


def is_list_of_tables(content: Any) -> bool:
    """Whether its items are known by their first keys, rather than being a value as a whole."""
    return isinstance(content, list) and bool(content) and all(isinstance(item, Mapping) and item for item in content)


def place_in(existing: Sequence[Any], item: Mapping[str, Any]) -> int | None:
    """Where the list has the table that is known by the same value of the first key; the last such place."""
    places = [n for n, old in enumerate(existing) if _is_known(old, item)]
    return places[-1] if places else None


def _is_known(existing: Any, item: Any) -> bool:
    """Whether the values under the first keys, and under those of the tables there, are the same."""
    if not isinstance(item, Mapping):
        return same(existing, item)
    key = next(iter(item))
    return isinstance(existing, Mapping) and _is_known(existing.get(key), item[key])


def same(one: Any, other: Any) -> bool:
    """Equal as the formats have it: true is not 1."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _kind(value: Any) -> str:
    return "list" if isinstance(value, MutableSequence) else "table" if isinstance(value, Mapping) else "single value"
