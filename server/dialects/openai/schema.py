"""The requests of the OpenAI dialect as they stand on the wire: names, types, ranges.

null means absent everywhere. Whatever has many shapes (content, prompt, tool_choice) is taken as it is and read in
`translate` and `conversation`. Members that are not declared here are dealt with in `parameters`.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from engine.types import MAX_PATTERN_SIZE
from server.parameters import MAX_BIASES, MAX_CHOICES, Body, Many, Stops, at_most

MAX_NAME = 1024  # of a salt or a session
MAX_STOP_IDS = 1024
MAX_LOGPROBS = 20
# For `repetition_detection: true`. A thousand tokens, so that it takes more than a table, indentation or ASCII art.
USUAL_REPETITION = {"max_pattern_size": 256, "min_pattern_size": 1, "min_count": 4, "min_repeated_tokens": 1024}


class StreamOptions(Body):
    """What a stream tells beside the text."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


class ResponseFormat(Body):
    """Free text, or a form that output must have. OpenAI names the schema, llama.cpp writes it beside the type."""

    type: str
    json_schema: Any = None
    bare_schema: Any = Field(None, alias="schema")


class RepetitionBody(Body):
    """When an answer that repeats itself ends. A largest pattern of 0 tokens is none, as in vLLM."""

    max_pattern_size: int = Field(0, ge=0, le=MAX_PATTERN_SIZE)
    min_pattern_size: int = Field(1, ge=0)
    min_count: int = Field(0, ge=0)
    min_repeated_tokens: int = Field(0, ge=0)


def _on_or_off(value: Any) -> Any:
    if isinstance(value, bool):
        return USUAL_REPETITION if value else {}
    if not isinstance(value, dict | None):
        raise ValueError("must be true, false or an object")
    return value


def _none_if_false(value: Any) -> Any:
    """As in chat completions."""
    return None if value is False else value


class GenerationFields(Body):
    """What chat completions and completions have in common."""

    model: str = ""
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = Field(1, ge=1, le=MAX_CHOICES)
    max_tokens: int | None = Field(None, ge=-1)
    min_tokens: int = Field(0, ge=0)
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float | None = None
    repeat_penalty: float | None = None
    logit_bias: Annotated[dict[int, float], at_most(MAX_BIASES)] = Field(default_factory=dict)
    seed: int | None = None
    stop: Stops = ()
    stop_token_ids: Many[int] = Field((), max_length=MAX_STOP_IDS)
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    ignore_eos: bool = False
    allowed_token_ids: Many[int] | None = None
    repetition_detection: Annotated[RepetitionBody | None, BeforeValidator(_on_or_off)] = None
    priority: int = 0
    request_id: str | None = None
    cache_report: bool = False
    return_progress: bool = False
    cache_salt: str | None = Field(None, min_length=1, max_length=MAX_NAME)
    prompt_cache_key: str | None = Field(None, max_length=MAX_NAME)
    session_id: str | None = Field(None, max_length=MAX_NAME)
    response_format: ResponseFormat | None = None
    structured_outputs: dict[str, Any] | None = None
    grammar: Any = None
    ebnf: Any = None
    json_schema: Any = None
    regex: Any = None


class ToolCallFunction(Body):
    """The function of a past call. Clients send the arguments as JSON text; some as an object."""

    name: str = Field(min_length=1)
    arguments: Any = ""


class ToolCallBody(Body):
    """A past call."""

    id: str = ""
    function: ToolCallFunction


class MessageBody(Body):
    """One message. Its content is text, a list of parts or nothing."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Any = None
    tool_calls: Many[ToolCallBody] = ()
    tool_call_id: str | None = None
    function_call: Any = None


class ToolBody(Body):
    """A tool on offer."""

    type: str = "function"
    function: dict[str, Any] | None = None


class TemplateFields(Body):
    """What the chat template is given."""

    model: str = ""
    messages: Many[MessageBody] = ()
    tools: Many[ToolBody] = ()
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    cache_salt: str | None = Field(None, min_length=1, max_length=MAX_NAME)


class ChatCompletionRequest(GenerationFields):
    """POST /v1/chat/completions."""

    messages: Many[MessageBody] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=-1)
    tools: Many[ToolBody] = ()
    tool_choice: Any = None
    parallel_tool_calls: bool = True
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=MAX_LOGPROBS)
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False


class CompletionRequest(GenerationFields):
    """POST /v1/completions. The prompt is text, token ids, or a list of either."""

    prompt: Any = None
    suffix: str = ""
    max_tokens: int | None = Field(16, ge=-1)
    echo: bool = False
    logprobs: Annotated[int | None, BeforeValidator(_none_if_false)] = Field(None, ge=0, le=MAX_LOGPROBS)
