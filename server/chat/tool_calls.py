"""Tool calls in a stream of text: the XML-like form that Qwen3-Coder models write.

    <tool_call>
    <function=NAME>
    <parameter=KEY>
    VALUE
    </parameter>
    </function>
    </tool_call>

Lives here: the incremental parser, a few states over a short tail of text. It may not know tokens, dialects or how the
calls are shown. It is no XML: a value may hold any text, other markup too. A closer ends the value only if what follows
it goes on with the call, so a file that says `</parameter>` or `</function>` somewhere inside arrives whole.

Models slip, and an agent that gets the raw markup as an answer believes the model has finished. So these are mended:

* `<tool_call>` is missing: `<function=` of an offered tool at the start of a line opens a call.
* The tool is not offered, but the opener is there: it goes out as a call of that name. Agents answer with the names
  that exist and the model corrects itself; without an opener, or with no tools offered at all, it stays text.
* `</parameter>` is missing: at the start of a line, `<parameter=` of a declared parameter not yet given ends the value;
  so do `</function>` and `</tool_call>`.
* `</function>` or `</tool_call>` is missing: the next call, or the end of the answer, ends the call.
* `<parameter=key=value`: the key is what is declared, the rest begins the value.

Text between the parts of a call follows after that call.
"""

from server.chat.call_markup import (
    CALL_CLOSE,
    FUNCTION_CLOSE,
    PARAMETER_OPEN,
    NeedMore,
    Opening,
    opening_at,
    value_end_at,
)
from server.chat.call_parser import CallParser
from server.chat.conversation import Tool
from server.chat.tool_values import ArgumentsWriter


class ToolCallParser(CallParser):
    """Splits one answer into text and calls."""

    def __init__(self, tools: tuple[Tool, ...]) -> None:
        super().__init__(has_tools=bool(tools))
        self._parameters = {tool.name: tool.parameters for tool in tools}
        self._arguments = ArgumentsWriter({})
        self._value_is_empty = True
        self._stray: list[str] = []

    def _opening(self, found: int, is_line_start: bool) -> Opening | NeedMore | None:
        return opening_at(self._tail, found, is_line_start, self._parameters)

    def _enter_call(self, name: str) -> None:
        self._arguments = ArgumentsWriter(self._parameters.get(name, {}))
        self._state = self._read_body

    def _close_call(self) -> None:
        end = len(self._tail.text)
        if self._state == self._read_value:
            self._end_value(end, resume=end)
        self._finish_arguments(end)

    # ---- between parameters

    def _read_body(self) -> bool:
        """The next parameter, or the end of the call, or text that belongs nowhere."""
        tail = self._tail
        found = tail.find("<")
        self._stray.append(tail.take(found if found >= 0 else len(tail.text)))
        if found < 0:
            return False
        if tail.has(PARAMETER_OPEN, found):
            return self._read_key(found + len(PARAMETER_OPEN))
        if tail.has(FUNCTION_CLOSE, found):
            return self._finish_arguments(found + len(FUNCTION_CLOSE))
        next_call = self._opening(found, is_line_start=True)
        if tail.has(CALL_CLOSE, found) or isinstance(next_call, Opening):
            return self._finish_arguments(found)
        is_undecided = tail.has_any((PARAMETER_OPEN, FUNCTION_CLOSE, CALL_CLOSE), found) is None
        if is_undecided or isinstance(next_call, NeedMore):
            return False
        self._stray.append(tail.take(found + 1))
        return True

    def _read_key(self, start: int) -> bool:
        text = self._tail.text
        end = min((end for end in (text.find(">", start), text.find("\n", start)) if end >= 0), default=None)
        if end is None:
            if self._tail.ended:
                self._stray.append(self._tail.take(len(text)))
            return False
        key, value = text[start:end].strip(), ""
        declared, equals, rest = key.partition("=")
        if equals and not self._arguments.is_declared(key) and self._arguments.is_declared(declared):
            key, value = declared, rest
        self._tail.at = end + 1 if text[end] == ">" else end
        self._give_arguments(self._arguments.start_value(key))
        self._value_is_empty = True
        self._write_value(value)
        self._state = self._read_value
        return True

    def _finish_arguments(self, resume: int) -> bool:
        self._give_arguments(self._arguments.end())
        stray = "".join(self._stray).strip()
        self._stray.clear()
        self._end_call(resume, stray)
        return True

    # ---- inside a value

    def _read_value(self) -> bool:
        tail = self._tail
        found = tail.find("<")
        if found < 0:
            self._write_value(tail.take(tail.before_newline(len(tail.text))))
            return False
        resume = value_end_at(tail, found, self._arguments.awaited)
        if isinstance(resume, NeedMore):
            self._write_value(tail.take(tail.before_newline(found)))
            return False
        if resume is None:
            self._write_value(tail.take(found + 1))
        else:
            self._end_value(found, resume)
        return True

    def _write_value(self, text: str) -> None:
        if text and self._value_is_empty:
            self._value_is_empty = False
            text = text.removeprefix("\n")
        self._give_arguments(self._arguments.feed_value(text))

    def _end_value(self, end: int, resume: int) -> None:
        self._write_value(self._tail.take(self._tail.before_newline(end)))
        self._give_arguments(self._arguments.end_value())
        self._tail.at = resume
        self._state = self._read_body
