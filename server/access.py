"""Around every request: its id, its line in the log, its count in the metrics, and the last net for our bugs.

The outermost ASGI middleware. A handler adds to the line through `record_of`. Never logs content, headers or keys.
"""

import logging
import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.dialect import error_response
from server.errors import ApiError, InternalError
from server.metrics import Metrics
from server.sse import ClientGone

logger = logging.getLogger(__name__)

_SAFE_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_SCOPE_KEY = "deltaloop.record"
_NO_ROUTE = "none"
_CLIENT_CLOSED = 499
ID_HEADERS = ("X-Request-Id", "Request-Id")  # OpenAI's clients read the first, Anthropic's the second
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_QUIET_ROUTES = frozenset({"/health", "/ready", "/metrics", "/"})


class Logged(Protocol):
    """Something that has more to say in a request's log line."""

    def log_fields(self) -> Mapping[str, Any]:
        """Names and plain values; never content."""
        ...


@dataclass(slots=True)
class RequestRecord:
    """What is known of one request so far. `request_id` goes out in the response's headers."""

    request_id: str
    status: int = 0
    generation: Logged | None = None
    error: str | None = None
    disconnected: bool = False

    def adopt_id(self, request_id: str | None) -> None:
        """Take the id a body brings, if it can stand in a header."""
        if request_id is not None and _SAFE_ID.fullmatch(request_id):
            self.request_id = request_id

    def note(self, error: ApiError) -> None:
        """Let the log line say why the request failed, and the error which request it was."""
        self.error = error.code or error.type
        error.request_id = self.request_id


def record_of(request: Request) -> RequestRecord:
    """The record of the request being handled."""
    return cast(RequestRecord, request.scope[_SCOPE_KEY])


class AccessLog:
    """ASGI middleware; see the module."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, then tell of it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = RequestRecord(uuid.uuid4().hex)
        record.adopt_id(Headers(scope=scope).get("x-request-id"))
        scope[_SCOPE_KEY] = record
        started = time.monotonic()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                for name in ID_HEADERS:
                    MutableHeaders(scope=message)[name] = record.request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except ClientGone:
            record.disconnected = True
        except Exception:
            error = InternalError()
            record.note(error)
            logger.exception("request %s: a bug", record.request_id)
            if not record.status:
                await error_response(scope, error)(scope, receive, send_with_id)
        finally:
            self._tell(scope, record, time.monotonic() - started)

    def _tell(self, scope: Scope, record: RequestRecord, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", _NO_ROUTE)
        method = scope["method"] if scope["method"] in _METHODS else "other"
        if route not in _QUIET_ROUTES:
            self._metrics.http_request(route, method, record.status or _CLIENT_CLOSED)
        fields: dict[str, Any] = {
            "request_id": record.request_id,
            "method": method,
            "route": route,
            "status": record.status or None,
            "seconds": round(seconds, 4),
        }
        if route == _NO_ROUTE:
            fields["path"] = scope["path"][:200]
        if record.disconnected:
            fields["disconnected"] = True
        if record.error is not None:
            fields["error"] = record.error
        if record.generation is not None:
            fields.update(record.generation.log_fields())
        level = logging.DEBUG if route in _QUIET_ROUTES else logging.INFO
        logger.log(level, "request", extra={"fields": fields})


def note_error(request: Request, error: ApiError) -> None:
    """Let the log line say why the request failed, and the error which request it was."""
    record_of(request).note(error)
