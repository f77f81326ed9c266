"""What the answers of the Responses dialect look like, for the OpenAPI document.

Only what clients may rely on.
"""

from typing import Any, Literal

from pydantic import BaseModel

Status = Literal["in_progress", "completed", "incomplete", "cancelled"]


class InputDetails(BaseModel):
    """Of the input's tokens, those that were not read again."""

    cached_tokens: int
    cache_write_tokens: int


class OutputDetails(BaseModel):
    """This model does not think aloud."""

    reasoning_tokens: int


class Usage(BaseModel):
    """Tokens."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class IncompleteDetails(BaseModel):
    """Why a response ended before its end."""

    reason: Literal["max_output_tokens"]


class ResponseAnswer(BaseModel):
    """The answer to POST /v1/responses, and a kept one."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Status
    error: None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    metadata: dict[str, str]
    model: str
    output: list[dict[str, Any]]
    parallel_tool_calls: bool
    previous_response_id: str | None
    store: bool
    tools: list[dict[str, Any]]
    usage: Usage | None


class ItemList(BaseModel):
    """The answer to GET /v1/responses/{id}/input_items."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedResponse(BaseModel):
    """The answer to DELETE /v1/responses/{id}."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]


class InputTokens(BaseModel):
    """The answer to POST /v1/responses/input_tokens."""

    object: Literal["response.input_tokens"]
    input_tokens: int
