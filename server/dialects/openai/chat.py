"""Writes the answer to a chat completion, as a stream of chunks or as one object.

Knows events and JSON, no HTTP.
"""

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from server.answering import AnswerEvent, unbroken
from server.chat.events import ChoiceFinished, TextDelta, TokenText, ToolCallArguments, ToolCallStarted
from server.dialects.openai.answers import Chunks, Identity, usage_of
from server.dialects.openai.schema import ChatCompletionRequest
from server.generation import Generation
from server.json_text import TextTemplate
from server.logprobs import told_tokens
from server.timings import timings_of


class ChatEncoder:
    """Encodes one chat answer."""

    def __init__(self, identity: Identity, body: ChatCompletionRequest) -> None:
        self._identity = identity
        self._body = body
        self._chunks = Chunks(identity, "chat.completion.chunk", body)
        self.life_sign = self._chunks.life_sign
        self.failure = self._chunks.failure

    async def stream(self, generation: Generation) -> AsyncGenerator[bytes, None]:
        """Chunks; each choice opens with its role."""
        chunks = self._chunks
        texts: dict[int, TextTemplate] = {}
        async for news in generation:
            event = unbroken(news)
            if event.choice not in texts:
                texts[event.choice] = TextTemplate(_choice(event.choice, {"content": TextTemplate.PLACE}))
                yield chunks.choice(generation, _choice(event.choice, {"role": "assistant", "content": ""}))
            if isinstance(event, TextDelta) and not self._body.logprobs:
                yield chunks.encoded_choice(generation, texts[event.choice].fill(event.text))
            elif isinstance(event, ChoiceFinished):
                yield chunks.last(generation, self._chunk(event))
            else:
                yield chunks.choice(generation, self._chunk(event))
        yield chunks.end(generation)

    def _chunk(self, event: AnswerEvent) -> dict[str, Any]:
        match event:
            case TextDelta():
                logprobs = _logprobs(event.logprobs) if self._body.logprobs else None
                return _choice(event.choice, {"content": event.text}, logprobs)
            case ToolCallStarted():
                function = {"name": event.name, "arguments": ""}
                call = {"index": event.index, "id": event.id, "type": "function", "function": function}
                return _choice(event.choice, {"tool_calls": [call]})
            case ToolCallArguments():
                call = {"index": event.index, "function": {"arguments": event.fragment}}
                return _choice(event.choice, {"tool_calls": [call]})
            case ChoiceFinished():
                return {**_choice(event.choice, {}), "finish_reason": event.finished_as, "stop_reason": event.stop}

    async def collect(self, generation: Generation) -> dict[str, Any]:
        """The whole answer."""
        choices: dict[int, _Collected] = {}
        async for news in generation:
            event = unbroken(news)
            choices.setdefault(event.choice, _Collected(event.choice)).add(event)
        return {
            "id": self._identity.id,
            "object": "chat.completion",
            "created": self._identity.created,
            "model": self._identity.model,
            "choices": [choice.whole(self._body.logprobs) for _, choice in sorted(choices.items())],
            "usage": usage_of(generation, self._body.cache_report),
            "timings": timings_of(generation),
        }


class _Collected:
    """One choice, put together from its events."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._texts: list[str] = []
        self._logprobs: list[TokenText] = []
        self._calls: dict[int, dict[str, Any]] = {}
        self._arguments: dict[int, list[str]] = {}
        self._finished: ChoiceFinished | None = None

    def add(self, event: AnswerEvent) -> None:
        match event:
            case TextDelta():
                self._texts.append(event.text)
                self._logprobs += event.logprobs
            case ToolCallStarted():
                self._calls[event.index] = {"id": event.id, "type": "function", "name": event.name}
                self._arguments[event.index] = []
            case ToolCallArguments():
                self._arguments[event.index].append(event.fragment)
            case ChoiceFinished():
                self._finished = event

    def whole(self, with_logprobs: bool) -> dict[str, Any]:
        text = "".join(self._texts)
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if self._calls:
            message["content"] = text or None
            message["tool_calls"] = [self._call(index) for index in sorted(self._calls)]
        return {
            "index": self._index,
            "message": message,
            "logprobs": _logprobs(self._logprobs) if with_logprobs else None,
            "finish_reason": self._finished.finished_as if self._finished else None,
            "stop_reason": self._finished.stop if self._finished else None,
        }

    def _call(self, index: int) -> dict[str, Any]:
        call = self._calls[index]
        function = {"name": call["name"], "arguments": "".join(self._arguments[index])}
        return {"id": call["id"], "type": call["type"], "function": function}


def _choice(index: int, delta: dict[str, Any], logprobs: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None}


def _logprobs(tokens: Sequence[TokenText]) -> dict[str, Any]:
    return {"content": told_tokens(tokens), "refusal": None}
