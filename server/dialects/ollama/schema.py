"""The requests of the Ollama dialect as they stand on the wire: names, types, ranges.

null means absent everywhere. Members that are not declared here are dealt with in `parameters`. Ranges are checked
here, so that errors call an option by its own name.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from server.parameters import AnyTemperature, Body, Many, Stops

MAX_LOGPROBS = 20
_Penalty = Annotated[float, Field(ge=-2.0, le=2.0)]


class Options(Body):
    """How to draw an answer, and how long it may be."""

    num_predict: int | None = None
    temperature: AnyTemperature | None = None
    top_k: int | None = None
    top_p: float | None = Field(None, ge=0.0, le=1.0)
    min_p: float | None = Field(None, ge=0.0, le=1.0)
    seed: int | None = Field(None, ge=-(2**63), lt=2**64)
    stop: Stops = ()
    repeat_penalty: float | None = Field(None, gt=0.0, allow_inf_nan=False)
    repeat_last_n: int | None = None
    presence_penalty: _Penalty = 0.0
    frequency_penalty: _Penalty = 0.0


class AnswerFields(Body):
    """What chats and prompts have in common. `options` is read as `Options`."""

    model: str = ""
    stream: bool = True
    format: Any = None
    options: dict[str, Any] = Field(default_factory=dict)
    keep_alive: Any = None
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=MAX_LOGPROBS)


class CalledFunction(Body):
    """The function of a past call. The arguments are an object; JSON text will do."""

    name: str = Field(min_length=1)
    arguments: Any = Field(default_factory=dict)


class CallBody(Body):
    """A past call."""

    id: str = ""
    function: CalledFunction


def _known_role(role: Any) -> Any:
    """Roles are not told apart by capitals; what OpenAI calls a developer's orders are the system's."""
    known = role.lower() if isinstance(role, str) else role
    return "system" if known == "developer" else known


class MessageBody(Body):
    """One message."""

    role: Annotated[Literal["system", "user", "assistant", "tool"], BeforeValidator(_known_role)]
    content: str = ""
    tool_calls: Many[CallBody] = ()
    tool_call_id: str | None = None
    images: Any = None


class ToolBody(Body):
    """A tool on offer."""

    type: str = "function"
    function: Any = None


def _without_thoughts(messages: Any) -> Any:
    """What a client keeps as a message of the role `thinking` was another model's."""
    if not isinstance(messages, list):
        return messages
    return [m for m in messages if not (isinstance(m, dict) and m.get("role") == "thinking")]


class ChatRequest(AnswerFields):
    """POST /api/chat."""

    messages: Annotated[Many[MessageBody], BeforeValidator(_without_thoughts)] = ()
    tools: Many[ToolBody] = ()


class GenerateRequest(AnswerFields):
    """POST /api/generate."""

    prompt: str = ""
    suffix: str = ""
    system: str = ""
    raw: bool = False


class ModelRequest(Body):
    """POST /api/show and /api/pull. Older clients say `name`."""

    model: str = ""
    name: str = ""
