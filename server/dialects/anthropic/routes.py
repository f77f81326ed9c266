"""The Anthropic routes. HTTP in, HTTP out; what requests mean is `translate`'s business, answers are the encoder's."""

from dataclasses import dataclass
from functools import cache

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from server.access import record_of
from server.answering import ChatQuestion, answer, ask
from server.bodies import read_json_object
from server.cache_scope import CacheScope, cache_scope
from server.chat.answer_form import CallPolicy
from server.chat.conversation import Conversation, Tool
from server.dialects.anthropic.answer_schema import MessageAnswer, TokenCount
from server.dialects.anthropic.conversation import ConversationReader
from server.dialects.anthropic.encoder import MessageEncoder
from server.dialects.anthropic.parameters import COUNTING, PARAMETERS
from server.dialects.anthropic.schema import MessagesRequest, PromptFields
from server.dialects.anthropic.tools import offer_of
from server.dialects.anthropic.translate import (
    call_policy,
    output_of,
    sampling_of,
    session_of,
    text_form,
)
from server.json_text import json_response
from server.openapi import described
from server.parameters import AnyBody, ParameterTable
from server.service import Service, service_of


@cache
def anthropic_router() -> APIRouter:
    """All routes of the dialect."""
    router = APIRouter()
    extra = described(MessagesRequest, MessageAnswer, "text/event-stream")
    router.add_api_route("/v1/messages", messages, methods=["POST"], openapi_extra=extra)
    extra = described(PromptFields, TokenCount)
    router.add_api_route("/v1/messages/count_tokens", count_tokens, methods=["POST"], openapi_extra=extra)
    return router


async def messages(request: Request) -> Response:
    """POST /v1/messages."""
    service = service_of(request)
    body = await _read(request, service, MessagesRequest, PARAMETERS)
    model = service.model.resolve(body.model)
    asked = _understood(service, body)
    question = ChatQuestion(
        asked.conversation,
        sampling_of(body, service.model.defaults),
        _scope(request, service, body, session_of(body)),
        output_of(body),
        asked.policy,
        text_form(body),
        told_tools=asked.told_tools,
    )
    generation = await ask(request, question)
    may_call_instead = question.form is not None and bool(question.callable_tools)
    max_model_len = service.engine.info.max_model_len
    encoder = MessageEncoder(record_of(request).request_id, model, max_model_len, opens_text=not may_call_instead)
    return await answer(request, generation, encoder, body.stream)


async def count_tokens(request: Request) -> Response:
    """POST /v1/messages/count_tokens: what the same messages would cost."""
    service = service_of(request)
    body = await _read(request, service, PromptFields, COUNTING)
    service.model.resolve(body.model)
    salt = _scope(request, service, body, None).salt
    prompt = await service.prompts.chat(_understood(service, body).conversation, salt)
    return json_response({"input_tokens": len(prompt.ids)})


async def _read(request: Request, service: Service, schema: type[AnyBody], parameters: ParameterTable) -> AnyBody:
    payload = await read_json_object(request, service.settings.max_body_size)
    return parameters.parse(schema, payload, service.warnings)


@dataclass(frozen=True, slots=True)
class _Understood:
    """What the prompt is made of, and which calls may follow it."""

    conversation: Conversation
    told_tools: tuple[Tool, ...]
    policy: CallPolicy


def _understood(service: Service, body: PromptFields) -> _Understood:
    offer = offer_of(body.tools, service.warnings)
    reader = ConversationReader(offer, service.warnings)
    conversation = reader.read(body)
    policy = call_policy(body, (*conversation.tools, *reader.told_of))
    return _Understood(conversation, reader.told_of, policy)


def _scope(request: Request, service: Service, body: PromptFields, session: str | None) -> CacheScope:
    return cache_scope(request, body.cache_salt, session, service.settings.share_cache_across_keys)
