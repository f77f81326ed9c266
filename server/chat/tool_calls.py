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

Whitespace around calls belongs to the markup. All other text is given out unchanged, a `<tool_call>` in prose as soon
as what follows rules a call out; text between the parts of a call follows after that call.
"""

from collections.abc import Callable
from dataclasses import dataclass

from server.chat.call_markup import (
    CALL_CLOSE,
    FUNCTION_CLOSE,
    PARAMETER_OPEN,
    NeedMore,
    Opening,
    opening_at,
    value_end_at,
)
from server.chat.conversation import Tool
from server.chat.text_tail import Tail
from server.chat.tool_values import ArgumentsWriter


@dataclass(frozen=True, slots=True)
class TextPiece:
    """Text for the reader."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStarted:
    """A call opened: its place among the answer's calls and the function's name."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A fragment of a call's arguments; the fragments of one call joined are one JSON object."""

    index: int
    fragment: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    """The call's arguments are complete."""

    index: int


Piece = TextPiece | CallStarted | CallArguments | CallEnded


class ToolCallParser:
    """Splits one answer into text and calls. The pieces, joined, do not depend on how the text is portioned.

    Never raises, whatever the text. Each state is a method that deals with some text and returns True, or returns False
    when it can say nothing more for now.
    """

    def __init__(self, tools: tuple[Tool, ...]) -> None:
        self._parameters = {tool.name: tool.parameters for tool in tools}
        self._tail = Tail()
        self._state: Callable[[], bool] = self._read_text
        self._pieces: list[Piece] = []
        self._num_calls = 0
        self._in_call = False
        self._at_margin = True  # no text was given out since the beginning or the last call
        self._arguments = ArgumentsWriter({})
        self._value_is_empty = True
        self._stray: list[str] = []

    @property
    def num_calls(self) -> int:
        """How many calls have started."""
        return self._num_calls

    @property
    def in_call(self) -> bool:
        """Whether the last call is still open. If it is after `finish`, it was cut off and must not be run."""
        return self._in_call

    @property
    def in_markup(self) -> bool:
        """Whether the last call is still open, or its closing tag may follow."""
        return self._in_call or self._state == self._read_call_close

    def feed(self, text: str) -> list[Piece]:
        """What is certain once `text` is known too."""
        if not self._parameters:
            return [TextPiece(text)] if text else []
        if self._is_plain(text):
            self._at_margin = False
            return [TextPiece(text)]
        self._tail.feed(text)
        return self._run()

    def _is_plain(self, text: str) -> bool:
        """Whether nothing waits and nothing of `text` has to: most of what comes outside calls, dealt with at once."""
        nothing_waits = self._tail.is_empty and self._state == self._read_text
        return nothing_waits and "<" not in text and text != "" and not text[-1].isspace()

    def finish(self, truncated: bool = False) -> list[Piece]:
        """The rest; no more text will come.

        An open call is closed, for the model's own end token means that it was meant to be whole. With `truncated` (the
        token limit, a stop string, an abort) it stays open, what is held back of it is dropped, `in_call` stays true,
        and the answer must be finished as such and not as a call.
        """
        if self._in_call and truncated:
            return []
        self._tail.ended = True
        pieces = self._run()
        if self._in_call:
            if self._state == self._read_value:
                self._end_value(len(self._tail.text), resume=len(self._tail.text))
            self._end_call(len(self._tail.text))
            pieces += self._take_pieces()
        return pieces

    def _run(self) -> list[Piece]:
        while self._state():
            pass
        return self._take_pieces()

    def _take_pieces(self) -> list[Piece]:
        pieces, self._pieces = self._pieces, []
        return pieces

    # ---- outside a call

    def _read_text(self) -> bool:
        found = self._tail.find("<")
        if found < 0:
            self._give_text(len(self._tail.text))
            return False
        opening = self._opening(found, self._is_line_start(found))
        if isinstance(opening, NeedMore):
            self._give_text(found)
            return False
        if opening is None:
            self._give_text(found + 1)
            return True
        self._give_text(found, before_call=True)
        self._tail.at = opening.end
        self._start_call(opening.name)
        return True

    def _give_text(self, end: int, before_call: bool = False) -> None:
        """Text up to `end`. Whitespace at its end waits: it may stand before a call, or be all there is after one."""
        text = self._tail.text[self._tail.at : end]
        is_only_space_after_call = self._at_margin and self._num_calls > 0 and not text.strip()
        if before_call or not self._tail.ended or is_only_space_after_call:
            text = text.rstrip()
        if text:
            self._pieces.append(TextPiece(self._tail.take(self._tail.at + len(text))))
            self._at_margin = False

    def _is_line_start(self, found: int) -> bool:
        """Whether only whitespace stands before `found` on its line. That whitespace still waits in the tail."""
        before = self._tail.text[self._tail.at : found]
        space = before[len(before.rstrip()) :]
        return "\n" in space or (space == before and self._at_margin)

    def _opening(self, found: int, is_line_start: bool) -> Opening | NeedMore | None:
        return opening_at(self._tail, found, is_line_start, self._parameters)

    # ---- inside a call, between parameters

    def _start_call(self, name: str) -> None:
        self._pieces.append(CallStarted(self._num_calls, name))
        self._num_calls += 1
        self._in_call = True
        self._arguments = ArgumentsWriter(self._parameters.get(name, {}))
        self._state = self._read_body

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
            return self._end_call(found + len(FUNCTION_CLOSE))
        next_call = self._opening(found, is_line_start=True)
        if tail.has(CALL_CLOSE, found) or isinstance(next_call, Opening):
            return self._end_call(found)
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

    def _end_call(self, resume: int) -> bool:
        self._give_arguments(self._arguments.end())
        self._pieces.append(CallEnded(self._num_calls - 1))
        self._in_call = False
        self._at_margin = True
        stray = "".join(self._stray).strip()
        self._stray.clear()
        if stray:
            self._pieces.append(TextPiece(stray))
        self._tail.at = resume
        self._state = self._read_call_close
        return True

    def _read_call_close(self) -> bool:
        """After a function: `</tool_call>` if it is there, and then text again."""
        at = self._tail.skip_space(self._tail.at)
        closed = self._tail.has(CALL_CLOSE, at)
        if closed is None:
            return False
        if closed:
            self._tail.at = at + len(CALL_CLOSE)
        self._state = self._read_text
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

    def _give_arguments(self, fragment: str) -> None:
        if fragment:
            self._pieces.append(CallArguments(self._num_calls - 1, fragment))
