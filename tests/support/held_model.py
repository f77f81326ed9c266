"""Holds a model too small for any task to one: in its first turn a call of the agent's shell, in its next a text.

Works on requests, in the three dialects that agents speak; that the answer is as asked is left to the daemon and its
grammars. What a dialect has for calls, for pieces of them, for usage and for errors stands here too.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Json = dict[str, Any]
Turn = Literal["call", "text", "side"]

FEW_TOKENS = 64  # more than the texts here have
# Beside a form of its answer the model may call: whether it does is drawn, until it says the text.
EVENLY: Json = {"temperature": 100, "top_p": 1, "top_k": -1}
MANY_TOKENS = 400
RETRY_LATER = "overloaded, try again in 2s"


@dataclass(frozen=True, slots=True)
class Script:
    """What the model is held to: one call with these arguments, then this text."""

    tool: str
    arguments: Json
    text: str

    @property
    def parameters(self) -> Json:
        """A schema that admits these arguments and no others."""
        return {
            "type": "object",
            "properties": {name: {"enum": [value]} for name, value in self.arguments.items()},
            "required": list(self.arguments),
            "additionalProperties": False,
        }


@dataclass(frozen=True, slots=True)
class Usage:
    """What a turn cost: `prompt` counts the cached tokens as well."""

    prompt: int
    cached: int
    answer: int


class Wire(Protocol):
    """How a dialect looks to who only passes it on."""

    path: str

    def split(self, event: Json) -> list[Json]:
        """An event whose piece of a call or text is longer than two characters, as several; any other as it is."""

    def refusal(self) -> Json:
        """The body of a 503."""


class Dialect(Wire, Protocol):
    """What is said differently in each dialect."""

    def narrowed(self, tool: Json, script: Script) -> Json | None:
        """The tool, taking the script's arguments alone; None if it is another tool."""

    def num_results(self, body: Json) -> int:
        """How many calls were carried out before, or refused by the agent."""

    def must_call(self, body: Json, script: Script) -> Json:
        """The fields that make the answer a call."""

    def must_say(self, body: Json, script: Script) -> Json:
        """The fields that make the answer a text, or let it be one."""

    def short(self) -> Json:
        """The fields that keep an answer short."""

    def usage(self, events: Iterable[Json]) -> Usage:
        """What an answer's events say that it cost."""


def hold(dialect: Dialect, script: Script, body: Json) -> tuple[Turn, Json]:
    """A request, and which turn it is. One without the script's tool is none of the task: a title, a summary."""
    tools = _narrowed(dialect, script, body)
    if not tools:
        return "side", {**body, **dialect.short()}
    if dialect.num_results(body):
        return "text", {**body, "tools": tools, **dialect.short(), **dialect.must_say(body, script)}
    return "call", {**body, "tools": tools, **dialect.must_call(body, script)}


def hold_to_calls(dialect: Dialect, first: Script, last: Script, body: Json) -> tuple[Turn, Json]:
    """A request, and which turn it is, of an agent that ends its run by a call: the last one stands for the text."""
    turn: Turn = "text" if dialect.num_results(body) else "call"
    script = last if turn == "text" else first
    return turn, {**body, "tools": _narrowed(dialect, script, body), **dialect.must_call(body, script)}


def _narrowed(dialect: Dialect, script: Script, body: Json) -> list[Json]:
    return [tool for offered in body.get("tools") or () if (tool := dialect.narrowed(offered, script))]


def hold_to_texts(streamed: str, whole: str, body: Json) -> tuple[Turn, Json]:
    """A request, in the chat dialect, of an agent without tools: an answer that it streams is the task."""
    turn: Turn = "call" if body.get("stream") else "text"
    return turn, {**body, "structured_outputs": {"choice": [streamed if turn == "call" else whole]}}


def _pieces(text: str) -> list[str]:
    return [text[start : start + 2] for start in range(0, len(text), 2)]


def _split_at(event: Json, holder: Json, key: str) -> list[Json]:
    """Copies of the event, each with a part of what `holder`, an object in it, has under the key."""
    parts = []
    whole = holder[key]
    for piece in _pieces(whole):
        holder[key] = piece
        parts.append(copy.deepcopy(event))
    holder[key] = whole
    return parts or [event]


