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
it goes on with the call, and a whole call in a value (`<tool_call>`, `<function=`, up to `</tool_call>`) is part of it.
So a file that says `</parameter>` or `</function>` somewhere inside arrives whole, and one that shows a call does too.
The line breaks after a parameter's tag and before its closer are not part of the value, be they LF or CRLF.

Models slip, and an agent that gets the raw markup as an answer believes the model has finished. So these are mended:

* `<tool_call>` is missing: `<function=` of an offered tool at the start of a line opens a call, in a code fence too.
* The tool is not offered, but the opener is there: it goes out as a call of that name. Agents answer with the names
  that exist and the model corrects itself; without an opener, or with no tools offered at all, it stays text.
* `</parameter>` is missing: at the start of a line, `<parameter=` of a declared parameter not yet given ends the value;
  so do `</function>` and `</tool_call>`.
* `</function>` or `</tool_call>` is missing: the next call, or the end of the answer, ends the call.
* The `>` of a tag is missing: its line ends it. `<parameter=key=value`: the key is what is declared, the rest begins
  the value. Quotes around names are dropped.

These are not, for only the agent can tell the model what is wrong:

* A required parameter is missing, or one is undeclared: the call goes out as it is.
* A parameter comes twice: so does its key. The first value is on its way already and the second may be the correction;
  readers of JSON take the last one, or refuse both.

Text between the parts of a call follows after that call.

An answer that was held to a grammar while it was drawn has no slips, so nothing is guessed in its calls: a value goes
up to the first line that begins with its closer.
"""

from server.chat.call_markup import (
    CALL_CLOSE,
    FUNCTION_CLOSE,
    HELD_VALUE_CLOSE,
    PARAMETER_OPEN,
    NeedMore,
    Opening,
    QuoteEnd,
    opening_at,
    quote_begins,
    quote_end_at,
    unquoted,
    value_end_at,
)
from server.chat.call_parser import CallParser
from server.chat.conversation import Tool
from server.chat.tool_values import ArgumentsWriter


class ToolCallParser(CallParser):
    """Splits one answer into text and calls."""

    def __init__(self, tools: tuple[Tool, ...], are_held: bool = False) -> None:
        """`are_held`: calls of these tools are held to their grammar."""
        super().__init__(has_tools=bool(tools))
        self._parameters = {tool.name: tool.parameters for tool in tools}
        self._are_held = are_held
        self._read_any_value = self._read_value
        self._arguments = ArgumentsWriter({})
        self._value_is_empty = True
        self._num_quoted = 0  # calls that the value quotes and has not closed
        self._stray: list[str] = []

    def _opening(self, found: int, is_line_start: bool) -> Opening | NeedMore | None:
        return opening_at(self._tail, found, is_line_start, self._parameters)

    def _enter_call(self, name: str) -> None:
        self._arguments = ArgumentsWriter(self._parameters.get(name, {}))
        is_held = self._are_held and name in self._parameters
        self._read_any_value = self._read_held_value if is_held else self._read_value
        self._state = self._read_body

    def _close_call(self) -> None:
        end = len(self._tail.text)
        if self._state == self._read_any_value:
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
        tail = self._tail
        end = tail.tag_end(start)
        if end < 0:
            if tail.ended:
                self._stray.append(tail.take(len(tail.text)))
            return False
        key, value = self._key_and_value(tail.text[start:end].strip())
        tail.at = tail.behind_tag(end)
        self._give_arguments(self._arguments.start_value(key))
        self._value_is_empty = True
        self._num_quoted = 0
        self._write_value(value)
        self._state = self._read_any_value
        return True

    def _key_and_value(self, written: str) -> tuple[str, str]:
        """The parameter that a tag names, and the beginning of its value if that is in the tag too."""
        if self._arguments.is_declared(written):
            return written, ""
        key, equals, value = written.partition("=")
        if equals and self._arguments.is_declared(unquoted(key)):
            return unquoted(key), value
        return unquoted(written), ""

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
            self._write_value(tail.take(tail.before_open_end()))
            return False
        quote_begins_here = quote_begins(tail, found)
        end = quote_end_at(tail, found) if self._num_quoted else value_end_at(tail, found, self._arguments.awaited)
        if quote_begins_here is None or isinstance(end, NeedMore):
            self._write_value(tail.take(tail.before_newline(found)))
            return False
        if isinstance(end, int):
            self._end_value(found, resume=end)
            return True
        if isinstance(end, QuoteEnd):
            self._num_quoted -= 1
        elif quote_begins_here:
            self._num_quoted += 1
        self._write_value(tail.take(end.end if isinstance(end, QuoteEnd) else found + 1))
        return True

    def _read_held_value(self) -> bool:
        tail = self._tail
        if self._value_is_empty:
            if tail.is_empty:
                return False
            self._write_value(tail.take(tail.at + 1))  # the line break after the tag is not one before a closer
        found = tail.find(HELD_VALUE_CLOSE)
        if found < 0:
            self._write_value(tail.take(len(tail.text) - tail.num_begun(HELD_VALUE_CLOSE)))
            return False
        self._write_value(tail.take(found))
        self._give_arguments(self._arguments.end_value())
        tail.at = found + len(HELD_VALUE_CLOSE)
        self._state = self._read_body
        return True

    def _write_value(self, text: str) -> None:
        if text and self._value_is_empty:
            self._value_is_empty = False
            text = text.removeprefix("\r\n" if text.startswith("\r") else "\n")
        self._give_arguments(self._arguments.feed_value(text))

    def _end_value(self, end: int, resume: int) -> None:
        self._write_value(self._tail.take(self._tail.before_newline(end)))
        self._give_arguments(self._arguments.end_value())
        self._tail.at = resume
        self._state = self._read_body
