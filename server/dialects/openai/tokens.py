"""Beside the OpenAI API: prompts as token ids and back, in the words of vLLM and of llama.cpp at once.

Load and evaluation tools, and editors that count before they ask, look here.
"""

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from server.bodies import read_json_object
from server.cache_scope import cache_scope
from server.dialects.openai.conversation import conversation_of, tools_of
from server.dialects.openai.parameters import PARAMETERS
from server.dialects.openai.schema import ChatCompletionRequest, MessageBody, TemplateFields
from server.errors import InvalidRequest
from server.json_text import json_response
from server.openapi import described
from server.parameters import AnyBody, Body, Many
from server.prompts import Prompt, in_thread_if_long
from server.service import Service, service_of

_TOKEN = 16  # characters that take as long to encode as a token takes to write out


class TemplateRequest(TemplateFields):
    """POST /apply-template."""

    messages: Many[MessageBody] = Field(min_length=1)


class TokenizeRequest(TemplateFields):
    """POST /tokenize: vLLM's `prompt` or `messages`, or llama.cpp's `content`."""

    prompt: str | None = None
    content: str | None = None
    return_token_strs: bool = False
    with_pieces: bool = False
    parse_special: bool = True


class DetokenizeRequest(Body):
    """POST /detokenize."""

    model: str = ""
    tokens: Many[Annotated[int, Field(ge=0)]]


class Tokens(BaseModel):
    """The answer to POST /tokenize; each of llama.cpp's pieces has its id and text."""

    count: int
    max_model_len: int
    tokens: list[int | dict[str, Any]]
    token_strs: list[str] | None


class Text(BaseModel):
    """The answer to POST /detokenize, by both names."""

    prompt: str
    content: str


class Rendered(BaseModel):
    """The answer to POST /apply-template."""

    prompt: str


class TokenCount(BaseModel):
    """The answer to POST /v1/chat/completions/input_tokens."""

    input_tokens: int


class TokenizerInfo(BaseModel):
    """The answer to GET /tokenizer_info: what a harness needs to write prompts itself."""

    bos_token: str | None
    eos_token: str | None
    pad_token: str | None
    chat_template: str | None
    model_max_length: int


def tokens_router() -> APIRouter:
    """All routes of this module, each with and without /v1."""
    router = APIRouter()
    for path, endpoint, methods, extra in (
        ("/tokenize", tokenize, ["POST"], described(TokenizeRequest, Tokens)),
        ("/detokenize", detokenize, ["POST"], described(DetokenizeRequest, Text)),
        ("/apply-template", apply_template, ["POST"], described(TemplateRequest, Rendered)),
        ("/chat/completions/input_tokens", count_tokens, ["POST"], described(ChatCompletionRequest, TokenCount)),
        ("/tokenizer_info", show_tokenizer, ["GET"], described(answer=TokenizerInfo)),
    ):
        router.add_api_route(f"/v1{path}", endpoint, methods=methods, openapi_extra=extra)
        router.add_route(path, endpoint, methods=methods, include_in_schema=False)
    return router


async def tokenize(request: Request) -> Response:
    """POST /tokenize: the ids of a prompt or of rendered messages."""
    service = service_of(request)
    body = await _read(request, service, TokenizeRequest)
    tokenizer = service.model.tokenizer
    texts = [text for text in (body.prompt, body.content) if text is not None]
    if len(texts) + bool(body.messages) != 1:
        raise InvalidRequest("Give one of prompt, messages and content.", param="prompt")
    if not texts:
        ids = (await _rendered(request, service, body)).ids
    elif body.parse_special:
        ids = (await service.prompts.raw(texts))[0].ids
    else:
        ids = await service.prompts.plain(texts[0])
    max_model_len = service.engine.info.max_model_len
    if (body.with_pieces or body.return_token_strs) and len(ids) > max_model_len:
        raise InvalidRequest(
            f"The text of each token is told of at most {max_model_len} tokens, and these are {len(ids)}.",
            param="with_pieces" if body.with_pieces else "return_token_strs",
        )

    def told() -> Response:
        names = [tokenizer.id_to_text(token_id) for token_id in ids] if body.return_token_strs else None
        pieces = ({"id": token_id, "piece": _piece(tokenizer.token_bytes(token_id))} for token_id in ids)
        tokens = [*pieces] if body.with_pieces else ids
        return json_response({"count": len(ids), "max_model_len": max_model_len, "tokens": tokens, "token_strs": names})

    return await in_thread_if_long(told, len(ids) * _TOKEN)


def _piece(raw: bytes) -> str | list[int]:
    """A token's text, or the bytes of one that is only part of a character."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return list(raw)


async def detokenize(request: Request) -> Response:
    """POST /detokenize: the text of token ids."""
    service = service_of(request)
    body = await _read(request, service, DetokenizeRequest)
    text = await service.prompts.decode(body.tokens)
    return json_response({"prompt": text, "content": text})


async def apply_template(request: Request) -> Response:
    """POST /apply-template: the prompt of messages, as text."""
    service = service_of(request)
    body = await _read(request, service, TemplateRequest)
    prompt = await _rendered(request, service, body)
    return json_response({"prompt": await service.prompts.decode(prompt.ids)})


async def count_tokens(request: Request) -> Response:
    """POST /v1/chat/completions/input_tokens: what a chat request's prompt would cost."""
    service = service_of(request)
    body = await _read(request, service, ChatCompletionRequest)
    prompt = await _rendered(request, service, body)
    return json_response({"object": "response.input_tokens", "input_tokens": len(prompt.ids)})


async def show_tokenizer(request: Request) -> Response:
    """GET /tokenizer_info."""
    service = service_of(request)
    model = service.model
    return json_response(
        {
            "bos_token": model.bos_token,
            "eos_token": model.eos_token,
            "pad_token": model.pad_token,
            "chat_template": model.template.source if model.template else None,
            "model_max_length": service.engine.info.max_model_len,
        }
    )


async def _read(request: Request, service: Service, schema: type[AnyBody]) -> AnyBody:
    payload = await read_json_object(request, service.settings.max_body_size)
    body = PARAMETERS.parse(schema, payload, service.warnings)
    service.model.resolve(getattr(body, "model", ""))
    return body


async def _rendered(request: Request, service: Service, body: TemplateFields | ChatCompletionRequest) -> Prompt:
    """The prompt that a chat request with these messages would have, remembered answers in their own tokens."""
    scope = cache_scope(request, body.cache_salt, None, service.settings.share_cache_across_keys)
    return await service.prompts.chat(conversation_of(body, tools_of(body.tools)), scope.salt)
