"""What clients may ask for and this server does not have: one list, refused by name, in the words of each dialect.

Knows paths and reasons, no dialect.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache
from typing import TypeVar

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from server.errors import ApiError, InvalidRequest
from server.validation import shorten

T = TypeVar("T")

_NO_EMBEDDINGS = "embeddings: the model served here generates text"
_NO_SOUND = "audio: the model served here neither hears nor speaks"
_NO_IMAGES = "images: the model served here neither sees nor draws"
_NO_RANKING = "ranking and moderation: the model served here generates text"
_NO_FILES = "files, batches and training: send requests one by one"
_NO_ADAPTERS = "adapters: one model is served as it is"
NO_STORE = "fetching and changing models: the operator chooses one at start"
_NO_CONVERSATIONS = "conversations: answers can be gone on from, by previous_response_id"
_NO_COMPACTION = "compaction: ask for a summary, and begin anew with it"
_NO_SLOT_FILES = "saving single slots: states are kept by themselves, see --cache-dir"

ABSENT: Mapping[str, str] = {
    **dict.fromkeys(("/v1/embeddings", "/embeddings", "/embedding", "/api/embed", "/api/embeddings"), _NO_EMBEDDINGS),
    **dict.fromkeys(("/v1/audio/{rest:path}", "/v1/realtime"), _NO_SOUND),
    "/v1/images/{rest:path}": _NO_IMAGES,
    **dict.fromkeys(("/v1/rerank", "/rerank", "/reranking", "/v1/moderations", "/score", "/v1/score"), _NO_RANKING),
    **dict.fromkeys(("/v1/files", "/v1/batches", "/v1/fine_tuning/jobs", "/v1/messages/batches"), _NO_FILES),
    "/v1/messages/batches/{rest:path}": _NO_FILES,
    "/v1/responses/compact": _NO_COMPACTION,
    **dict.fromkeys(("/v1/conversations", "/v1/conversations/{rest:path}"), _NO_CONVERSATIONS),
    **dict.fromkeys(("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/lora-adapters"), _NO_ADAPTERS),
    **dict.fromkeys(
        ("/api/push", "/api/create", "/api/copy", "/api/delete", "/models/load", "/models/unload"),
        NO_STORE,
    ),
    "/slots/{slot_id}": _NO_SLOT_FILES,
}


@cache
def absent_router() -> APIRouter:
    """A route for each, so that clients hear why instead of that there is no such path."""
    router = APIRouter()
    for path, what in ABSENT.items():
        refuse = _refusal(what)
        router.add_api_route(path, refuse, methods=["POST"])
        router.add_route(path, refuse, methods=["GET", "DELETE"], include_in_schema=False)
    return router


def _refusal(what: str) -> Callable[[Request], Awaitable[Response]]:
    async def refuse(request: Request) -> Response:
        """Not offered here."""
        raise not_offered(what)

    return refuse


def not_offered(what: str) -> ApiError:
    """For what there is elsewhere and not here."""
    return ApiError(
        f"This server does not offer {what}.",
        status=501,
        type="not_supported_error",
        code="unsupported_feature",
        headers={"x-should-retry": "false"},  # the makers' clients try everything from 500 on again
    )


_MEDIA = frozenset(
    {
        *("image", "image_url", "input_image", "input_audio", "audio"),
        *("document", "file", "input_file", "browser_state"),
    }
)


def unseen(kind: object) -> str | None:
    """What the model is told in place of a picture or file that is left out; None for what is neither."""
    known = isinstance(kind, str) and kind in _MEDIA
    return f"[Left out: a part of the type {kind}. You can read only text.]" if known else None


def num_left_out(messages: Sequence[T], has_result: Callable[[T], bool]) -> int:
    """From how many messages, counted from the first, pictures and files are left out. Those of the last one are not,
    but for what a tool brought: in its result, or in a message after it, for not every dialect has a place there.

    Agents look at pictures of their own accord, and what was said comes with every later request: a refusal would be
    the conversation's end.
    """
    is_brought = any(map(has_result, messages[-2:]))
    return len(messages) - (not is_brought)


def unreadable_part(kind: object, path: str) -> InvalidRequest:
    """For a part of a message that is no text; `path` is where it stands."""
    return InvalidRequest(
        f"{path} is of the type {shorten(kind)}: this model reads only text parts.",
        param=f"{path}.type",
        code="unsupported_media",
    )
