"""`ChoiceWriter`: from one sequence's tokens to the events of one choice.

tokens → text (whole characters only) → stop strings → tool calls → events. Text that may yet turn out to be part of a
stop string or of a tag is held back. Pure and synchronous; knows no engine calls, no HTTP and no dialect.
"""

import uuid
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from engine.types import CacheReport, FinishReason, RequestTimes, TokenLogprobs, TokenOutput
from server.chat.call_formats import CallFormat, call_parser
from server.chat.call_pieces import CallArguments, CallCut, CallEnded, CallStarted, Markup, Piece, TextPiece
from server.chat.conversation import Tool
from server.chat.detokenizer import Detokenizer
from server.chat.events import (
    ChoiceFinished,
    FinishedAs,
    GenerationEvent,
    GenerationFailed,
    TextDelta,
    TokenText,
    ToolCallArguments,
    ToolCallStarted,
)
from server.chat.indent import IndentStop
from server.chat.stops import StopStrings
from server.chat.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """How the tokens of a choice become its answer.

    Attributes:
        stops: strings that end the choice wherever they appear in its text.
        stop_tokens: strings that are one special token each, by its id; such a token never appears in the text.
        include_stop: the string or token that ended the choice is part of its text.
        tells_end: log-probabilities go up to the token that ended the choice, though it is in no text.
        min_tokens: stop strings are not looked for in the first so many tokens.
        min_indent: the choice ends before a line with fewer blanks at its beginning.
        max_seconds: it ends so long after its first token, if it has come to a second line.
        tools: the tools on offer; without any, tool calls are not looked for and stay text.
        call_format: how the model writes calls.
        text_has_form: the answer is calls from its first character on, or text in which there are none.
        calls_are_held: calls of these tools are held to their grammar while they are drawn.
        max_tool_calls: end the choice after so many calls.
    """

    stops: tuple[str, ...] = ()
    stop_tokens: Mapping[int, str] = field(default_factory=dict)
    stop_token_ids: tuple[int, ...] = ()
    include_stop: bool = False
    tells_end: bool = False
    skip_special_tokens: bool = True
    min_tokens: int = 0
    min_indent: int = 0
    max_seconds: float | None = None
    tools: tuple[Tool, ...] = ()
    call_format: CallFormat = CallFormat.XML
    text_has_form: bool = False
    calls_are_held: bool = False
    max_tool_calls: int | None = None


@dataclass(frozen=True, slots=True)
class _Token:
    """A token on its way out: where its text begins in the answer."""

    start: int
    token_id: int
    shown: TokenText | None


