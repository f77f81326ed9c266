"""Failures as Anthropic's clients read them."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel

from server.errors import ApiError

_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


# Anthropic's own client then goes on by itself, with the whole conversation in each request.
_NO_THREADS = {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}


class ErrorDetail(BaseModel):
    """What kind of failure, and a sentence; `details` are for programs, where one is known to read them."""

    type: str
    message: str
    details: dict[str, Any] = {}


class ErrorMessage(BaseModel):
    """The envelope."""

    type: Literal["error"]
    error: ErrorDetail
    request_id: str | None


def error_body(error: ApiError) -> dict[str, Any]:
    """The envelope. Claude Code reads both numbers out of an overflow's sentence, and compacts."""
    message = error.message
    if error.code == "context_length_exceeded":
        message = f"prompt is too long: {error.extra['n_prompt_tokens']} tokens > {error.extra['n_ctx']} maximum"
    usual = "invalid_request_error" if error.status < 500 else "api_error"
    detail: dict[str, Any] = {"type": _TYPES.get(error.status, usual), "message": message}
    if error.param == "thread":
        detail["details"] = _NO_THREADS
    return {"type": "error", "error": detail, "request_id": error.request_id}
