"""What is kept of responses: for how long, how much, whose, and what they hold on to."""

from typing import Any

import pytest

from server.dialects.responses.store import ResponseStore, Stored, Turn


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def item(name: str, size: int = 0) -> dict[str, Any]:
    return {"id": name, "text": "x" * size}


def stored(name: str, before: Turn | None = None, size: int = 0) -> Stored:
    return Stored(b"{}", "completed", Turn.of([item(f"{name}-in", size), item(f"{name}-out")], before), 1)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> ResponseStore:
    return ResponseStore(max_responses=3, max_bytes=20_000, keep_seconds=60.0, clock=clock)


def test_what_is_out_of_use_for_long_is_dropped(store: ResponseStore, clock: Clock) -> None:
    store.put("me", "a", stored("a"))
    store.put("me", "b", stored("b"))
    clock.now = 59.0
    assert store.get("me", "a")
    clock.now = 60.0
    assert store.get("me", "b") is None
    assert store.item("me", "b-out") is None
    assert store.get("me", "a")
    clock.now = 121.0
    assert not store.delete("me", "a")
    assert (len(store), store.num_bytes) == (0, 0)


def test_there_are_so_many_at_most(store: ResponseStore) -> None:
    for name in "abc":
        store.put("me", name, stored(name))
    assert store.get("me", "a")
    store.put("me", "d", stored("d"))
    assert store.get("me", "b") is None
    assert all(store.get("me", name) for name in "acd")


def test_there_are_so_many_bytes_at_most(store: ResponseStore) -> None:
    for name in "abc":
        store.put("me", name, stored(name, size=7_000))
    assert store.num_bytes <= 20_000
    assert store.get("me", "a") is None
    assert store.get("me", "c")


def test_one_that_is_too_large_is_not_kept(store: ResponseStore) -> None:
    store.put("me", "a", stored("a", size=30_000))
    assert store.get("me", "a") is None
    assert store.num_bytes == 0


def test_one_that_is_too_large_pushes_nothing_out(store: ResponseStore) -> None:
    store.put("me", "a", stored("a"))
    store.put("another", "b", stored("b", size=30_000))
    store.put("another", "c", stored("c", before=stored("d", size=19_000).turn))
    assert store.get("me", "a")
    assert len(store) == 1


def test_small_items_cost_more_than_their_text() -> None:
    assert Turn.of([item(f"{n}") for n in range(1000)], None).num_bytes > 300_000


def test_what_several_hold_counts_once(store: ResponseStore) -> None:
    first = stored("a", size=12_000)
    store.put("me", "a", first)
    alone = store.num_bytes
    store.put("me", "b", stored("b", first.turn))
    store.put("me", "c", stored("c", first.turn))
    assert store.num_bytes < alone + 4_000
    assert store.delete("me", "a")
    assert store.delete("me", "b")
    assert store.num_bytes > 12_000
    found = store.get("me", "c")
    assert found is not None
    assert [entry["id"] for entry in found.turn.conversation()] == ["a-in", "a-out", "c-in", "c-out"]
    assert [entry["id"] for entry in found.inputs] == ["c-in"]
    assert store.item("me", "a-out") == item("a-out")
    assert store.delete("me", "c")
    assert store.num_bytes == 0
    assert store.item("me", "a-out") is None


def test_each_owner_sees_its_own(store: ResponseStore) -> None:
    store.put("me", "a", stored("a"))
    store.put("you", "a", stored("b"))
    mine = store.get("me", "a")
    assert mine is not None
    assert mine.turn.ids == ("a-in", "a-out")
    assert store.item("you", "a-in") is None
    assert store.delete("you", "a")
    assert store.get("me", "a")


def test_an_item_that_comes_again_is_found_as_long_as_one_has_it(store: ResponseStore) -> None:
    """Clients send items back with the ids that they got."""
    store.put("me", "a", stored("a"))
    again = Stored(b"{}", "completed", Turn.of([item("a-out"), item("b-out")], None), 1)
    store.put("me", "b", again)
    store.delete("me", "a")
    assert store.item("me", "a-out") == item("a-out")
    store.delete("me", "b")
    assert store.item("me", "a-out") is None


def test_a_long_conversation_is_let_go(clock: Clock) -> None:
    store = ResponseStore(max_responses=10, max_bytes=10**9, clock=clock)
    turn: Turn | None = None
    for number in range(3000):
        last = stored(f"{number}", turn)
        turn = last.turn
        store.put("me", f"{number}", last)
    assert len(store) == 10
    found = store.get("me", "2999")
    assert found is not None
    assert len(found.turn.conversation()) == 6000
    for number in range(3000):
        store.delete("me", f"{number}")
    assert store.num_bytes == 0
