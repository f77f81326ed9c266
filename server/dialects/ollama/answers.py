"""Writes the answer to a chat or a prompt, as a stream of JSON lines or as one object.

Knows events and JSON, no HTTP.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from server.answering import unbroken
from server.chat.events import ChoiceFinished, TextDelta, TokenText
from server.dialects.ollama.calls import CallCollector
from server.errors import ApiError
from server.generation import Generation
from server.json_text import readable_logprob, to_json

MEDIA_TYPE = "application/x-ndjson"
_DONE_REASONS = {"tool_calls": "stop"}  # Ollama tells calls from text by their being there

Said = Callable[[str, Sequence[dict[str, Any]]], dict[str, Any]]
"""Where one kind of answer has its text and its calls."""


def chat_said(text: str, calls: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """In a message."""
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if calls:
        message["tool_calls"] = list(calls)
    return {"message": message}


def prompt_said(text: str, calls: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """As it stands; no tools are on offer."""
    return {"response": text}


class AnswerEncoder:
    """Encodes one answer. `model` is the name it was asked under."""

    def __init__(self, model: str, said: Said, with_logprobs: bool) -> None:
        self._model = model
        self._said = said
        self._with_logprobs = with_logprobs

    async def stream(self, generation: Generation) -> AsyncGenerator[bytes, None]:
        """Lines: text as it comes, the calls in one piece, and last what it took."""
        collector = CallCollector()
        async for news in generation:
            event = unbroken(news)
            collector.feed(event)
            if isinstance(event, TextDelta):
                yield _line(self._chunk(event.text, logprobs=event.logprobs))
            elif isinstance(event, ChoiceFinished):
                if calls := collector.whole(event):
                    yield _line(self._chunk("", calls))
                yield _line(self._end(event, generation))

    async def collect(self, generation: Generation) -> dict[str, Any]:
        """The whole answer."""
        collector, texts, logprobs = CallCollector(), list[str](), list[TokenText]()
        answer: dict[str, Any] = {}
        async for news in generation:
            event = unbroken(news)
            collector.feed(event)
            if isinstance(event, TextDelta):
                texts.append(event.text)
                logprobs += event.logprobs
            elif isinstance(event, ChoiceFinished):
                answer = self._end(event, generation, "".join(texts), collector.whole(event), logprobs)
        return answer

    def life_sign(self, generation: Generation) -> bytes:
        """A piece of the answer in which nothing is said."""
        return _line(self._chunk(""))

    def failure(self, error: ApiError) -> bytes:
        """A failure inside a stream."""
        return _line({"error": error.message})

    def idle(self, done_reason: str) -> dict[str, Any]:
        """The whole answer to a request that asks for none."""
        return {**self._chunk(""), "done": True, "done_reason": done_reason}

    def _chunk(
        self, text: str, calls: Sequence[dict[str, Any]] = (), logprobs: Sequence[TokenText] = ()
    ) -> dict[str, Any]:
        chunk = {"model": self._model, "created_at": timestamp(datetime.now(UTC)), **self._said(text, calls)}
        if self._with_logprobs and logprobs:
            chunk["logprobs"] = [_logprob(token) for token in logprobs]
        return {**chunk, "done": False}

    def _end(
        self,
        event: ChoiceFinished,
        generation: Generation,
        text: str = "",
        calls: Sequence[dict[str, Any]] = (),
        logprobs: Sequence[TokenText] = (),
    ) -> dict[str, Any]:
        reason = _DONE_REASONS.get(event.finished_as, event.finished_as)
        return {**self._chunk(text, calls, logprobs), "done": True, "done_reason": reason, **_measures(generation)}


def timestamp(moment: datetime) -> str:
    """As Go's clients read it: RFC 3339, in UTC."""
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _line(value: dict[str, Any]) -> bytes:
    return to_json(value) + b"\n"


def _measures(generation: Generation) -> dict[str, int]:
    """Counts of tokens, and nanoseconds: at least one where clients divide by them.

    The model is loaded long since; what a request waits for is its turn.
    """
    counts, timings = generation.counts(), generation.timings()
    waited, reading, writing = (
        round(seconds * 1e9) for seconds in (timings.queue_seconds, timings.prompt_seconds, timings.generation_seconds)
    )
    return {
        "total_duration": max(1, waited + reading + writing),
        "load_duration": waited,
        "prompt_eval_count": counts.num_prompt_tokens,
        "prompt_eval_duration": max(1, reading),
        "eval_count": counts.num_generated_tokens,
        "eval_duration": max(1, writing),
    }


def _logprob(token: TokenText) -> dict[str, Any]:
    return {
        **_token(token.text, token.raw, token.logprob),
        "top_logprobs": [_token(*alternative) for alternative in token.top],
    }


def _token(text: str, raw: bytes, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": readable_logprob(logprob), "bytes": list(raw)}
