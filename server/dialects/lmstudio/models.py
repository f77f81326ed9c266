"""GET /api/v0/models: what editors read to know the model, and its context's length.

Some read strictly: of kinds of files, for one, they know but two.
"""

from functools import cache
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from server.json_text import json_response
from server.openapi import described
from server.service import Service, service_of


class ModelEntry(BaseModel):
    """One name of the served model."""

    id: str
    object: Literal["model"] = "model"
    type: Literal["llm"] = "llm"
    publisher: Literal["deltaloop"] = "deltaloop"
    arch: str
    compatibility_type: Literal["gguf"] = "gguf"  # the other one is mlx; there is none for safetensors
    quantization: str
    state: Literal["loaded"] = "loaded"
    max_context_length: int
    loaded_context_length: int
    capabilities: list[str]


class ModelList(BaseModel):
    """The answer to GET /api/v0/models."""

    object: Literal["list"] = "list"
    data: list[ModelEntry]


@cache
def lmstudio_router() -> APIRouter:
    """The list, and each of its entries."""
    router = APIRouter()
    one, all_of_them = described(answer=ModelEntry), described(answer=ModelList)
    router.add_api_route("/api/v0/models", list_models, methods=["GET"], openapi_extra=all_of_them)
    router.add_api_route("/api/v0/models/{model_id:path}", show_model, methods=["GET"], openapi_extra=one)
    for path, look in (("", list_models), ("/{model_id:path}", show_model)):
        router.add_route(f"/api/v0/models{path}", look, methods=["HEAD"], include_in_schema=False)
    return router


async def list_models(request: Request) -> Response:
    """GET /api/v0/models: one entry for each name."""
    service = service_of(request)
    return json_response(ModelList(data=[_entry(service, name) for name in service.model.names]).model_dump())


async def show_model(request: Request) -> Response:
    """GET /api/v0/models/{id}."""
    service = service_of(request)
    return json_response(_entry(service, service.model.resolve(request.path_params["model_id"])).model_dump())


def _entry(service: Service, name: str) -> ModelEntry:
    info = service.engine.info
    return ModelEntry(
        id=name,
        arch=info.model.architecture,
        quantization=info.model.weight_format,
        max_context_length=max(info.model.num_trained_positions, info.max_model_len),
        loaded_context_length=info.max_model_len,
        capabilities=["tool_use"] if service.model.takes_tools else [],
    )
