"""`AnswerStore`: answers in a SQLite file, so that a restart knows what was generated.

Reads once, at start; writes on a thread of its own. Its folder belongs to one model, one tokenizer and one process.
"""

import json
import logging
import os
import sqlite3
from array import array
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from server.chat.conversation import Message, ToolCall

logger = logging.getLogger(__name__)

_SCHEMA = """
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = NORMAL;
    CREATE TABLE IF NOT EXISTS answers (number INTEGER PRIMARY KEY, key BLOB, salt TEXT, message TEXT, ids BLOB);
    CREATE INDEX IF NOT EXISTS by_key ON answers (key);
"""


@dataclass(frozen=True, slots=True)
class KnownAnswer:
    """An answer as it was generated, and the message that clients make of it. `salt` is that of its prompt."""

    salt: str
    message: Message
    ids: "array[int]"


class AnswerStore:
    """One file. What cannot be read is left behind with a line in the log, and the file begun anew."""

    def __init__(self, path: Path) -> None:
        """Raises `OSError` when the folder cannot be written to."""
        self._path = path
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        try:
            self._database = self._opened()
        except (sqlite3.Error, ValueError, KeyError, TypeError) as error:
            logger.warning("the answers in %s cannot be used: %s", path, error)
            path.unlink()
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            self._database = self._opened()
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="deltaloop-answers")

    def _opened(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, check_same_thread=False)
        database.executescript(_SCHEMA)
        self._found = list(_rows(database))
        return database

    def take_found(self) -> Iterable[tuple[bytes, KnownAnswer]]:
        """What earlier runs left, the oldest first, by the names of their prompts."""
        found, self._found = self._found, []
        return found

    def put(self, key: bytes, answers: Iterable[KnownAnswer]) -> None:
        """Let these be all of a prompt, in a while."""
        rows = [
            (key, answer.salt, json.dumps(asdict(answer.message), default=dict), answer.ids.tobytes())
            for answer in answers
        ]

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
            except sqlite3.Error as error:
                logger.warning("an answer could not be written to %s: %s", self._path, error)

        self._writer.submit(attempt)


def _rows(database: sqlite3.Connection) -> Iterator[tuple[bytes, KnownAnswer]]:
    for key, salt, text, ids in database.execute("SELECT key, salt, message, ids FROM answers ORDER BY number"):
        fields = json.loads(text)
        calls = tuple(ToolCall(**call) for call in fields.pop("tool_calls"))
        yield key, KnownAnswer(salt, Message(tool_calls=calls, **fields), array("I", ids))