class ChoiceWriter:
    """Feed it every output of a sequence; after `finished` it wants no more and the sequence can be closed."""

    def __init__(self, choice: int, num_prompt_tokens: int, tokenizer: Tokenizer, options: OutputOptions) -> None:
        self.finished = False
        self.num_generated_tokens = 0
        self.cache: CacheReport | None = None
        self.finished_as: FinishedAs | None = None
        self.scored_prompt: list[TokenText] = []  # its tokens after the first, where they are to be scored
        self.choice = choice
        self._num_prompt_tokens = num_prompt_tokens
        self._tokenizer = tokenizer
        self._options = options
        self._detokenizer = Detokenizer(tokenizer, skip_special_tokens=options.skip_special_tokens)
        self._stops = StopStrings(options.stops, include_stop=options.include_stop)
        self._indent = IndentStop(options.min_indent)
        self._has_line = False
        self._parser = None
        if options.tools:
            self._parser = call_parser(options.call_format, options.tools, options.calls_are_held)
        self._waiting: deque[_Token] = deque()  # their text is not out yet
        self._num_decoded = 0
        self._num_released = 0
        self._num_calls = 0
        self._num_calls_ended = 0
        self._events: list[GenerationEvent] = []

    def feed(self, output: TokenOutput) -> list[GenerationEvent]:
        """The events that this output brings; the last ones when the choice ends here."""
        self.cache = output.cache or self.cache
        self.scored_prompt += [self._show(logprobs) for logprobs in output.prompt_logprobs]
        num_text_tokens = len(output.token_ids) - (output.finish_reason is FinishReason.STOP)
        for position, token_id in enumerate(output.token_ids[:num_text_tokens]):
            self._take(token_id, output.logprobs[position] if output.logprobs else None)
            if self._cut:
                self._finish("length" if self._indent.found else "stop", self._stops.matched)
                return self._drain()
        if output.finish_reason is None and self._is_late(output.times):
            self._finish("length")
            return self._drain()
        match output.finish_reason:
            case FinishReason.STOP:
                self._end_token(output.token_ids[-1], output.logprobs[-1] if output.logprobs else None)
            case FinishReason.LENGTH:
                self._finish("length")
            case FinishReason.REPETITION:
                self._finish("repetition")
            case FinishReason.ABORT:
                self._finish("abort")
            case FinishReason.ERROR:
                self.finished = True
                self._events.append(GenerationFailed(self.choice, output.error or "The generation failed."))
        return self._drain()

    @property
    def num_cached_tokens(self) -> int:
        """Of its prompt."""
        return self.cache.num_cached_tokens if self.cache else 0

    @property
    def is_cut(self) -> bool:
        """Whether a stop string cut the text, so that the last tokens stand for more than what was shown."""
        return self._stops.matched is not None

    @property
    def _cut(self) -> bool:
        """Whether the choice ends here though its sequence would go on."""
        return self._stops.matched is not None or self._indent.found or self._has_enough_calls

    def _is_late(self, times: RequestTimes | None) -> bool:
        """Whether the time for this choice is over. A line that is complete is worth showing, half a line is not."""
        limit = self._options.max_seconds
        if limit is None or not self._has_line or times is None or times.first_token is None:
            return False
        return times.last_token is not None and times.last_token - times.first_token >= limit

    @property
    def _has_enough_calls(self) -> bool:
        limit = self._options.max_tool_calls
        return limit is not None and self._num_calls_ended >= limit

    def _take(self, token_id: int, logprobs: TokenLogprobs | None) -> None:
        self.num_generated_tokens += 1
        text = self._detokenizer.feed([token_id])
        start, self._num_decoded = self._num_decoded, self._num_decoded + len(text)
        hidden = self._options.skip_special_tokens and self._tokenizer.is_special(token_id)
        shown = None if logprobs is None or hidden else self._show(logprobs)
        self._waiting.append(_Token(start, token_id, shown))
        text = self._stops.feed(text, active=self.num_generated_tokens > self._options.min_tokens)
        self._release(self._indent.feed(text))

    def _end_token(self, token_id: int, logprobs: TokenLogprobs | None) -> None:
        """The last token ended the sequence: it counts, and is printed only when the client wants that."""
        self.num_generated_tokens += 1
        word = self._options.stop_tokens.get(token_id)
        if self._options.include_stop:
            self._release(self._stops.feed(self._detokenizer.flush(), active=False) + self._stops.flush())
            printed = word if word is not None else self._detokenizer.feed([token_id])
            if printed:
                shown = None if logprobs is None else self._show(logprobs)
                self._waiting.append(_Token(self._num_decoded, token_id, shown))
            self._release(printed)
        elif self._options.tells_end and logprobs is not None:
            self._waiting.append(_Token(self._num_decoded, token_id, self._show(logprobs)))
        stop = word if word is not None else token_id if token_id in self._options.stop_token_ids else None
        self._finish("stop", stop)

    def _release(self, text: str) -> None:
        """Let text go to the client, through the tool-call parser when tools are on offer."""
        if not text:
            return
        if self._options.text_has_form and not self._num_released and not text.startswith("<"):
            self._parser = None
        self._num_released += len(text)
        self._has_line = self._has_line or "\n" in text
        if self._parser is None:
            self._text(text, self._num_released)
        else:
            self._pieces(self._parser.feed(text))

    def _pieces(self, pieces: Iterable[Piece]) -> None:
        for piece in pieces:
            if self._has_enough_calls:
                return
            if isinstance(piece, TextPiece):
                self._text(piece.text, piece.end)
                continue
            self._tokens_before(piece.end)  # they are in no text
            match piece:
                case CallStarted():
                    self._num_calls += 1
                    self._events.append(ToolCallStarted(self.choice, piece.index, _new_call_id(), piece.name))
                case CallArguments():
                    self._events.append(ToolCallArguments(self.choice, piece.index, piece.fragment))
                case CallEnded():
                    self._num_calls_ended += 1
                case CallCut() | Markup():
                    pass

    def _text(self, text: str, end: int) -> None:
        """Text that goes up to `end`, with the tokens that begin before that."""
        tokens = self._tokens_before(end)
        shown = tuple([token.shown for token in tokens if token.shown is not None])
        self._events.append(TextDelta(self.choice, text, shown, tuple([token.token_id for token in tokens])))

    def _tokens_before(self, end: int) -> list[_Token]:
        tokens = []
        while self._waiting and self._waiting[0].start < end:
            tokens.append(self._waiting.popleft())
        return tokens

    def _finish(self, reason: FinishedAs, stop: str | int | None = None) -> None:
        if not self._indent.found:
            is_whole = self._stops.matched is None
            tail = self._stops.feed(self._detokenizer.flush(), active=False) + self._stops.flush() if is_whole else ""
            self._release(self._indent.feed(tail) + self._indent.flush())
        in_opening = self._parser is not None and self._parser.is_undecided
        if self._parser is not None and not self._has_enough_calls:
            truncated = reason != "stop" or self._stops.matched is not None
            self._pieces(self._parser.finish(truncated))
        if not self._cut and any(token.shown for token in self._waiting):
            self._text("", self._num_released + 1)  # the last tokens have no text of their own
        cut_in_call = self._parser is not None and self._parser.in_call and not self._has_enough_calls
        is_over = reason == "stop" or (reason == "length" and not in_opening)
        if is_over and self._num_calls and not cut_in_call:
            reason = "tool_calls"
        self.finished = True
        self.finished_as = reason
        counts = (self._num_prompt_tokens, self.num_generated_tokens, self.num_cached_tokens)
        self._events.append(ChoiceFinished(self.choice, reason, *counts, stop))

    def _show(self, logprobs: TokenLogprobs) -> TokenText:
        raw = self._tokenizer.token_bytes(logprobs.token_id)
        top = tuple((_readable(other := self._tokenizer.token_bytes(i)), other, value) for i, value in logprobs.top)
        return TokenText(_readable(raw), raw, logprobs.logprob, top)

    def _drain(self) -> list[GenerationEvent]:
        """The events so far, neighbours of one kind joined."""
        events, self._events = self._events, []
        if len(events) < 2:
            return events
        joined: list[GenerationEvent] = []
        for event in events:
            last = joined[-1] if joined else None
            if isinstance(event, TextDelta) and isinstance(last, TextDelta):
                joined[-1] = TextDelta(
                    self.choice,
                    last.text + event.text,
                    last.logprobs + event.logprobs,
                    last.token_ids + event.token_ids,
                )
            elif (
                isinstance(event, ToolCallArguments)
                and isinstance(last, ToolCallArguments)
                and last.index == event.index
            ):
                joined[-1] = ToolCallArguments(self.choice, event.index, last.fragment + event.fragment)
            else:
                joined.append(event)
        return joined


def _readable(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _new_call_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"
