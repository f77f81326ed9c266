"""The OpenAPI document of this server: from its routes, the schemas of requests and answers, each dialect's errors.

A route says what it takes and gives with `described`; the document is put together when it is asked for. Knows no
dialect.
"""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from server.dialect import speaker_of
from server.errors import ErrorEnvelope

_SCHEMAS = "x-schemas"  # of an operation, until they have moved to the document's components
_PATH_PARAMETER = re.compile(r"\{(\w+)\}")
_FAILURES: Mapping[int, str] = {
    400: "The request is wrong; which parameter, and what is allowed.",
    401: "An API key is needed.",
    404: "No such model, or nothing of that name.",
    405: "Another method.",
    413: "The body is too large.",
    415: "The body has another content type.",
    500: "The generation failed.",
    501: "A feature that does not exist here.",
    503: "Not now; Retry-After says when.",
    504: "The operator's time limit passed.",
}


@cache  # schemas take a moment to write, and are the same for every application
def described(
    body: type[BaseModel] | None = None,
    answer: type[BaseModel] | None = None,
    stream: str | None = None,
    plain: str | None = None,
) -> dict[str, Any]:
    """For a route's `openapi_extra`: what it takes; what it answers; in which media type it streams, or answers with
    plain text."""
    schemas: dict[str, Any] = {}
    content: dict[str, Any] = {} if stream is None else {stream: {}}
    if plain is not None:
        content[plain] = {"schema": {"type": "string"}}
    if answer is not None:
        content["application/json"] = {"schema": _add(schemas, answer)}
    extra: dict[str, Any] = {
        _SCHEMAS: schemas,
        "responses": {"200": {"description": "The answer.", "content": content}},
    }
    if body is not None:
        extra["requestBody"] = {"required": True, "content": {"application/json": {"schema": _add(schemas, body)}}}
    return extra


def _add(schemas: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """Put a model's schema and those of its parts among the others, under its module's name; a reference to it."""
    prefix = f"{model.__module__.removeprefix('server.').removeprefix('dialects.')}."
    schema = model.model_json_schema(ref_template=f"#/components/schemas/{prefix}{{model}}")
    schemas.update({prefix + name: part for name, part in schema.pop("$defs", {}).items()})
    schemas[prefix + model.__name__] = schema
    return {"$ref": f"#/components/schemas/{prefix}{model.__name__}"}


def openapi_document(app: FastAPI, version: str) -> dict[str, Any]:
    """The whole document, for JSON."""
    document = get_openapi(title=app.title, version=version, routes=app.routes)
    schemas: dict[str, Any] = {}
    for path, operations in document["paths"].items():
        speaker = speaker_of({"app": app, "path": path})
        failure = _add(schemas, ErrorEnvelope if speaker is None else speaker.error_model)
        for operation in operations.values():
            schemas.update(operation.pop(_SCHEMAS, {}))
            _add_failures(operation, failure)
            if names := _PATH_PARAMETER.findall(path):
                operation["parameters"] = [_path_parameter(name) for name in names]
    document["components"] = {"schemas": schemas}
    return document


def _path_parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _add_failures(operation: dict[str, Any], failure: Mapping[str, Any]) -> None:
    for status, why in _FAILURES.items():
        content = {"application/json": {"schema": failure}}
        operation["responses"][str(status)] = {"description": why, "content": content}
