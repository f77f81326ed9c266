"""What the answers of the Ollama dialect look like, for the OpenAPI document and the test that holds it to its word.

Only what clients may rely on; more members may come with what a request asks for.
"""

from typing import Any, Literal

from pydantic import BaseModel


class Failure(BaseModel):
    """What went wrong, for people."""

    error: str


class CalledFunction(BaseModel):
    """Which of an answer's calls it is, its name and its arguments."""

    index: int
    name: str
    arguments: dict[str, Any]


class ToolCall(BaseModel):
    """A call."""

    id: str
    function: CalledFunction


class AssistantMessage(BaseModel):
    """What the model says; `tool_calls` where there are any."""

    role: Literal["assistant"]
    content: str
    tool_calls: list[ToolCall] = []


class Answer(BaseModel):
    """What all answers have. The counts and durations, in nanoseconds, are left out where nothing was generated."""

    model: str
    created_at: str
    done: Literal[True]
    done_reason: Literal["stop", "length", "load", "unload"]
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0


class ChatAnswer(Answer):
    """The answer to POST /api/chat."""

    message: AssistantMessage


class GenerateAnswer(Answer):
    """The answer to POST /api/generate."""

    response: str


class Details(BaseModel):
    """The model in short."""

    parent_model: str
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class Entry(BaseModel):
    """A model in a list."""

    name: str
    model: str
    size: int
    digest: str
    details: Details


class ListedModel(Entry):
    """A model that is there."""

    modified_at: str


class ListedModels(BaseModel):
    """The answer to GET /api/tags."""

    models: list[ListedModel]


class RunningModel(Entry):
    """A model that is loaded."""

    size_vram: int
    expires_at: str
    context_length: int


class RunningModels(BaseModel):
    """The answer to GET /api/ps."""

    models: list[RunningModel]


class ShownModel(BaseModel):
    """The answer to POST /api/show."""

    parameters: str
    template: str
    details: Details
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: str


class Version(BaseModel):
    """The answer to GET /api/version."""

    version: str


class Status(BaseModel):
    """The answer to POST /api/pull."""

    status: str
