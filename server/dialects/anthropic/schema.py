"""The requests of the Anthropic dialect as they stand on the wire: names, types, ranges.

Whatever has many shapes (content, system, tool_choice) is taken as it is and read in `conversation` and `translate`.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from server.parameters import Body, Many

MAX_STOPS = 32
MAX_STOP_CHARACTERS = 256  # each adds to the work for a token by its characters


def _short(value: str) -> str:
    """Not by `max_length`, which refuses lone surrogates."""
    if len(value) > MAX_STOP_CHARACTERS:
        raise ValueError(f"must be at most {MAX_STOP_CHARACTERS} characters long")
    return value


class MessageBody(Body):
    """One message: text, or a list of blocks. Claude Code puts system messages in between."""

    role: Literal["user", "assistant", "system"]
    content: Any = None


class ToolBody(Body):
    """A tool on offer: the client's own, or by its type one of the maker's servers."""

    type: str = "custom"
    name: str = ""
    description: str | None = None
    input_schema: Any = None
    strict: bool | None = None
    defer_loading: bool = False


class ToolChoice(Body):
    """Whether and what to call."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class Metadata(Body):
    """Who asks. Claude Code writes JSON into it, with the session."""

    user_id: str | None = None


class OutputConfig(Body):
    """The form of the answer."""

    format: dict[str, Any] | None = None


class PromptFields(Body):
    """What the prompt is made of. POST /v1/messages/count_tokens takes nothing else."""

    model: str = ""
    messages: Many[MessageBody] = Field(min_length=1)
    system: Any = None
    tools: Many[ToolBody] = ()
    tool_choice: ToolChoice | None = None
    output_config: OutputConfig | None = None
    output_format: dict[str, Any] | None = None
    cache_salt: str | None = Field(None, min_length=1, max_length=1024)


class MessagesRequest(PromptFields):
    """POST /v1/messages."""

    max_tokens: int = Field(ge=0)
    stream: bool = False
    stop_sequences: Many[Annotated[str, AfterValidator(_short)]] = Field((), max_length=MAX_STOPS)
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = None
    seed: int | None = None
    metadata: Metadata | None = None
