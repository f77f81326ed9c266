"""As much of PromQL as it takes to see which series an expression reads and by which labels it chooses or groups."""

import re
from dataclasses import dataclass

_WORDS = frozenset({"and", "or", "unless", "bool", "offset", "inf", "nan"})
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_RANGE = re.compile(r"\[[^\]]*\]")
_SERIES = re.compile(r"(?<![\w:.])([a-zA-Z_:][\w:]*)\b(?!\s*\()\s*(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"(?:\\.|[^"\\])*"')


@dataclass(frozen=True)
class Series:
    """One selector: its name and the labels in its braces."""

    name: str
    labels: frozenset[str]


def series_in(expression: str) -> list[Series]:
    """Every series that the expression reads."""
    rest = _RANGE.sub("", _GROUPING.sub("", expression))
    found = [match for match in _SERIES.finditer(rest) if match[1] not in _WORDS]
    return [Series(match[1], frozenset(_MATCHER.findall(match[2] or ""))) for match in found]


def grouping_labels(expression: str) -> set[str]:
    """Every label that the expression groups or joins by."""
    return {label.strip() for labels in _GROUPING.findall(expression) for label in labels.split(",")} - {""}
