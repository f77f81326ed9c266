"""The OpenAI routes, each with and without `/v1`, and vLLM's tokenize and detokenize.

HTTP in, HTTP out; what requests mean is `translate`'s business, what answers look like that of the encoders.
"""

import time
from collections.abc import Sequence
from functools import cache

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from server.access import record_of
from server.answering import PROGRESS_SECONDS, ChatQuestion, Encoder, admit, answer, ask
from server.bodies import read_json_object
from server.cache_scope import CacheScope, cache_scope
from server.chat.answer_form import CallPolicy
from server.dialects.openai.answer_schema import ChatCompletion, Completion
from server.dialects.openai.answers import Identity
from server.dialects.openai.chat import ChatEncoder
from server.dialects.openai.completions import CompletionEncoder, Echo
from server.dialects.openai.conversation import conversation_of
from server.dialects.openai.models import models_router
from server.dialects.openai.parameters import PARAMETERS
from server.dialects.openai.schema import ChatCompletionRequest, CompletionRequest, GenerationFields
from server.dialects.openai.tokens import tokens_router
from server.dialects.openai.translate import (
    check_common,
    offered_tools,
    output_of,
    prompts_of,
    sampling_of,
    text_form,
    texts_of,
)
from server.errors import InvalidRequest
from server.generation import Generation, GenerationJob
from server.openapi import described
from server.parameters import AnyBody
from server.prompts import Prompt
from server.service import Service, service_of


@cache
def openai_router() -> APIRouter:
    """All routes of the dialect."""
    router = APIRouter()
    chat = described(ChatCompletionRequest, ChatCompletion, "text/event-stream")
    plain = described(CompletionRequest, Completion, "text/event-stream")
    for path, endpoint, methods, extra in (
        ("/chat/completions", chat_completions, ["POST"], chat),
        ("/completions", completions, ["POST"], plain),
    ):
        router.add_api_route(f"/v1{path}", endpoint, methods=methods, openapi_extra=extra)
        router.add_route(path, endpoint, methods=methods, include_in_schema=False)
    for path, endpoint in (("/chat/completions", chat_completions), ("/completions", completions)):
        router.add_route(f"/api/v0{path}", endpoint, methods=["POST"], include_in_schema=False)  # LM Studio's
    router.routes.extend([*models_router().routes, *tokens_router().routes])
    return router


async def chat_completions(request: Request) -> Response:
    """POST /v1/chat/completions."""
    service = service_of(request)
    body = await _read(request, service, ChatCompletionRequest)
    identity = _begin(request, service, body, "chatcmpl")
    if body.top_logprobs and not body.logprobs:
        raise InvalidRequest("top_logprobs is only allowed with logprobs: true.", param="top_logprobs")
    tools, policy = offered_tools(body)
    question = ChatQuestion(
        conversation_of(body, tools),
        sampling_of(body, body.top_logprobs if body.logprobs else None, service.model.defaults),
        _cache_scope(request, service, body),
        output_of(body),
        policy,
        text_form(body),
        body.n,
        body.priority,
    )
    return await _answer(request, await ask(request, question), ChatEncoder(identity, body), body)


async def completions(request: Request) -> Response:
    """POST /v1/completions."""
    service = service_of(request)
    body = await _read(request, service, CompletionRequest)
    identity = _begin(request, service, body, "cmpl")
    given = prompts_of(body)
    service.generator.check_number(len(given), body.n)
    if body.suffix:
        prompts = await service.prompts.fill_each(texts_of(body, given), body.suffix)
    else:
        prompts = await service.prompts.raw(given)
    echoes = await _echoes(service, given, prompts) if body.echo else []
    job = GenerationJob(
        record_of(request).request_id,
        prompts,
        sampling_of(body, body.logprobs, service.model.defaults),
        output_of(body, service.model.fim),
        _cache_scope(request, service, body),
        body.n,
        body.priority,
        interactive=bool(body.suffix),
        constraint=await service.constrainer.constraint((), CallPolicy(), text_form(body)),
    )
    generation = await admit(request, job, "prompt")
    return await _answer(request, generation, CompletionEncoder(identity, body, echoes), body)


async def _echoes(service: Service, given: Sequence[str | tuple[int, ...]], prompts: Sequence[Prompt]) -> list[Echo]:
    """The prompts as they stand before their answers: texts as they were given, token ids as text."""
    echoes = []
    for item, prompt in zip(given, prompts, strict=True):
        text = item if isinstance(item, str) else await service.prompts.decode(item)
        echoes.append(Echo(text, service.model.tokenizer.join_bytes(prompt.ids[:1], skip_special_tokens=False)))
    return echoes


async def _read(request: Request, service: Service, schema: type[AnyBody]) -> AnyBody:
    payload = await read_json_object(request, service.settings.max_body_size)
    return PARAMETERS.parse(schema, payload, service.warnings)


def _begin(request: Request, service: Service, body: GenerationFields, prefix: str) -> Identity:
    """Check what both kinds share, and name the answer after the request."""
    record = record_of(request)
    record.adopt_id(body.request_id)
    model = service.model.resolve(body.model)
    check_common(body)
    return Identity(f"{prefix}-{record.request_id}", model, int(time.time()))


def _cache_scope(request: Request, service: Service, body: GenerationFields) -> CacheScope:
    session = body.prompt_cache_key or body.session_id
    return cache_scope(request, body.cache_salt, session, service.settings.share_cache_across_keys)


async def _answer(request: Request, generation: Generation, encoder: Encoder, body: GenerationFields) -> Response:
    seconds = PROGRESS_SECONDS if body.return_progress else None
    return await answer(request, generation, encoder, body.stream, life_sign_seconds=seconds)
