"""What the two kinds of completions share when answers are written: identity, usage, JSON, errors in a stream.

Knows events and JSON, no HTTP.
"""

import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from server.chat.events import ChoiceFinished, GenerationFailed, TextDelta, ToolCallArguments, ToolCallStarted
from server.dialects.openai.schema import StreamOptions
from server.errors import ApiError, InternalError, RequestAborted
from server.generation import Generation, TokenCounts
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


def usage_of(counts: TokenCounts) -> dict[str, Any]:
    """The usage object, every member always there."""
    return {
        "prompt_tokens": counts.num_prompt_tokens,
        "completion_tokens": counts.num_generated_tokens,
        "total_tokens": counts.num_prompt_tokens + counts.num_generated_tokens,
        "prompt_tokens_details": {"cached_tokens": counts.num_cached_tokens},
    }


class Chunks:
    """Makes the chunks of one stream."""

    def __init__(self, identity: Identity, kind: str, options: StreamOptions | None, generation: Generation) -> None:
        self._head = {"id": identity.id, "object": kind, "created": identity.created, "model": identity.model}
        self._options = options or StreamOptions()
        self._generation = generation

    def choice(self, choice: Mapping[str, Any]) -> bytes:
        """A chunk with one choice in it."""
        chunk = {**self._head, "choices": [choice]}
        if self._options.continuous_usage_stats:
            chunk["usage"] = usage_of(self._generation.counts())
        return data_event(to_json(chunk))

    def end(self) -> bytes:
        """What follows the last choice: the usage when asked for, and the end mark."""
        if not self._options.include_usage:
            return DONE
        chunk = {**self._head, "choices": [], "usage": usage_of(self._generation.counts())}
        return data_event(to_json(chunk)) + DONE


def to_json(value: Any) -> bytes:
    """Compact UTF-8, on one line for every reader: some end lines at Unicode's separators too, inside an event."""
    return _JSON.encode(value).translate(_SEPARATORS).encode("utf-8", "backslashreplace")


def error_event(error: ApiError) -> bytes:
    """A failure inside a stream."""
    return data_event(to_json(error.body()))


async def unbroken(generation: Generation) -> AsyncGenerator[AnswerEvent, None]:
    """The events of a generation that goes well.

    Raises:
        InternalError: a choice failed. That fails the request, for half an answer must not look like a whole one.
        RequestAborted: it was ended from outside, with the same consequence.
    """
    async for event in generation:
        if isinstance(event, GenerationFailed):
            raise InternalError(event.message)
        if isinstance(event, ChoiceFinished) and event.finished_as == "abort":
            raise RequestAborted
        yield event


def readable_logprob(value: float) -> float:
    """A number that JSON can carry."""
    return max(value, _LEAST_LOGPROB)
