"""The OpenAI routes, each with and without `/v1`, and vLLM's tokenize and detokenize.

HTTP in, HTTP out; what requests mean is `translate`'s business, what answers look like that of the encoders.
"""

import contextlib
import time

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from engine.errors import EngineError
from engine.types import SamplingParams
from server.access import note_error, record_of
from server.bodies import read_json_object
from server.cache_scope import CacheScope, cache_scope
from server.chat.answer_form import CallPolicy
from server.choice import OutputOptions
from server.dialects.openai.answers import Encoder, Identity, error_event, to_json
from server.dialects.openai.chat import ChatEncoder
from server.dialects.openai.completions import CompletionEncoder
from server.dialects.openai.conversation import conversation_of, tools_of
from server.dialects.openai.schema import (
    ChatCompletionRequest,
    CompletionRequest,
    DetokenizeRequest,
    GenerationFields,
    TokenizeRequest,
)
from server.dialects.openai.translate import (
    Body,
    check_common,
    offered_tools,
    output_of,
    parse,
    prompts_of,
    sampling_of,
    text_form,
)
from server.errors import ApiError, InvalidRequest, from_engine
from server.generation import GenerationJob
from server.service import Service, service_of
from server.sse import EventStream, until_disconnect


def openai_router() -> APIRouter:
    """All routes of the dialect."""
    router = APIRouter()
    for prefix in ("/v1", ""):
        router.add_api_route(f"{prefix}/chat/completions", chat_completions, methods=["POST"])
        router.add_api_route(f"{prefix}/completions", completions, methods=["POST"])
        router.add_api_route(f"{prefix}/models", list_models, methods=["GET"])
        router.add_api_route(f"{prefix}/models/", list_models, methods=["GET"])
        router.add_api_route(f"{prefix}/models/{{model_id:path}}", show_model, methods=["GET"])
        router.add_api_route(f"{prefix}/tokenize", tokenize, methods=["POST"])
        router.add_api_route(f"{prefix}/detokenize", detokenize, methods=["POST"])
    return router


async def chat_completions(request: Request) -> Response:
    """POST /v1/chat/completions."""
    service = service_of(request)
    body = await _read(request, service, ChatCompletionRequest)
    identity = _begin(request, service, body, "chatcmpl")
    if body.top_logprobs and not body.logprobs:
        raise InvalidRequest("top_logprobs is only allowed with logprobs: true.", param="top_logprobs")
    tools, policy = offered_tools(body)
    form = text_form(body)
    constraint = await service.constrainer.constraint(tools, policy, form)
    calls_are_held = constraint is not None and (policy.is_required or form is None)
    output = output_of(body, service.model, tools, calls_are_held)
    sampling = _sampling(service, body, output, body.top_logprobs if body.logprobs else None)
    scope = _cache_scope(request, service, body)
    prompt = await service.prompts.chat(conversation_of(body, tools), scope.salt)
    job = GenerationJob(
        record_of(request).request_id,
        (prompt,),
        sampling,
        output,
        scope,
        body.n,
        body.priority,
        is_chat=True,
        constraint=constraint,
    )
    return await _answer(request, job, ChatEncoder(identity, body), body.stream, "messages")


async def completions(request: Request) -> Response:
    """POST /v1/completions."""
    service = service_of(request)
    body = await _read(request, service, CompletionRequest)
    identity = _begin(request, service, body, "cmpl")
    if body.echo and body.logprobs is not None:
        raise InvalidRequest("echo is not supported together with logprobs yet.", param="echo")
    output = output_of(body, service.model, ())
    sampling = _sampling(service, body, output, body.logprobs)
    given = prompts_of(body)
    prompts = await service.prompts.raw(given)
    echoes = []
    if body.echo:
        echoes = [item if isinstance(item, str) else await service.prompts.decode(item) for item in given]
    scope = _cache_scope(request, service, body)
    constraint = await service.constrainer.constraint((), CallPolicy(), text_form(body))
    job = GenerationJob(
        record_of(request).request_id,
        prompts,
        sampling,
        output,
        scope,
        body.n,
        body.priority,
        constraint=constraint,
    )
    return await _answer(request, job, CompletionEncoder(identity, body, echoes), body.stream, "prompt")


async def _read(request: Request, service: Service, schema: type[Body]) -> Body:
    payload = await read_json_object(request, service.settings.max_body_size)
    return parse(schema, payload, service.warnings)


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


def _sampling(service: Service, body: GenerationFields, output: OutputOptions, logprobs: int | None) -> SamplingParams:
    stop_token_ids = (*output.stop_token_ids, *output.stop_tokens)
    try:
        return sampling_of(body, logprobs, service.model.defaults, stop_token_ids)
    except EngineError as error:
        raise from_engine(error, "prompt") from error


async def _answer(request: Request, job: GenerationJob, encoder: Encoder, stream: bool, prompt_param: str) -> Response:
    """Admit the job, then stream its answer or wait for it."""
    service = service_of(request)
    try:
        generation = await service.generator.start(job)
    except EngineError as error:
        raise from_engine(error, prompt_param) from error
    record_of(request).generation = generation
    if stream:

        def encode_error(error: ApiError) -> bytes:
            note_error(request, error)
            return error_event(error)

        interval = service.settings.sse_keep_alive_interval
        return EventStream(encoder.stream(generation), generation, encode_error, interval)
    async with contextlib.aclosing(generation):
        return _json(await until_disconnect(request.receive, encoder.collect(generation)))


async def list_models(request: Request) -> Response:
    """GET /v1/models: one entry for each name."""
    service = service_of(request)
    return _json({"object": "list", "data": [_model_card(service, name) for name in service.model.names]})


async def show_model(request: Request) -> Response:
    """GET /v1/models/{id}."""
    service = service_of(request)
    return _json(_model_card(service, service.model.resolve(request.path_params["model_id"])))


def _model_card(service: Service, name: str) -> dict[str, object]:
    """What clients read to know the model and its context length."""
    return {
        "id": name,
        "object": "model",
        "created": service.model.created,
        "owned_by": "deltaloop",
        "root": service.model.name,
        "parent": None,
        "max_model_len": service.engine.info.max_model_len,
    }


async def tokenize(request: Request) -> Response:
    """POST /tokenize: the ids of a prompt or of rendered messages."""
    service = service_of(request)
    body = await _read(request, service, TokenizeRequest)
    service.model.resolve(body.model)
    if (body.prompt is None) == (not body.messages):
        raise InvalidRequest("Give either prompt or messages.", param="prompt")
    if body.prompt is not None:
        [prompt] = await service.prompts.raw([body.prompt])
    else:
        prompt = await service.prompts.chat(conversation_of(body, tools_of(body.tools)))
    ids = prompt.ids
    texts = [service.model.tokenizer.id_to_text(token_id) for token_id in ids] if body.return_token_strs else None
    return _json(
        {
            "count": len(ids),
            "max_model_len": service.engine.info.max_model_len,
            "tokens": ids,
            "token_strs": texts,
        }
    )


async def detokenize(request: Request) -> Response:
    """POST /detokenize: the text of token ids."""
    service = service_of(request)
    body = await _read(request, service, DetokenizeRequest)
    service.model.resolve(body.model)
    return _json({"prompt": await service.prompts.decode(body.tokens)})


def _json(value: object) -> Response:
    return Response(to_json(value), media_type="application/json")
