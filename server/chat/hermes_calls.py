"""Tool calls in a stream of text: the JSON form that Qwen3-Next Instruct models write, as Hermes models did first.

    <tool_call>
    {"name": NAME, "arguments": {...}}
    </tool_call>

Lives here: where such a call begins and ends. It may not know JSON, tokens, dialects or how the calls are shown. Tags
in strings of the arguments are text, for JSON says where a string ends.

* A call begins once `<tool_call>` and the name of a function are there, offered or not. Without that it is text.
* `</tool_call>` is missing, or closing brackets: the end of the object, the closing tag or the end of the answer ends
  the call. Closing brackets too many before the tag are dropped.
* What the arguments look like otherwise is in `server.chat.call_object`, slips inside JSON in `server.chat.json_scan`.
* JSON that is broken in another way goes out as it was written, up to the closing tag: no client can read it, and the
  agent's error tells the model, as it does for a wrong argument.
"""

import re

from server.chat.call_markup import CALL_CLOSE, CALL_OPEN, NEED_MORE, NeedMore, Opening
from server.chat.call_object import CallObject
from server.chat.call_parser import CallParser
from server.chat.conversation import Tool

_BRACKETS = re.compile(r"[\s}]*")


class HermesCallParser(CallParser):
    """Splits one answer into text and calls."""

    def __init__(self, tools: tuple[Tool, ...]) -> None:
        super().__init__(has_tools=bool(tools))
        self._call = CallObject()
        self._num_read: int | None = None  # of the answer, up to where the call's object is read; None outside one
        self._stray: list[str] = []

    def _opening(self, found: int, is_line_start: bool) -> Opening | NeedMore | None:
        tail = self._tail
        opener = tail.has(CALL_OPEN, found)
        if not opener:
            return NEED_MORE if opener is None else None
        start = tail.skip_space(found + len(CALL_OPEN))
        if not tail.text.startswith("{", start):
            return NEED_MORE if start == len(tail.text) and not tail.ended else None
        offset = tail.num_done - tail.at
        if self._num_read is None:
            self._call, self._num_read = CallObject(), offset + start
        end = self._call.feed(tail.text, self._num_read - offset, tail.ended)
        self._num_read = offset + end
        is_hopeless = self._call.is_broken or self._call.is_done or tail.ended
        if self._call.name is None and not is_hopeless:
            return NEED_MORE
        self._num_read = None
        return None if self._call.name is None else Opening(self._call.name, end)

    def _enter_call(self, name: str) -> None:
        self._state = self._read_object

    def _read_object(self) -> bool:
        tail, call = self._tail, self._call
        end = call.feed(tail.text, tail.at, tail.ended)
        tail.take(call.told_to)
        self._give_arguments(call.take())
        tail.take(end)
        if not call.is_done and not call.is_broken:
            return False
        closed = tail.has(CALL_CLOSE, end)
        if closed is None and call.is_broken:
            return False
        rest = call.close() if closed or call.is_done else None
        if rest is not None:
            self._give_arguments(rest)
            self._end_call(end)
            return True
        if not call.has_arguments:
            self._give_arguments(call.as_written())
        self._state = self._read_broken
        return True

    def _read_broken(self) -> bool:
        """What follows where the JSON broke, up to the closing tag: of the arguments, unless these are complete."""
        tail = self._tail
        found = tail.find("<")
        self._give_broken(tail.take(found if found >= 0 else len(tail.text)))
        closed = None if found < 0 else tail.has(CALL_CLOSE, found)
        if closed is None:
            return False
        if closed:
            self._end_broken()
        else:
            self._give_broken(tail.take(found + 1))
        return True

    def _give_broken(self, text: str) -> None:
        if self._call.has_arguments:
            self._stray.append(text)
        else:
            self._give_arguments(text)

    def _end_broken(self) -> None:
        if self._call.has_arguments:
            self._give_arguments(self._call.close() or "")
        stray = "".join(self._stray).strip()
        self._stray.clear()
        self._end_call(self._tail.at, stray)

    def _close_call(self) -> None:
        if self._state == self._read_broken:
            self._end_broken()
            return
        rest = self._call.close()
        self._give_arguments(self._call.as_written() if rest is None else rest)
        self._end_call(len(self._tail.text))

    def _closing_tag_from(self, at: int) -> int:
        found = _BRACKETS.match(self._tail.text, at)
        return found.end() if found else at
