"""Answers on disk: what a restart knows of them, and what it does with a file that cannot be read."""

import sqlite3
from array import array
from pathlib import Path
from typing import Any

import pytest

from server.chat.answer_store import AnswerStore, KnownAnswer
from server.chat.conversation import Message, ToolCall
from server.chat.events import TextDelta, ToolCallArguments, ToolCallStarted
from server.chat.history import Answer, History, PromptKey

PROMPT = (1, 2, 3)
MESSAGE = Message("assistant", "Grüße ☃", (ToolCall("call_0", "f", {"x": [1, None, "ü"], "y": {"z": 1.5}}),))


def an_answer(ids: list[int], text: str = MESSAGE.content) -> Answer:
    made = Answer()
    arguments = '{"x": [1, null, "ü"], "y": {"z": 1.5}}'
    made.add(ids, [TextDelta(0, text), ToolCallStarted(0, 0, "call_0", "f"), ToolCallArguments(0, 0, arguments)])
    return made


def remembered(path: Path, *answers: tuple[str, Answer]) -> None:
    known = History(store=AnswerStore(path))
    for salt, answer in answers:
        known.remember(salt, PROMPT, answer)
    known.close()


def find(path: Path, salt: str = "me/", message: Message = MESSAGE) -> list[int] | None:
    known = History(store=AnswerStore(path))
    found = known.find(PromptKey(salt).of(PROMPT), message)
    known.close()
    return None if found is None else list(found)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers.sqlite3"


def test_an_answer_is_known_after_a_restart(path: Path) -> None:
    remembered(path, ("me/", an_answer([7, 8, 150_000])))
    assert find(path) == [7, 8, 150_000]
    assert find(path, "you/") is None
    assert find(path, message=Message("assistant", "other")) is None


def test_the_last_of_those_that_mean_the_same_is_kept(path: Path) -> None:
    remembered(path, ("me/", an_answer([7])), ("me/", an_answer([8])), ("me/", an_answer([9], "other")))
    assert find(path) == [8]
    store = AnswerStore(path)
    assert [list(answer.ids) for _, answer in store.take_found()] == [[8], [9]]
    assert list(store.take_found()) == []
    store.close()


def test_forgetting_by_salt(path: Path) -> None:
    remembered(path, ("me/", an_answer([7])), ("you/", an_answer([8])))
    known = History(store=AnswerStore(path))
    known.forget(lambda salt: salt == "me/")
    assert known.find(PromptKey("me/").of(PROMPT), MESSAGE) is None
    known.close()
    assert find(path, "me/") is None
    assert find(path, "you/") == [8]


def test_the_bound_holds_after_a_restart(path: Path) -> None:
    known = History(store=AnswerStore(path))
    for number in range(20):
        known.remember("", (number,), an_answer([number]))
    size = known.num_bytes // 20
    known.close()
    smaller = History(max_bytes=5 * size, store=AnswerStore(path))
    assert smaller.num_bytes <= 5 * size
    assert smaller.find(PromptKey("").of((19,)), MESSAGE) == array("I", [19])
    assert smaller.find(PromptKey("").of((0,)), MESSAGE) is None
    smaller.close()
    store = AnswerStore(path)
    assert len(list(store.take_found())) == 5
    store.close()


def test_a_file_that_is_no_database_is_begun_anew(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.write_bytes(b"nonsense" * 1000)
    remembered(path, ("me/", an_answer([7])))
    assert len(caplog.records) == 1
    assert find(path) == [7]


def test_a_row_that_means_nothing_is_begun_anew(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = AnswerStore(path)
    store.put(b"key", [KnownAnswer("", Message("assistant", "a"), array("I", [1]))])
    store._submit(lambda database: database.execute("UPDATE answers SET message = '{}'") and None)
    store.close()
    assert find(path) is None
    assert "cannot be used" in caplog.text


@pytest.mark.parametrize("text", ["null", "[]", "no JSON", '{"role": "assistant"}'])
def test_a_row_of_any_other_kind_is_begun_anew(path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    remembered(path, ("me/", an_answer([7])))
    with sqlite3.connect(path) as database:
        database.execute("UPDATE answers SET message = ?", (text,))
    database.close()
    assert find(path) is None
    assert len(caplog.records) == 1


def test_a_file_that_somebody_has_locked_stays(path: Path) -> None:
    remembered(path, ("me/", an_answer([7])))
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA locking_mode = EXCLUSIVE")
    database.execute("BEGIN EXCLUSIVE")
    database.execute("DELETE FROM answers")
    with pytest.raises(sqlite3.OperationalError):
        AnswerStore(path)
    database.execute("ROLLBACK")
    database.close()
    assert find(path) == [7]


def test_what_has_no_json_is_left_out(path: Path) -> None:
    nested: Any = {}
    for _ in range(100_000):
        nested = {"x": nested}
    store = AnswerStore(path)
    deep = Message("assistant", "a", (ToolCall("call_0", "f", nested),))
    store.put(b"key", [KnownAnswer("", deep, array("I", [1])), KnownAnswer("", MESSAGE, array("I", [2]))])
    store.close()
    store = AnswerStore(path)
    assert [list(answer.ids) for _, answer in store.take_found()] == [[2]]
    store.close()


def test_the_file_is_the_owners_alone(path: Path) -> None:
    store = AnswerStore(path)
    store.put(b"key", [KnownAnswer("", Message("assistant", "a"), array("I", [1]))])
    store._writer.submit(lambda: None).result()
    for file in path.parent.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file.name
    store.close()


def test_a_database_that_cannot_be_written_is_told_of(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = AnswerStore(path)
    store._submit(lambda database: database.execute("INSERT INTO none_such VALUES (1)") and None)
    store._writer.submit(lambda: None).result()
    assert "cannot be written" in caplog.text
    store.close()
