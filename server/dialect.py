"""`Dialect`: what one way of speaking to this server consists of, and whose words a failure is told in.

A dialect is a package of `server.dialects`: it translates requests to conversations and jobs, and events to answers.
What stands here knows none of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Scope

from server.errors import ApiError, ErrorEnvelope
from server.json_text import to_json


@dataclass(frozen=True, slots=True)
class Dialect:
    """One dialect.

    Attributes:
        router: its routes; the same for every application, unless they know something between requests.
        owns: whether a request is in this dialect, by its ASGI scope: paths nobody owns are OpenAI's.
        error_body: what a failure looks like in it, as JSON.
        error_model: the schema of that.
    """

    router: Callable[[], APIRouter]
    owns: Callable[[Scope], bool]
    error_body: Callable[[ApiError], Any]
    error_model: type[BaseModel] = ErrorEnvelope


def begins_with(*prefixes: str) -> Callable[[Scope], bool]:
    """For `Dialect.owns`: paths that are one of these, or lie below it."""

    def owns(scope: Scope) -> bool:
        path = scope["path"]
        return any(path == prefix or path.startswith(f"{prefix}/") for prefix in prefixes)

    return owns


def speaker_of(scope: Scope) -> Dialect | None:
    """The dialect that a request is made in; None where nobody owns it."""
    dialects = cast(Sequence[Dialect], scope["app"].state.dialects) if "app" in scope else ()
    return next((dialect for dialect in dialects if dialect.owns(scope)), None)


def error_response(scope: Scope, error: ApiError) -> Response:
    """A failure before any header went out, in the words of the dialect that was asked in."""
    speaker = speaker_of(scope)
    body = error.body() if speaker is None else speaker.error_body(error)
    return Response(to_json(body), error.status, error.headers, media_type="application/json")
