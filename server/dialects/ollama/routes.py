"""The Ollama routes.

HTTP in, HTTP out; what requests mean is `translate`'s business, what answers look like `answers`' and `models`'.
"""

from functools import cache
from typing import TypeVar

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from server.absent import NO_STORE, not_offered
from server.access import record_of
from server.answering import ChatQuestion, admit, answer, ask
from server.bodies import read_json_object
from server.cache_scope import CacheScope, cache_scope
from server.chat.answer_form import CallPolicy
from server.dialects.ollama.answer_schema import (
    ChatAnswer,
    GenerateAnswer,
    ListedModels,
    RunningModels,
    ShownModel,
    Status,
    Version,
)
from server.dialects.ollama.answers import MEDIA_TYPE, AnswerEncoder, chat_said, prompt_said
from server.dialects.ollama.models import API_VERSION, listed, running, shown
from server.dialects.ollama.parameters import OPTIONS, PARAMETERS
from server.dialects.ollama.schema import AnswerFields, ChatRequest, GenerateRequest, ModelRequest, Options
from server.dialects.ollama.translate import (
    chat_conversation,
    check_prompt,
    means_unload,
    output_of,
    prompt_conversation,
    sampling_of,
    text_form,
)
from server.errors import InvalidRequest, NotFound
from server.generation import INTERACTIVE_MAX_TOKENS, Generation, GenerationJob
from server.json_text import json_response
from server.openapi import described
from server.parameters import AnyBody
from server.service import Service, service_of

AnyQuestion = TypeVar("AnyQuestion", bound=AnswerFields)

MAX_SHOWN_NAME = 80


@cache
def ollama_router() -> APIRouter:
    """All routes of the dialect."""
    router = APIRouter()
    for path, look, extra in (
        ("/api/version", show_version, described(answer=Version)),
        ("/api/tags", list_models, described(answer=ListedModels)),
        ("/api/ps", list_running, described(answer=RunningModels)),
    ):
        router.add_api_route(path, look, methods=["GET"], openapi_extra=extra)
        router.add_route(path, look, methods=["HEAD"], include_in_schema=False)
    for path, endpoint, extra in (
        ("/api/show", show_model, described(ModelRequest, ShownModel)),
        ("/api/pull", pull, described(ModelRequest, Status)),
        ("/api/chat", chat, described(ChatRequest, ChatAnswer, MEDIA_TYPE)),
        ("/api/generate", generate, described(GenerateRequest, GenerateAnswer, MEDIA_TYPE)),
    ):
        router.add_api_route(path, endpoint, methods=["POST"], openapi_extra=extra)
    return router


async def chat(request: Request) -> Response:
    """POST /api/chat."""
    service = service_of(request)
    body, options = await _read_question(request, service, ChatRequest)
    encoder = AnswerEncoder(body.model or service.model.name, chat_said, body.logprobs)
    if not body.messages:
        return _idle(body, encoder)
    question = ChatQuestion(
        chat_conversation(body),
        sampling_of(options, _logprobs(body), service.model.defaults),
        _scope(request, service),
        output_of(options),
        form=text_form(body),
    )
    return await _answer(request, await ask(request, question), encoder, body)


async def generate(request: Request) -> Response:
    """POST /api/generate: a prompt as the user's message, as it stands, or as the text before a gap."""
    service = service_of(request)
    body, options = await _read_question(request, service, GenerateRequest)
    encoder = AnswerEncoder(body.model or service.model.name, prompt_said, body.logprobs)
    if not body.prompt and not body.suffix:
        return _idle(body, encoder)
    check_prompt(body)
    usual = INTERACTIVE_MAX_TOKENS if body.suffix else None
    sampling = sampling_of(options, _logprobs(body), service.model.defaults, usual)
    scope, form = _scope(request, service), text_form(body)
    if not body.raw and not body.suffix:
        conversation = prompt_conversation(body)
        question = ChatQuestion(conversation, sampling, scope, output_of(options), form=form, prompt_param="prompt")
        return await _answer(request, await ask(request, question), encoder, body)
    if body.raw:
        prompts = await service.prompts.raw([body.prompt])
    else:
        prompts = (await service.prompts.fill(body.prompt, body.suffix),)
    ends = service.model.fim.stop_ids if body.suffix and service.model.fim else ()
    constraint = await service.constrainer.constraint((), CallPolicy(), form)
    output = output_of(options, ends)
    job = GenerationJob(
        record_of(request).request_id,
        prompts,
        sampling,
        output,
        scope,
        interactive=bool(body.suffix),
        constraint=constraint,
    )
    return await _answer(request, await admit(request, job, "prompt"), encoder, body)


def _logprobs(body: AnswerFields) -> int | None:
    return body.top_logprobs if body.logprobs else None


async def _read(request: Request, service: Service, schema: type[AnyBody]) -> AnyBody:
    payload = await read_json_object(request, service.settings.max_body_size)
    return PARAMETERS.parse(schema, payload, service.warnings)


async def _read_question(request: Request, service: Service, schema: type[AnyQuestion]) -> tuple[AnyQuestion, Options]:
    body = await _read(request, service, schema)
    _resolve(service, body.model)
    return body, OPTIONS.parse(Options, body.options, service.warnings, "options.")


def _resolve(service: Service, requested: str) -> str:
    """The served name that is meant; the refusal in the words that Ollama's clients know."""
    try:
        return service.model.resolve(requested)
    except NotFound as error:
        raise NotFound(f"model '{requested[:MAX_SHOWN_NAME]}' not found", param="model", code=error.code) from None


def _scope(request: Request, service: Service) -> CacheScope:
    return cache_scope(request, None, None, service.settings.share_cache_across_keys)


def _idle(body: AnswerFields, encoder: AnswerEncoder) -> Response:
    """Nothing is asked: elsewhere that loads the model, or unloads it. Here it is loaded, and stays so."""
    return json_response(encoder.idle("unload" if means_unload(body.keep_alive) else "load"))


async def _answer(request: Request, generation: Generation, encoder: AnswerEncoder, body: AnswerFields) -> Response:
    return await answer(request, generation, encoder, body.stream, MEDIA_TYPE)


async def show_version(request: Request) -> Response:
    """GET /api/version."""
    return json_response({"version": API_VERSION})


async def list_models(request: Request) -> Response:
    """GET /api/tags: one entry for each name."""
    service = service_of(request)
    return json_response({"models": listed(service.model, service.engine.info)})


async def list_running(request: Request) -> Response:
    """GET /api/ps."""
    service = service_of(request)
    return json_response({"models": running(service.model, service.engine.info)})


async def show_model(request: Request) -> Response:
    """POST /api/show."""
    service = service_of(request)
    body = await _read(request, service, ModelRequest)
    name = _resolve(service, body.model or body.name)
    return json_response(shown(service.model, service.engine.info, name))


async def pull(request: Request) -> Response:
    """POST /api/pull: what is served is there, and as new as it gets.

    Clients do this for a name that they do not see in the list, as for one without `:latest`.
    """
    service = service_of(request)
    body = await _read(request, service, ModelRequest)
    wanted = body.model or body.name
    if not wanted:
        raise InvalidRequest("model is required", param="model")
    try:
        service.model.resolve(wanted)
    except NotFound:
        raise not_offered(NO_STORE) from None
    return json_response({"status": "success"})
