"""What a client is told when its request fails: one small tree, one place that renders it.

    ApiError                  status, type, code, param, extra headers and fields
    ├── InvalidRequest        400, names the parameter
    ├── NotFound              404
    ├── Unavailable           503 with Retry-After
    ├── RequestTimedOut       504
    ├── RequestAborted        503, ended by the operator or by a shutdown
    └── InternalError         500, says nothing of our insides

The body is OpenAI's envelope, the house default; a dialect has its own way to say it (`server.dialect`).
Nothing here knows routes, models or tokens.
"""

import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from engine.errors import ContextOverflow, EngineError, Overloaded, RequestError


class ApiError(Exception):
    """A failure that the client is told of. `extra` are further members of the error object.

    `request_id` is of the request that failed, once that is known.
    """

    status = 500
    type = "server_error"

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        type: str | None = None,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = self.status if status is None else status
        self.type = self.type if type is None else type
        self.code = code
        self.param = param
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})
        self.request_id: str | None = None

    def body(self) -> dict[str, Any]:
        """The error envelope as OpenAI's clients read it."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code, **self.extra}
        return {"error": error}


class ErrorObject(BaseModel):
    """What went wrong, for people and programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorEnvelope(BaseModel):
    """The shape of `ApiError.body`."""

    error: ErrorObject


class InvalidRequest(ApiError):
    """The request is wrong; `param` is the path of the offending parameter in the body."""

    status = 400
    type = "invalid_request_error"


class NotFound(ApiError):
    """No such route, model or running request."""

    status = 404
    type = "not_found_error"


class Unavailable(ApiError):
    """The request could be served later. The wait is rounded up to whole seconds, one at least."""

    status = 503
    type = "overloaded_error"

    def __init__(self, message: str, code: str, retry_after_seconds: float) -> None:
        seconds = max(1, math.ceil(retry_after_seconds))
        super().__init__(message, code=code, headers={"Retry-After": str(seconds)})


class RequestTimedOut(ApiError):
    """The operator's time limit for one request passed. Asking again at once would only do the work twice."""

    status = 504
    type = "timeout_error"

    def __init__(self, limit_seconds: float) -> None:
        super().__init__(
            f"The request took longer than this server's limit of {limit_seconds:g} seconds.",
            code="request_timeout",
            headers={"x-should-retry": "false"},
        )


class RequestAborted(ApiError):
    """Ended from outside: `/abort`, or a shutdown that could wait no longer. Half an answer is none: agents run it."""

    status = 503
    type = "aborted_error"

    def __init__(self) -> None:
        super().__init__(
            "The request was ended by this server's operator, or because the server is shutting down.",
            code="request_aborted",
            headers={"x-should-retry": "false"},
        )


class InternalError(ApiError):
    """A bug or a failed device. The details are in the log, under the request's id."""

    def __init__(self, message: str = "The server failed while it worked on this request.") -> None:
        super().__init__(message, code="internal_error")


def from_engine(error: EngineError, prompt_param: str) -> ApiError:
    """Say an engine's refusal in the API's terms. `prompt_param` is what the body calls the prompt."""
    if isinstance(error, ContextOverflow):
        return _context_overflow(error, prompt_param)
    if isinstance(error, RequestError):
        return InvalidRequest(_sentence(error.message), param=error.param, code="invalid_value")
    if isinstance(error, Overloaded):
        return Unavailable(_sentence(error.message), code=error.reason, retry_after_seconds=error.retry_after_seconds)
    return InternalError()


def _sentence(message: str) -> str:
    return f"{message.rstrip('.')}."


def _context_overflow(error: ContextOverflow, prompt_param: str) -> ApiError:
    """Agents recognise an overflow by this wording and these members, and then compact instead of giving up."""
    return InvalidRequest(
        f"This model's maximum context length is {error.max_model_len} tokens. However, your {prompt_param} resulted "
        f"in {error.num_prompt_tokens} tokens. Please reduce the length of the {prompt_param}.",
        param=prompt_param,
        code="context_length_exceeded",
        extra={"n_prompt_tokens": error.num_prompt_tokens, "n_ctx": error.max_model_len},
    )
