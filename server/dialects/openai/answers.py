"""What the two kinds of completions share when answers are written: identity, usage, JSON, errors in a stream.

Knows events and JSON, no HTTP.
"""

import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from server.chat.events import (
    ChoiceFinished,
    GenerationEvent,
    GenerationFailed,
    TextDelta,
    ToolCallArguments,
    ToolCallStarted,
)
from server.dialects.openai.schema import GenerationFields, StreamOptions
from server.errors import ApiError, InternalError, RequestAborted
from server.generation import Generation
from server.sse import data_event

DONE = data_event(b"[DONE]")
AnswerEvent = TextDelta | ToolCallStarted | ToolCallArguments | ChoiceFinished
_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_SEPARATORS = {ord(character): f"\\u{ord(character):04x}" for character in "\x85\u2028\u2029"}
_LEAST_LOGPROB = -9999.0  # JSON has no infinity


@dataclass(frozen=True, slots=True)
class Identity:
    """What every object of one answer repeats."""

    id: str
    model: str
    created: int


class Encoder(Protocol):
    """Writes the answer to one request."""

    def stream(self, generation: Generation) -> AsyncGenerator[bytes, None]:
        """The answer as events."""
        ...

    async def collect(self, generation: Generation) -> dict[str, Any]:
        """The answer as one object."""
        ...


def usage_of(generation: Generation, with_cache_report: bool = False) -> dict[str, Any]:
    """The usage object, every member always there but the report, which is for those who ask."""
    counts = generation.counts()
    report = {"cache_report": generation.cache_reports()} if with_cache_report else {}
    return {
        "prompt_tokens": counts.num_prompt_tokens,
        "completion_tokens": counts.num_generated_tokens,
        "total_tokens": counts.num_prompt_tokens + counts.num_generated_tokens,
        "prompt_tokens_details": {"cached_tokens": counts.num_cached_tokens},
        **report,
    }


class Chunks:
    """Makes the chunks of one stream."""

    def __init__(self, identity: Identity, kind: str, body: GenerationFields, generation: Generation) -> None:
        head = {"id": identity.id, "object": kind, "created": identity.created, "model": identity.model}
        self._head = to_json(head).removesuffix(b"}") + b',"choices":['  # what every chunk begins with
        self._options = body.stream_options or StreamOptions()
        self._with_report = body.cache_report
        self._generation = generation

    def choice(self, choice: Mapping[str, Any]) -> bytes:
        """A chunk with one choice in it."""
        return self.encoded_choice(to_json(choice))

    def encoded_choice(self, choice: bytes) -> bytes:
        """A chunk with one choice in it, given as JSON."""
        return self._chunk(choice, self._options.continuous_usage_stats)

    def end(self) -> bytes:
        """What follows the last choice: the usage when asked for, and the end mark."""
        if not self._options.include_usage:
            return DONE
        return self._chunk(b"", with_usage=True) + DONE

    def _chunk(self, choices: bytes, with_usage: bool) -> bytes:
        usage = b',"usage":' + to_json(usage_of(self._generation, self._with_report)) if with_usage else b""
        return data_event(self._head + choices + b"]" + usage + b"}")


class TextTemplate:
    """The JSON of an object in which one text changes from chunk to chunk; where it goes, the object has `PLACE`."""

    PLACE = "\0"

    def __init__(self, value: Any) -> None:
        self._before, self._after = to_json(value).split(to_json(self.PLACE))

    def fill(self, text: str) -> bytes:
        """The JSON with this text."""
        return self._before + to_json(text) + self._after


def to_json(value: Any) -> bytes:
    """Compact UTF-8, on one line for every reader: some end lines at Unicode's separators too, inside an event."""
    text = _JSON.encode(value)
    return text.encode() if text.isascii() else text.translate(_SEPARATORS).encode("utf-8", "backslashreplace")


def error_event(error: ApiError) -> bytes:
    """A failure inside a stream."""
    return data_event(to_json(error.body()))


def unbroken(event: GenerationEvent) -> AnswerEvent:
    """The event of a generation that goes well.

    Raises:
        InternalError: a choice failed. That fails the request, for half an answer must not look like a whole one.
        RequestAborted: it was ended from outside, with the same consequence.
    """
    if isinstance(event, GenerationFailed):
        raise InternalError(event.message)
    if isinstance(event, ChoiceFinished) and event.finished_as == "abort":
        raise RequestAborted
    return event


def readable_logprob(value: float) -> float:
    """A number that JSON can carry."""
    return max(value, _LEAST_LOGPROB)
