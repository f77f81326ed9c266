"""What the answers of the Anthropic dialect look like, for the OpenAPI document."""

from typing import Any, Literal

from pydantic import BaseModel


class Usage(BaseModel):
    """Tokens; those from the cache are not part of `input_tokens`."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int


class TextBlock(BaseModel):
    """Text."""

    type: Literal["text"]
    text: str


class ToolUseBlock(BaseModel):
    """A call."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


class MessageAnswer(BaseModel):
    """The answer to POST /v1/messages."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[TextBlock | ToolUseBlock]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"]
    stop_sequence: str | None
    usage: Usage


class TokenCount(BaseModel):
    """The answer to POST /v1/messages/count_tokens."""

    input_tokens: int
