"""llama.cpp's routes.

HTTP in, HTTP out; what requests mean is `translate`'s business, what answers look like that of the encoder.
"""

from functools import cache
from itertools import chain

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from server.access import record_of
from server.answering import PROGRESS_SECONDS, admit, answer
from server.bodies import read_json_object
from server.cache_scope import cache_scope
from server.chat.answer_form import CallPolicy
from server.chat.fim import FillInTheMiddle
from server.dialects.llamacpp.answer_schema import Completion, Props, Slots
from server.dialects.llamacpp.answers import CompletionEncoder, settings_of
from server.dialects.llamacpp.parameters import PARAMETERS
from server.dialects.llamacpp.schema import AnswerFields, CompletionRequest, InfillRequest
from server.dialects.llamacpp.translate import output_of, prompt_parts, sampling_of, text_form
from server.errors import ApiError, Unavailable
from server.generation import INTERACTIVE_MAX_TOKENS, GenerationJob
from server.health import daemon_version
from server.json_text import json_response
from server.openapi import described
from server.parameters import AnyBody
from server.prompts import Prompt
from server.service import Service, service_of

_RETRY_SECONDS = 1.0


@cache
def llamacpp_router() -> APIRouter:
    """All routes of the dialect."""
    router = APIRouter()
    for path, endpoint, schema in (("/completion", completion, CompletionRequest), ("/infill", infill, InfillRequest)):
        extra = described(schema, Completion, "text/event-stream")
        router.add_api_route(path, endpoint, methods=["POST"], openapi_extra=extra)
    router.add_api_route("/props", show_props, methods=["GET"], openapi_extra=described(answer=Props))
    router.add_api_route("/props", change_props, methods=["POST"])
    router.add_api_route("/slots", list_slots, methods=["GET"], openapi_extra=described(answer=Slots))
    return router


async def completion(request: Request) -> Response:
    """POST /completion: a raw prompt."""
    service = service_of(request)
    body = await _read(request, service, CompletionRequest)
    pieces = await service.prompts.raw(prompt_parts(body.prompt))
    return await _answer(request, service, body, Prompt(tuple(chain.from_iterable(piece.ids for piece in pieces))))


async def infill(request: Request) -> Response:
    """POST /infill: what stands between two texts. With `n_predict: 0` they are only read, and kept."""
    service = service_of(request)
    body = await _read(request, service, InfillRequest)
    files = [(file.filename, file.text) for file in body.input_extra]
    prompt = await service.prompts.fill(body.input_prefix, body.input_suffix, body.prompt, files, "input_suffix")
    return await _answer(request, service, body, prompt, service.model.fim)


async def _read(request: Request, service: Service, schema: type[AnyBody]) -> AnyBody:
    payload = await read_json_object(request, service.settings.max_body_size)
    return PARAMETERS.parse(schema, payload, service.warnings)


async def _answer(
    request: Request, service: Service, body: AnswerFields, prompt: Prompt, fim: FillInTheMiddle | None = None
) -> Response:
    """The answer to a prompt; somebody at a keyboard waits for what fills a gap."""
    model = service.model.resolve(body.model)
    usual = INTERACTIVE_MAX_TOKENS if fim else None
    sampling = sampling_of(body, service.model.defaults, service.model.tokenizer, usual)
    job = GenerationJob(
        record_of(request).request_id,
        (prompt,),
        sampling,
        output_of(body, fim.stop_ids if fim else ()),
        cache_scope(request, None, None, service.settings.share_cache_across_keys),
        body.n_cmpl,
        interactive=fim is not None,
        constraint=await service.constrainer.constraint((), CallPolicy(), text_form(body)),
    )
    generation = await admit(request, job, "prompt")
    settings = settings_of(sampling, service.engine.info.max_model_len, body)
    encoder = CompletionEncoder(model, body, settings)
    seconds = PROGRESS_SECONDS if body.return_progress else None
    return await answer(request, generation, encoder, body.stream, life_sign_seconds=seconds)


async def show_props(request: Request) -> Response:
    """GET /props: what there is to know of the server."""
    service = service_of(request)
    model, info = service.model, service.engine.info
    nothing = AnswerFields.model_validate({})
    sampling = sampling_of(nothing, model.defaults, model.tokenizer)
    settings = settings_of(sampling, info.max_model_len, nothing)
    return json_response(
        {
            "default_generation_settings": {"id": 0, "n_ctx": info.max_model_len, "params": settings},
            "total_slots": info.num_slots,
            "model_alias": model.name,
            "model_path": model.name,
            "modalities": {"vision": False, "audio": False},
            "chat_template": model.template.source if model.template else "",
            "build_info": f"deltaloop {daemon_version()}",
            "is_sleeping": False,
        }
    )


async def change_props(request: Request) -> Response:
    """POST /props: the operator sets options when the server is started."""
    raise ApiError(
        "This server's properties are set when it is started.",
        status=501,
        type="not_supported_error",
        code="unsupported_feature",
    )


async def list_slots(request: Request) -> Response:
    """GET /slots: which places are taken, without what is in them. With `fail_on_no_slot` 503 where none is free."""
    service = service_of(request)
    info, num_used = service.engine.info, service.engine.stats().num_slots_used
    if request.query_params.get("fail_on_no_slot") and num_used >= info.num_slots:
        raise Unavailable("No slot is free.", "no_slot", _RETRY_SECONDS)
    slots = [
        {"id": number, "n_ctx": info.max_model_len, "speculative": False, "is_processing": number < num_used}
        for number in range(info.num_slots)
    ]
    return json_response(slots)
