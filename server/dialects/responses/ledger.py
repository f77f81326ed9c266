"""`Ledger`: the responses of one server, those under way and those that are kept.

Knows the store and the response object, no HTTP and no events.
"""

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from server.dialects.responses.store import Item, Key, ResponseStore, Stored, Turn
from server.json_text import to_json


@dataclass(frozen=True, slots=True)
class Entry:
    """What is to be known of one response while it is worked on.

    Attributes:
        owner: whose it is.
        response_id: its id.
        inputs: what it answers, each with an id.
        before: what was said before that.
        is_stored: it is kept when it is done.
    """

    owner: str
    response_id: str
    inputs: tuple[Item, ...]
    before: Turn | None
    is_stored: bool

    @property
    def key(self) -> Key:
        """Its name among all."""
        return self.owner, self.response_id


@dataclass(frozen=True, slots=True)
class Running:
    """A response that is worked on. `as_of_now` is the response object as it stands, with the status it is to have;
    `abort` ends the work, if that is not over."""

    entry: Entry
    as_of_now: Callable[[str], dict[str, Any]]
    abort: Callable[[], bool]


class Ledger:
    """All responses that are known."""

    def __init__(self, store: ResponseStore | None = None) -> None:
        self.store = store or ResponseStore()
        self._running: dict[Key, Running] = {}
        self._deleted: set[Key] = set()  # while they are worked on

    @contextmanager
    def running(
        self, entry: Entry, as_of_now: Callable[[str], dict[str, Any]], abort: Callable[[], bool]
    ) -> Iterator[None]:
        """While it is worked on, it can be found."""
        self._running[entry.key] = Running(entry, as_of_now, abort)
        try:
            yield
        finally:
            del self._running[entry.key]
            self._deleted.discard(entry.key)

    def find_running(self, owner: str, response_id: str) -> Running | None:
        """One of the owner's responses that is worked on."""
        key = (owner, response_id)
        return None if key in self._deleted else self._running.get(key)

    def delete(self, owner: str, response_id: str) -> bool:
        """Forget a response; whether there was one. The work on it goes on for who waits for it."""
        running = self.find_running(owner, response_id)
        if running is not None and running.entry.is_stored:
            self._deleted.add(running.entry.key)
            return True
        return self.store.delete(owner, response_id)

    def keep(self, entry: Entry, response: dict[str, Any]) -> None:
        """Keep what has become of a response, if its client wants that."""
        if entry.is_stored and entry.key not in self._deleted:
            turn = Turn.of([*entry.inputs, *response["output"]], entry.before)
            stored = Stored(to_json(response), response["status"], turn, len(entry.inputs))
            self.store.put(entry.owner, entry.response_id, stored)


def listed(items: Sequence[Item]) -> tuple[Item, ...]:
    """Items as they are kept and shown: with an id and a status, and their text in parts."""
    return tuple(_listed(item) for item in items)


def _listed(item: Item) -> Item:
    name, content = item.get("id"), item.get("content")
    name = name if isinstance(name, str) and name else f"{_prefix(item)}_{uuid.uuid4().hex}"
    item = {**item, "id": name, "status": item.get("status") or "completed"}
    if item.get("type") == "message" and isinstance(content, str):
        kind = "output_text" if item.get("role") == "assistant" else "input_text"
        extra: dict[str, Any] = {"annotations": []} if kind == "output_text" else {}
        item["content"] = [{"type": kind, "text": content, **extra}]
    return item


def _prefix(item: Item) -> str:
    return {"message": "msg", "function_call": "fc", "function_call_output": "fco"}.get(item["type"], "item")
