"""`CallParser`: what parsers of tool calls share, whatever a call looks like inside.

Lives here: the text around calls, the end of the answer, and the account of what has been given out. It may not know
how a call is written between `<tool_call>` and `</tool_call>`.

Whitespace around calls belongs to the markup. All other text is given out unchanged, a `<tool_call>` in prose as soon
as what follows rules a call out.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

from server.chat.call_markup import CALL_CLOSE, NeedMore, Opening
from server.chat.call_pieces import CallArguments, CallCut, CallEnded, CallStarted, Markup, Piece, TextPiece
from server.chat.text_tail import Tail


class CallParser(ABC):
    """Splits one answer into text and calls. The pieces, joined, do not depend on how the text is portioned.

    Never raises, whatever the text. Each state is a method that deals with some text and returns True, or returns False
    when it can say nothing more for now.
    """

    def __init__(self, has_tools: bool) -> None:
        """Without tools everything is text."""
        self._has_tools = has_tools
        self._tail = Tail()
        self._state: Callable[[], bool] = self._read_text
        self._pieces: list[Piece] = []
        self._num_accounted = 0
        self._num_calls = 0
        self._in_call = False
        self._at_margin = True  # no text was given out since the beginning or the last call

    @property
    def num_calls(self) -> int:
        """How many calls have started."""
        return self._num_calls

    @property
    def in_call(self) -> bool:
        """Whether the last call is still open. If it is after `finish`, it was cut off and must not be run."""
        return self._in_call

    @property
    def is_undecided(self) -> bool:
        """Whether what came last may be the beginning of a call."""
        return not self._in_call and self._tail.text[self._tail.at :].strip() != ""

    def feed(self, text: str) -> list[Piece]:
        """What is certain once `text` is known too."""
        if self._is_plain(text):
            self._tail.skip(len(text))
            self._at_margin = False
            return [TextPiece(text, *self._span())]
        self._tail.feed(text)
        return self._run()

    def _is_plain(self, text: str) -> bool:
        """Whether nothing waits and nothing of `text` has to: most of what comes outside calls, dealt with at once."""
        if not self._has_tools:
            return text != ""
        nothing_waits = self._tail.is_empty and self._state == self._read_text
        return nothing_waits and "<" not in text and text != "" and not text[-1].isspace()

    def finish(self, truncated: bool = False) -> list[Piece]:
        """The rest; no more text will come.

        An open call is closed, for the model's own end token means that it was meant to be whole. With `truncated` (the
        token limit, a stop string, an abort) it stays open, what is held back of it is dropped, `in_call` stays true,
        and the answer must be finished as such and not as a call.
        """
        if self._in_call and truncated:
            self._tail.take(len(self._tail.text))
            return [CallCut(self._num_calls - 1, *self._span())]
        self._tail.ended = True
        pieces = self._run()
        if self._in_call:
            self._close_call()
        self._tail.take(len(self._tail.text))
        if self._num_accounted < self._tail.num_done:
            self._pieces.append(Markup(*self._span()))
        return pieces + self._take_pieces()

    def _run(self) -> list[Piece]:
        while self._state():
            pass
        return self._take_pieces()

    def _take_pieces(self) -> list[Piece]:
        pieces, self._pieces = self._pieces, []
        return pieces

    def _span(self) -> tuple[int, int]:
        """All that was dealt with since the last piece."""
        start, self._num_accounted = self._num_accounted, self._tail.num_done
        return start, self._num_accounted

    # ---- what a form of calls brings

    @abstractmethod
    def _opening(self, found: int, is_line_start: bool) -> Opening | NeedMore | None:
        """The head of a call at `found`, where a "<" is; None if there is none."""

    @abstractmethod
    def _enter_call(self, name: str) -> None:
        """A call has started: set the state that reads it, which will end with `_end_call`."""

    @abstractmethod
    def _close_call(self) -> None:
        """The answer ended inside a call that was meant to be whole: `_end_call`."""

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
            self._tail.take(self._tail.at + len(text))
            self._pieces.append(TextPiece(text, *self._span()))
            self._at_margin = False

    def _is_line_start(self, found: int) -> bool:
        """Whether only whitespace stands before `found` on its line. That whitespace still waits in the tail."""
        before = self._tail.text[self._tail.at : found]
        space = before[len(before.rstrip()) :]
        return "\n" in space or (space == before and self._at_margin)

    # ---- at the edges of a call

    def _start_call(self, name: str) -> None:
        self._pieces.append(CallStarted(self._num_calls, name, *self._span()))
        self._num_calls += 1
        self._in_call = True
        self._enter_call(name)

    def _give_arguments(self, fragment: str) -> None:
        if fragment:
            self._pieces.append(CallArguments(self._num_calls - 1, fragment, *self._span()))

    def _end_call(self, resume: int, stray: str = "") -> None:
        """The call is complete, the text goes on at `resume`; `stray` is text from inside it."""
        self._tail.at = resume
        self._pieces.append(CallEnded(self._num_calls - 1, *self._span()))
        self._in_call = False
        self._at_margin = True
        if stray:
            self._pieces.append(TextPiece(stray, *self._span()))
        self._state = self._read_call_close

    def _read_call_close(self) -> bool:
        """After a call: `</tool_call>` if it is there, or what came of it, and then text again."""
        tail = self._tail
        at = self._closing_tag_from(tail.at)
        closed = tail.has(CALL_CLOSE, at)
        if closed is None:
            return False
        rest = tail.text[at:]
        if closed or (rest and CALL_CLOSE.startswith(rest)):
            tail.take(at + min(len(CALL_CLOSE), len(rest)))
            self._pieces.append(Markup(*self._span()))
        self._state = self._read_text
        return True

    def _closing_tag_from(self, at: int) -> int:
        """The first place from `at` on where the closing tag could be."""
        return self._tail.skip_space(at)
