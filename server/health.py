"""The routes for operators and orchestrators: is it alive, is it ready, what is it, how is it doing, stop that one.

Knows the engine's health and the metrics, no dialect.
"""

from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from server.auth import tenant_of
from server.cache_scope import own_salts
from server.errors import NotFound
from server.openapi import described, openapi_document
from server.service import service_of

_ANSWER_PREFIXES = ("chatcmpl-", "cmpl-")


@cache
def operations_router() -> APIRouter:
    """All routes of this module."""
    router = APIRouter()
    text = described(plain="text/plain")
    for path, look, extra in (("/", root, text), ("/health", health, None), ("/ready", ready, None)):
        router.add_api_route(path, look, methods=["GET"], openapi_extra=extra)
        router.add_route(path, look, methods=["HEAD"], include_in_schema=False)
    router.add_api_route("/version", show_version, methods=["GET"])
    router.add_route("/openapi.json", show_document, methods=["GET"], include_in_schema=False)
    router.add_api_route("/metrics", metrics, methods=["GET"], openapi_extra=text)
    router.add_api_route("/cache", show_cache, methods=["GET"])
    router.add_api_route("/cache", clear_cache, methods=["DELETE"])
    router.add_api_route("/abort/{request_id:path}", abort, methods=["POST"])
    return router


async def root(request: Request) -> Response:
    """Some clients look here to see whether anyone is at home."""
    return PlainTextResponse("deltaloop is running\n")


async def health(request: Request) -> Response:
    """200 while the engine works, drained or not; 503 once it does not."""
    state = service_of(request).engine.health()
    return _status(state.alive, state.reason)


async def ready(request: Request) -> Response:
    """200 while new requests are admitted."""
    state = service_of(request).engine.health()
    draining = None if state.accepting else "the server is shutting down"
    return _status(state.alive and state.accepting, state.reason or draining)


def _status(good: bool, reason: str | None) -> Response:
    if good:
        return JSONResponse({"status": "ok"})
    return JSONResponse({"status": "unavailable", "reason": reason}, 503)


async def show_version(request: Request) -> Response:
    """The daemon's version."""
    return JSONResponse({"version": daemon_version()})


async def show_document(request: Request) -> Response:
    """The OpenAPI document of all routes."""
    return JSONResponse(openapi_document(request.app, daemon_version()))


def daemon_version() -> str:
    """The installed version; "unknown" when run from a tree that is not installed."""
    try:
        return version("deltaloop")
    except PackageNotFoundError:
        return "unknown"


async def metrics(request: Request) -> Response:
    """Prometheus' text format."""
    body = service_of(request).metrics.render()
    return Response(body, media_type="text/plain; version=0.0.4; charset=utf-8")


async def show_cache(request: Request) -> Response:
    """What this client's prompts may go on from: counts and times, no content."""
    service = service_of(request)
    is_own = own_salts(request, service.settings.share_cache_across_keys)
    states = [asdict(state) for state in service.engine.kept_states() if is_own(state.salt)]
    for state in states:
        del state["salt"]
    stats = service.engine.stats()
    lower = {
        tier: {"bytes": found.num_bytes, "max_bytes": found.max_bytes}
        for tier, found in (("host", stats.host), ("disk", stats.disk))
    }
    return JSONResponse({"room": service.engine.info.num_checkpoints, **lower, "kept": states})


async def clear_cache(request: Request) -> Response:
    """Forget what this client's requests left, but for what a running one starts from."""
    service = service_of(request)
    is_own = own_salts(request, service.settings.share_cache_across_keys)
    service.history.forget(is_own)
    return JSONResponse({"num_forgotten": service.engine.forget_kept_states(is_own)})


async def abort(request: Request) -> Response:
    """End a running or waiting request of this API key's, named by its own id or by its answer's. Its client gets an
    error."""
    given = request.path_params["request_id"]
    names = (given, *(given.removeprefix(prefix) for prefix in _ANSWER_PREFIXES if given.startswith(prefix)))
    for request_id in names:
        if service_of(request).engine.abort(request_id, tenant_of(request)):
            return JSONResponse({"request_id": request_id, "aborted": True})
    raise NotFound(f"No request {given[:200]} is running or waiting.", code="request_not_found")
