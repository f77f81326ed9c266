"""Reading a request's JSON body, within a limit and with errors that say where the body is wrong.

Knows no dialect; what the members mean is the schema's.
"""

import json
from typing import Any, NoReturn

from starlette.requests import ClientDisconnect, Request

from server.errors import ApiError, InvalidRequest
from server.json_text import MAX_DEPTH, depth_of, finite
from server.sse import ClientGone
from server.validation import shorten


async def read_json_object(request: Request, max_bytes: int) -> dict[str, Any]:
    """The body as a JSON object.

    Raises:
        ApiError: 413 too large, 415 another content type, 400 no JSON or no object.
        ClientGone: the client left while sending it.
    """
    _check_content_type(request)
    _check_encoding(request)
    body = await _read(request, max_bytes)
    try:
        value = json.loads(body, parse_constant=_refuse_constant, parse_float=finite)
    except json.JSONDecodeError as error:
        raise InvalidRequest(
            f"The body is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno} "
            f"(character {error.pos}).",
            code="invalid_json",
        ) from None
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"The body is not UTF-8 at byte {error.start}.", code="invalid_json") from None
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply.", code="invalid_json") from None
    except ValueError as error:  # a number with thousands of digits, or one that no double holds
        raise InvalidRequest(f"The body is not valid JSON: {error}.", code="invalid_json") from None
    if not isinstance(value, dict):
        raise InvalidRequest("The body must be a JSON object.", code="invalid_json")
    if depth_of(value) > MAX_DEPTH:
        raise InvalidRequest(f"The body is nested deeper than {MAX_DEPTH} levels.", code="invalid_json")
    return value


def _check_content_type(request: Request) -> None:
    """Strict, and not for form's sake: web pages may post any other type across origins without asking first.

    So they may with no type at all, but then browsers name the page's origin. Some clients that are none send no type.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "application/json" or media_type.endswith("+json"):
        return
    if not media_type and "origin" not in request.headers:
        return
    raise ApiError(
        f"Send the body with 'Content-Type: application/json' (curl: -H), not {media_type or 'without a type'}: "
        "with other types any web page could post here.",
        status=415,
        type="invalid_request_error",
        code="unsupported_media_type",
    )


def _check_encoding(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise ApiError(
            f"Send the body as it is: the Content-Encoding {shorten(encoding)} is not supported.",
            status=415,
            type="invalid_request_error",
            code="unsupported_content_encoding",
        )


async def _read(request: Request, max_bytes: int) -> bytes:
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > max_bytes:
        raise _too_large(max_bytes)
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > max_bytes:
                raise _too_large(max_bytes)
    except ClientDisconnect:
        raise ClientGone from None
    return bytes(body)


def _too_large(max_bytes: int) -> ApiError:
    return ApiError(
        f"The body is larger than {max_bytes} bytes, the limit of this server.",
        status=413,
        type="invalid_request_error",
        code="request_too_large",
        headers={"Connection": "close"},
    )


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidRequest(f"The body is not valid JSON: {name} is not a JSON number.", code="invalid_json")
