"""What the answers of the OpenAI dialect look like, for the OpenAPI document and the test that holds it to its word.

Only what clients may rely on; more members may come with what a request asks for.
"""

from typing import Any, Literal

from pydantic import BaseModel


class PromptDetails(BaseModel):
    """Of the prompt's tokens, those that were not read again."""

    cached_tokens: int


class Usage(BaseModel):
    """Tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


FinishReason = Literal["stop", "length", "tool_calls", "repetition"]


class CalledFunction(BaseModel):
    """Name and arguments, these as JSON text."""

    name: str
    arguments: str


class ToolCall(BaseModel):
    """A call."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class AssistantMessage(BaseModel):
    """The answer's message; `tool_calls` where there are any."""

    role: Literal["assistant"]
    content: str | None
    tool_calls: list[ToolCall] = []


class ChatChoice(BaseModel):
    """One of `n` answers."""

    index: int
    message: AssistantMessage
    logprobs: dict[str, Any] | None
    finish_reason: FinishReason
    stop_reason: str | int | None


class ChatCompletion(BaseModel):
    """The answer to POST /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    timings: dict[str, float]


class TextChoice(BaseModel):
    """One of `n` answers to one of the prompts."""

    index: int
    text: str
    logprobs: dict[str, Any] | None
    finish_reason: FinishReason
    stop_reason: str | int | None


class Completion(BaseModel):
    """The answer to POST /v1/completions."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage
    timings: dict[str, float]
