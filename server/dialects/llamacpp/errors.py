"""Failures as llama.cpp's clients read them."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from server.errors import ApiError

_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    501: "not_supported_error",
    503: "unavailable_error",
}


class FailureObject(BaseModel):
    """What went wrong. An overflow has both counts of tokens beside it."""

    code: int
    message: str
    type: str


class Failure(BaseModel):
    """The envelope."""

    error: FailureObject


def error_body(error: ApiError) -> dict[str, Any]:
    """The envelope; `code` is the status."""
    usual = "invalid_request_error" if error.status < 500 else "server_error"
    kind, message = _TYPES.get(error.status, usual), error.message
    if error.code == "context_length_exceeded":
        kind = "exceed_context_size_error"
        num_tokens, room = error.extra["n_prompt_tokens"], error.extra["n_ctx"]
        message = f"request ({num_tokens} tokens) exceeds the available context size ({room} tokens), try increasing it"
    return {"error": {"code": error.status, "message": message, "type": kind, **error.extra}}
