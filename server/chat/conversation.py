"""The dialect-neutral request: what was said so far and which tools are offered.

Dialects build it, the chat template renders it. It knows nothing of HTTP, of any dialect or of tokens.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call the assistant made. `arguments` is parsed JSON: an object's members by name."""

    id: str
    name: str
    arguments: Mapping[str, Any]


def parsed_arguments(text: str) -> Mapping[str, Any]:
    """A past call's arguments by name, from their JSON.

    The model saw its own broken calls when it made them, so text that is no JSON object is kept, whole, as the one
    argument `arguments`, rather than refused or dropped.
    """
    if not text.strip():
        return {}
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        parsed = None
    return parsed if isinstance(parsed, dict) else {"arguments": text}


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `content` is flat text: dialects join content parts and turn null into ""."""

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


@dataclass(frozen=True, slots=True)
class Tool:
    """A function on offer. `spec` is its whole function object as the client wrote it, name included. `path` is where
    the request has it, and `schema_name` what it calls the schema there, for messages about it; an empty path is where
    chat completions have it."""

    name: str
    spec: Mapping[str, Any]
    path: str = field(default="", compare=False)
    schema_name: str = field(default="parameters", compare=False)

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The JSON schema of the arguments; empty when none was given."""
        return self.spec.get("parameters") or {}


@dataclass(frozen=True, slots=True)
class Conversation:
    """Everything the prompt is made of.

    `continue_final_message`: the last message is the assistant's and unfinished; the model goes on where it ends.
    `template_kwargs`: extra names for the template, from `chat_template_kwargs`.
    """

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    continue_final_message: bool = False
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
