"""GET /v1/models: one list that every reader finds its own members in.

OpenAI's clients read `data`, with vLLM's `max_model_len` and llama.cpp's `meta`; Anthropic's read `display_name`,
`created_at` and the ends of the page. Codex insists on `models`, and on entries with many members of its own, the
model's instructions among them: given none it keeps those it has. Facts only.
"""

from datetime import UTC, datetime
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from server.json_text import json_response
from server.openapi import described
from server.service import Service, service_of


class ModelCard(BaseModel):
    """One name of the served model."""

    id: str
    object: Literal["model"]
    type: Literal["model"]
    created: int
    created_at: str
    display_name: str
    owned_by: str
    max_model_len: int
    context_length: int
    meta: dict[str, Any]


class ModelList(BaseModel):
    """The answer to GET /v1/models."""

    object: Literal["list"]
    data: list[ModelCard]
    has_more: Literal[False]
    first_id: str
    last_id: str
    models: list[Any]


def models_router() -> APIRouter:
    """Both routes, each with and without /v1."""
    router = APIRouter()
    for path, endpoint, extra in (
        ("/models", list_models, described(answer=ModelList)),
        ("/models/{model_id:path}", show_model, described(answer=ModelCard)),
    ):
        router.add_api_route(f"/v1{path}", endpoint, methods=["GET"], openapi_extra=extra)
        router.add_route(path, endpoint, methods=["GET"], include_in_schema=False)
        router.add_route(f"/v1{path}", endpoint, methods=["HEAD"], include_in_schema=False)
    for path in ("/v1/models/", "/models/"):
        router.add_route(path, list_models, methods=["GET"], include_in_schema=False)
    router.routes.sort(key=lambda route: "{" in getattr(route, "path", ""))  # the list before what could be a name
    return router


async def list_models(request: Request) -> Response:
    """GET /v1/models: one entry for each name."""
    service = service_of(request)
    names = service.model.names
    return json_response(
        {
            "object": "list",
            "data": [_card(service, name) for name in names],
            "has_more": False,
            "first_id": names[0],
            "last_id": names[-1],
            "models": [],
        }
    )


async def show_model(request: Request) -> Response:
    """GET /v1/models/{id}."""
    service = service_of(request)
    return json_response(_card(service, service.model.resolve(request.path_params["model_id"])))


def _card(service: Service, name: str) -> dict[str, Any]:
    info, created = service.engine.info, service.model.created
    return {
        "id": name,
        "object": "model",
        "type": "model",
        "created": created,
        "created_at": datetime.fromtimestamp(created, UTC).isoformat().replace("+00:00", "Z"),
        "display_name": name,
        "owned_by": "deltaloop",
        "root": service.model.name,
        "parent": None,
        "max_model_len": info.max_model_len,
        "context_length": info.max_model_len,
        "max_context_length": info.max_model_len,
        "max_input_tokens": info.max_model_len,
        "meta": {
            "n_ctx": info.max_model_len,
            "n_ctx_train": info.model.num_trained_positions,
            "n_vocab": info.vocab_size,
            "n_embd": info.model.hidden_size,
            "n_params": info.model.num_parameters,
            "size": info.model.num_bytes,
        },
    }
