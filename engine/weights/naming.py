"""Many names in one line of an error. Standard library only."""

from collections.abc import Iterable

NUM_NAMED = 3


def some(names: Iterable[str]) -> str:
    """The first few of them in order, and how many there are beside."""
    ordered = sorted(names)
    shown = ", ".join(ordered[:NUM_NAMED])
    return shown if len(ordered) <= NUM_NAMED else f"{shown} and {len(ordered) - NUM_NAMED} more"
