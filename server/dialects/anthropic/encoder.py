"""Writes the answer to a messages request, as a stream of events or as one object.

Knows events and JSON, no HTTP.
"""

from collections.abc import AsyncGenerator
from typing import Any

from server.answering import AnswerEvent, unbroken
from server.chat.events import ChoiceFinished, TextDelta, ToolCallArguments, ToolCallStarted
from server.dialects.anthropic.errors import error_body
from server.errors import ApiError
from server.generation import Generation
from server.json_text import TextTemplate, object_of, to_json
from server.sse import COMMENT, data_event

_TEXT, _CALL = "text", "tool_use"
_DELTA = "content_block_delta"
_MORE = {
    _TEXT: {"type": "text_delta", "text": TextTemplate.PLACE},
    _CALL: {"type": "input_json_delta", "partial_json": TextTemplate.PLACE},
}
_PING = data_event(to_json({"type": "ping"}), "ping")


class MessageEncoder:
    """Encodes one answer. Its life signs are part of the message, so both are written by the same object."""

    def __init__(self, request_id: str, model: str, max_model_len: int, opens_text: bool = True) -> None:
        """With `opens_text` a life sign may open a block of text before there is any: not where a text has to be of a
        form, and a call may come in its stead."""
        self._opens_text = opens_text
        self._head = {"id": f"msg_{request_id}", "type": "message", "role": "assistant", "model": model}
        self._max_model_len = max_model_len
        self._started = False
        self._finished = False
        self._index = -1
        self._open: str | None = None  # the kind of the block at `_index`
        self._delta: TextTemplate | None = None  # more of it

    async def stream(self, generation: Generation) -> AsyncGenerator[bytes, None]:
        """Events in Anthropic's order. A block is closed when the next begins."""
        async for news in generation:
            event = unbroken(news)
            yield self._start(generation) + self._encoded(event, generation)

    def life_sign(self, generation: Generation) -> bytes:
        """A ping, and nothing more in a block that is open: clients that pass over pings take that for life.

        Nothing may follow the end, which a slow client is perhaps still reading.
        """
        if self._finished:
            return COMMENT
        sign = self._start(generation)
        if self._open is None and not self._opens_text:
            return sign + _PING
        sign += self._begin({"type": _TEXT, "text": ""}) if self._open is None else _PING
        return sign + self._more("")

    def failure(self, error: ApiError) -> bytes:
        """The last event of a stream that breaks off."""
        return data_event(to_json(error_body(error)), "error")

    def _start(self, generation: Generation) -> bytes:
        """The beginning of the message, once."""
        if self._started:
            return b""
        self._started = True
        progress = generation.progress()
        usage = _usage(progress.num_prompt_tokens, progress.num_cached_tokens, 0)
        blank: dict[str, Any] = {"content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
        return _event({"type": "message_start", "message": {**self._head, **blank}})

    def _encoded(self, event: AnswerEvent, generation: Generation) -> bytes:
        match event:
            case TextDelta():
                opening = b"" if self._open == _TEXT else self._begin({"type": _TEXT, "text": ""})
                return opening + self._more(event.text)
            case ToolCallStarted():
                return self._begin(_call(event)) + self._more("")
            case ToolCallArguments():
                return self._more(event.fragment)
            case ChoiceFinished():
                self._finished = True
                end = {"type": "message_delta", "delta": self._ending(event), "usage": _usage_of(generation)}
                return self._close() + _event(end) + _event({"type": "message_stop"})

    def _begin(self, block: dict[str, Any]) -> bytes:
        """A new block; a ping follows the start of the first."""
        closing = self._close()
        self._index += 1
        self._open = block["type"]
        self._delta = TextTemplate({"type": _DELTA, "index": self._index, "delta": _MORE[self._open]})
        opening = _event({"type": "content_block_start", "index": self._index, "content_block": block})
        return closing + opening + (b"" if self._index else _PING)

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        self._open = None
        return _event({"type": "content_block_stop", "index": self._index})

    def _more(self, text: str) -> bytes:
        assert self._delta is not None, "no block is open"
        return data_event(self._delta.fill(text), _DELTA)

    async def collect(self, generation: Generation) -> dict[str, Any]:
        """The whole answer."""
        content: list[dict[str, Any]] = []
        parts: list[str] = []  # of the last block
        ending: dict[str, Any] = {}
        async for news in generation:
            event = unbroken(news)
            match event:
                case TextDelta():
                    if not content or content[-1]["type"] != _TEXT:
                        _fill(content, parts)
                        content.append({"type": _TEXT, "text": ""})
                    parts.append(event.text)
                case ToolCallStarted():
                    _fill(content, parts)
                    content.append(_call(event))
                case ToolCallArguments():
                    parts.append(event.fragment)
                case ChoiceFinished():
                    _fill(content, parts)
                    ending = self._ending(event)
        return {**self._head, "content": content, **ending, "usage": _usage_of(generation)}

    def _ending(self, event: ChoiceFinished) -> dict[str, Any]:
        """Why the answer ended. One that repeats itself has come to its end, as far as this dialect can say."""
        reason, sequence = "end_turn", None
        if event.finished_as == "tool_calls":
            reason = "tool_use"
        elif event.finished_as == "length":
            is_full = event.num_prompt_tokens + event.num_generated_tokens >= self._max_model_len
            reason = "model_context_window_exceeded" if is_full else "max_tokens"
        elif isinstance(event.stop, str):
            reason, sequence = "stop_sequence", event.stop
        return {"stop_reason": reason, "stop_sequence": sequence}


def _fill(content: list[dict[str, Any]], parts: list[str]) -> None:
    """Put the parts that have come into the block that they are of."""
    if not content:
        return
    whole, block = "".join(parts), content[-1]
    parts.clear()
    if block["type"] == _TEXT:
        block["text"] = whole
    else:
        block["input"] = _input(whole)


def _input(text: str) -> dict[str, Any]:
    """A call's arguments by name. Text that is no JSON object, as of a call that was cut off, is one argument whole."""
    if not text.strip():
        return {}
    arguments = object_of(text)
    return {"arguments": text} if arguments is None else arguments


def _call(event: ToolCallStarted) -> dict[str, Any]:
    return {"type": _CALL, "id": f"toolu_{event.id.removeprefix('call_')}", "name": event.name, "input": {}}


def _event(value: dict[str, Any]) -> bytes:
    return data_event(to_json(value), value["type"])


def _usage_of(generation: Generation) -> dict[str, int]:
    counts = generation.counts()
    return _usage(counts.num_prompt_tokens, counts.num_cached_tokens, counts.num_generated_tokens)


def _usage(num_prompt_tokens: int, num_cached_tokens: int, num_generated_tokens: int) -> dict[str, int]:
    """What was read from the cache is not part of the input tokens here."""
    return {
        "input_tokens": num_prompt_tokens - num_cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": num_cached_tokens,
        "output_tokens": num_generated_tokens,
    }
