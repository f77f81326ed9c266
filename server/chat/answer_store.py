"""`AnswerStore`: answers in a SQLite file, so that a restart knows what was generated.

Reads once, at start; writes on a thread of its own. Its folder belongs to one model, one tokenizer and one process.
"""

import contextlib
import json
import logging
import os
import sqlite3
from array import array
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from server.chat.conversation import Message, ToolCall

logger = logging.getLogger(__name__)

_SCHEMA = """
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = NORMAL;
    CREATE TABLE IF NOT EXISTS answers (number INTEGER PRIMARY KEY, key BLOB, salt TEXT, message TEXT, ids BLOB);
    CREATE INDEX IF NOT EXISTS by_key ON answers (key);
"""
_DAMAGE = (sqlite3.DatabaseError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True, slots=True)
class KnownAnswer:
    """An answer as it was generated, and the message that clients make of it. `salt` is that of its prompt."""

    salt: str
    message: Message
    ids: "array[int]"


class AnswerStore:
    """One file. What is damaged is begun anew, with a line in the log."""

    def __init__(self, path: Path) -> None:
        """Raises `OSError` or `sqlite3.Error` when the file cannot be had now."""
        self._path = path
        self._in_trouble = False
        try:
            self._database, self._found = _opened(path)
        except _DAMAGE as error:
            if isinstance(error, sqlite3.OperationalError):  # locked, or no room: what is there may be good
                raise
            logger.warning("the answers in %s cannot be used: %s", path, error)
            for leftover in path.parent.glob(f"{path.name}*"):
                leftover.unlink(missing_ok=True)
            self._database, self._found = _opened(path)
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="deltaloop-answers")

    def take_found(self) -> Iterable[tuple[bytes, KnownAnswer]]:
        """What earlier runs left, the oldest first, by the names of their prompts."""
        found, self._found = self._found, []
        return found

    def put(self, key: bytes, answers: Iterable[KnownAnswer]) -> None:
        """Let these be all of a prompt, in a while. What has no JSON is left out."""
        rows = []
        for answer in answers:
            with contextlib.suppress(ValueError, RecursionError):
                rows.append((key, answer.salt, _as_json(answer.message), answer.ids.tobytes()))

        def write(database: sqlite3.Connection) -> None:
            database.execute("DELETE FROM answers WHERE key = ?", (key,))
            database.executemany("INSERT INTO answers (key, salt, message, ids) VALUES (?, ?, ?, ?)", rows)

        self._submit(write)

    def close(self) -> None:
        """Write what is still to be written."""
        self._writer.shutdown()
        self._database.close()

    def _submit(self, write: Callable[[sqlite3.Connection], None]) -> None:
        def attempt() -> None:
            try:
                with self._database as database:
                    write(database)
                self._in_trouble = False
            except Exception as error:
                if not self._in_trouble:
                    logger.warning("answers cannot be written to %s: %s", self._path, error)
                self._in_trouble = True

        self._writer.submit(attempt)


def _opened(path: Path) -> tuple[sqlite3.Connection, list[tuple[bytes, KnownAnswer]]]:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    database = sqlite3.connect(path, check_same_thread=False)
    try:
        database.executescript(_SCHEMA)
        return database, list(_rows(database))
    except BaseException:
        database.close()
        raise


def _as_json(message: Message) -> str:
    calls = [{"id": call.id, "name": call.name, "arguments": dict(call.arguments)} for call in message.tool_calls]
    fields = {"role": message.role, "content": message.content, "tool_call_id": message.tool_call_id}
    return json.dumps(fields | {"tool_calls": calls})


def _rows(database: sqlite3.Connection) -> Iterator[tuple[bytes, KnownAnswer]]:
    for key, salt, text, ids in database.execute("SELECT key, salt, message, ids FROM answers ORDER BY number"):
        fields = json.loads(text)
        calls = tuple(ToolCall(**call) for call in fields.pop("tool_calls"))
        yield key, KnownAnswer(salt, Message(tool_calls=calls, **fields), array("I", ids))
