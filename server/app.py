"""`create_app`: the ASGI application, put together. Nothing happens at import and nothing is global."""

import logging
import sqlite3
from pathlib import Path

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response

from engine.client import EngineClient
from engine.errors import EngineError
from server.absent import absent_router
from server.access import ID_HEADERS, AccessLog, note_error
from server.auth import OPEN_PATHS, ApiKeys, RequireKey
from server.chat.answer_store import AnswerStore
from server.chat.call_formats import call_grammar_of
from server.chat.history import History
from server.constraining import Constrainer
from server.dialect import error_response
from server.dialects import DIALECTS
from server.errors import ApiError, NotFound, from_engine
from server.generation import Generator
from server.health import operations_router
from server.metrics import Metrics
from server.model import ServedModel
from server.prompts import PromptEncoder
from server.service import Service
from server.settings import Settings

logger = logging.getLogger(__name__)


def create_app(engine: EngineClient, settings: Settings, model: ServedModel, keys: ApiKeys) -> FastAPI:
    """An application that serves `model` on `engine`. The engine is started and closed by the caller."""
    metrics = Metrics(engine, model.name)
    app = FastAPI(
        title="deltaloop",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        middleware=_middleware(settings, metrics, keys),
        exception_handlers={
            ApiError: _on_api_error,
            EngineError: _on_engine_error,
            HTTPException: _on_http_exception,
        },
    )
    known = _history(engine.info.cache_folder)
    history = known if settings.replay else None
    app.state.service = Service(
        engine=engine,
        settings=settings,
        model=model,
        metrics=metrics,
        prompts=PromptEncoder(model, history),
        generator=Generator(
            engine, model.tokenizer, metrics, settings.max_output_tokens, settings.request_timeout, history
        ),
        history=known,
        constrainer=Constrainer(
            engine, call_grammar_of(model.call_format), settings.tool_strict == "on", settings.tool_syntax_greedy
        ),
    )
    app.state.dialects = DIALECTS
    for router in (*(dialect.router() for dialect in DIALECTS), operations_router(), absent_router()):
        app.router.routes.extend(router.routes)  # as they are: included ones are made anew, and matched for longer
    return app


def _history(folder: Path | None) -> History:
    """What was answered, kept beside the states that it goes with."""
    store = None
    if folder is not None:
        try:
            store = AnswerStore(folder / "answers.sqlite3")
        except (OSError, sqlite3.Error) as error:
            logger.warning("answers are not kept on disk: %s", error)
    return History(store=store)


def _middleware(settings: Settings, metrics: Metrics, keys: ApiKeys) -> list[Middleware]:
    """From the outside in. A browser's preflight carries no key, so CORS stands before the door."""
    layers = [Middleware(AccessLog, metrics=metrics)]
    if settings.allowed_origins:
        layers.append(
            Middleware(
                CORSMiddleware,
                allow_origins=settings.allowed_origins,
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=["*"],
                expose_headers=ID_HEADERS,
            )
        )
    if keys:
        open_paths = frozenset[str]() if settings.protect_metrics else OPEN_PATHS
        layers.append(Middleware(RequireKey, keys=keys, open_paths=open_paths))
    return layers


async def _on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    note_error(request, error)
    return error_response(request.scope, error)


async def _on_engine_error(request: Request, error: Exception) -> Response:
    """Parameters that the engine refuses while a request is being understood."""
    assert isinstance(error, EngineError)
    return await _on_api_error(request, from_engine(error, "prompt"))


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """The framework's own: no such route, no such method."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    if error.status_code == 404:
        return await _on_api_error(request, NotFound(f"There is no {path[:200]} here.", code="route_not_found"))
    problem = ApiError(
        f"{request.method} is not allowed on {path}." if error.status_code == 405 else str(error.detail),
        status=error.status_code,
        type="invalid_request_error",
        code="method_not_allowed" if error.status_code == 405 else None,
        headers=error.headers,
    )
    return await _on_api_error(request, problem)