class Chat:
    """OpenAI's chat completions."""

    path = "/v1/chat/completions"

    def narrowed(self, tool: Json, script: Script) -> Json | None:
        function = tool.get("function", {})
        if function.get("name") != script.tool:
            return None
        return {**tool, "function": {**function, "parameters": script.parameters}}

    def num_results(self, body: Json) -> int:
        return sum(message["role"] == "tool" for message in body["messages"])

    def must_call(self, body: Json, script: Script) -> Json:
        return {"tool_choice": {"type": "function", "function": {"name": script.tool}}}

    def must_say(self, body: Json, script: Script) -> Json:
        return {"tool_choice": "auto", "structured_outputs": {"choice": [script.text]}}

    def short(self) -> Json:
        return {"max_tokens": FEW_TOKENS}

    def split(self, event: Json) -> list[Json]:
        delta = event["choices"][0]["delta"] if event.get("choices") else {}
        if not delta.get("tool_calls"):
            return _split_at(event, delta, "content") if delta.get("content") else [event]
        function = delta["tool_calls"][0]["function"]
        if not function.get("arguments"):
            return [event]
        first, *rest = _split_at(event, function, "arguments")
        for part in rest:  # who calls what is said once
            [call] = part["choices"][0]["delta"]["tool_calls"]
            part["choices"][0]["delta"] = {
                "tool_calls": [{"index": call["index"], "function": {"arguments": call["function"]["arguments"]}}]
            }
        return [first, *rest]

    def usage(self, events: Iterable[Json]) -> Usage:
        [usage] = [event["usage"] for event in events if event.get("usage")]
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        return Usage(usage["prompt_tokens"], cached, usage["completion_tokens"])

    def refusal(self) -> Json:
        return {"error": {"message": RETRY_LATER, "type": "server_error", "param": None, "code": "overloaded"}}


class Responses:
    """OpenAI's Responses."""

    path = "/v1/responses"

    def narrowed(self, tool: Json, script: Script) -> Json | None:
        return {**tool, "parameters": script.parameters} if tool.get("name") == script.tool else None

    def num_results(self, body: Json) -> int:
        return sum(item["type"] == "function_call_output" for item in body["input"])

    def must_call(self, body: Json, script: Script) -> Json:
        return {"tool_choice": {"type": "function", "name": script.tool}}

    def must_say(self, body: Json, script: Script) -> Json:
        form = {"type": "json_schema", "name": "text", "schema": {"enum": [script.text]}}
        return {
            "tool_choice": "auto",
            "parallel_tool_calls": False,
            "text": {"format": form},
            "max_output_tokens": MANY_TOKENS,
            **EVENLY,
        }

    def short(self) -> Json:
        return {"max_output_tokens": FEW_TOKENS}

    def split(self, event: Json) -> list[Json]:
        return _split_at(event, event, "delta") if event["type"].endswith(".delta") else [event]

    def usage(self, events: Iterable[Json]) -> Usage:
        [usage] = [event["response"]["usage"] for event in events if event["type"] == "response.completed"]
        return Usage(usage["input_tokens"], usage["input_tokens_details"]["cached_tokens"], usage["output_tokens"])

    def refusal(self) -> Json:
        return Chat().refusal()


class Messages:
    """Anthropic's Messages."""

    path = "/v1/messages"

    def narrowed(self, tool: Json, script: Script) -> Json | None:
        return {**tool, "input_schema": script.parameters} if tool.get("name") == script.tool else None

    def num_results(self, body: Json) -> int:
        blocks = [block for message in body["messages"] for block in message["content"]]
        return sum(isinstance(block, dict) and block["type"] == "tool_result" for block in blocks)

    def must_call(self, body: Json, script: Script) -> Json:
        return {"tool_choice": {"type": "tool", "name": script.tool}}

    def must_say(self, body: Json, script: Script) -> Json:
        choice = {"type": "auto", "disable_parallel_tool_use": True}
        form = {"format": {"type": "json_schema", "schema": {"enum": [script.text]}}}
        return {
            "tool_choice": choice,
            "output_config": {**body.get("output_config", {}), **form},
            "max_tokens": MANY_TOKENS,
            **EVENLY,
        }

    def short(self) -> Json:
        return {"max_tokens": FEW_TOKENS}

    def split(self, event: Json) -> list[Json]:
        delta = event.get("delta", {}) if event["type"] == "content_block_delta" else {}
        keys = [key for key in ("partial_json", "text") if delta.get(key)]
        return _split_at(event, delta, keys[0]) if keys else [event]

    def usage(self, events: Iterable[Json]) -> Usage:
        [usage] = [event["usage"] for event in events if event["type"] == "message_delta"]
        cached = usage["cache_read_input_tokens"]
        return Usage(usage["input_tokens"] + cached, cached, usage["output_tokens"])

    def refusal(self) -> Json:
        return {"type": "error", "error": {"type": "overloaded_error", "message": RETRY_LATER}}
