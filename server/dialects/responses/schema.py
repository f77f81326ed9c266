"""The requests of the Responses dialect as they stand on the wire: names, types, ranges.

Whatever has many shapes (input, tools, tool_choice) is taken as it is and read in `conversation` and `offer`.
"""

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from server.parameters import Body, Many, Stops, at_most

MAX_NAME = 1024  # of a salt or a session
MAX_LOGPROBS = 20
MAX_METADATA, MAX_METADATA_KEY, MAX_METADATA_VALUE = 16, 64, 512


class TextConfig(Body):
    """What the answer's text is to be like."""

    format: dict[str, Any] | None = None


def _checked_metadata(value: dict[str, str]) -> dict[str, str]:
    """Not by pydantic's own limits, which refuse lone surrogates."""
    if any(len(key) > MAX_METADATA_KEY or len(text) > MAX_METADATA_VALUE for key, text in value.items()):
        raise ValueError(
            f"must have keys of at most {MAX_METADATA_KEY} characters, and values of at most {MAX_METADATA_VALUE}"
        )
    return value


Metadata = Annotated[dict[str, str], AfterValidator(_checked_metadata), at_most(MAX_METADATA)]


class PromptFields(Body):
    """What the prompt is made of. POST /v1/responses/input_tokens takes nothing else."""

    model: str = ""
    input: Any = None
    instructions: str | None = None
    previous_response_id: str | None = None
    tools: Many[dict[str, Any]] = ()
    tool_choice: Any = None
    parallel_tool_calls: bool = True
    text: TextConfig | None = None
    cache_salt: str | None = Field(None, min_length=1, max_length=MAX_NAME)


class ResponseRequest(PromptFields):
    """POST /v1/responses."""

    stream: bool = False
    store: bool = True
    max_output_tokens: int | None = Field(None, ge=1)
    temperature: float | None = None
    top_p: float | None = None
    include: Many[str] = ()
    top_logprobs: int = Field(0, ge=0, le=MAX_LOGPROBS)
    metadata: Metadata = Field(default_factory=dict)
    prompt_cache_key: str | None = Field(None, max_length=MAX_NAME)
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = None
    seed: int | None = None
    stop: Stops = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float | None = None
