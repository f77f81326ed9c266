"""The routes of the Responses API, each with and without `/v1`. HTTP in, HTTP out; what lies between is elsewhere."""

from collections.abc import Sequence

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from server.answering import ChatQuestion, answer, ask
from server.auth import tenant_of
from server.bodies import read_json_object
from server.cache_scope import CacheScope, cache_scope
from server.chat.conversation import Conversation
from server.dialects.responses.answer_schema import DeletedResponse, InputTokens, ItemList, ResponseAnswer
from server.dialects.responses.conversation import conversation_of, input_items
from server.dialects.responses.encoder import ResponseEncoder
from server.dialects.responses.ledger import Entry, Ledger, listed
from server.dialects.responses.offer import Offer, offer_of
from server.dialects.responses.output import Output
from server.dialects.responses.parameters import PARAMETERS
from server.dialects.responses.response import ResponseObject
from server.dialects.responses.schema import PromptFields, ResponseRequest
from server.dialects.responses.store import Item, Turn
from server.dialects.responses.translate import output_of, sampling_of, tells_logprobs, text_form
from server.errors import InvalidRequest, NotFound
from server.json_text import json_response
from server.openapi import described
from server.parameters import AnyBody
from server.service import Service, service_of
from server.validation import shorten

_USUAL_ITEMS, _MOST_ITEMS = 20, 100  # of a list's page


def responses_router() -> APIRouter:
    """All routes of the dialect, with what they know between requests."""
    router = APIRouter()
    routes = ResponsesRoutes(Ledger())
    for path, endpoint, method, extra in (
        ("", routes.create, "POST", described(ResponseRequest, ResponseAnswer, "text/event-stream")),
        ("/input_tokens", routes.count, "POST", described(PromptFields, InputTokens)),
        ("/{response_id}", routes.retrieve, "GET", described(answer=ResponseAnswer)),
        ("/{response_id}", routes.delete, "DELETE", described(answer=DeletedResponse)),
        ("/{response_id}/cancel", routes.cancel, "POST", described(answer=ResponseAnswer)),
        ("/{response_id}/input_items", routes.list_inputs, "GET", described(answer=ItemList)),
    ):
        router.add_api_route(f"/v1/responses{path}", endpoint, methods=[method], openapi_extra=extra)
        router.add_route(f"/responses{path}", endpoint, methods=[method], include_in_schema=False)
    return router


class ResponsesRoutes:
    """The endpoints."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def create(self, request: Request) -> Response:
        """POST /v1/responses."""
        service, owner = service_of(request), tenant_of(request)
        body = await _read(request, service, ResponseRequest)
        model = service.model.resolve(body.model)
        before = self._before(owner, body.previous_response_id)
        items = input_items(body.input, lambda name: self._ledger.store.item(owner, name))
        offer, conversation = _prompt(service, body, before, items)
        sampling = sampling_of(body, service.model.defaults)
        question = ChatQuestion(
            conversation,
            sampling,
            _scope(request, service, body, body.prompt_cache_key),
            output_of(body),
            offer.policy,
            text_form(body),
            prompt_param="input",
        )
        generation = await ask(request, question)
        response = ResponseObject(body, model, sampling)
        inputs = listed(items) if body.store else ()
        entry = Entry(owner, response.id, inputs, before, body.store)
        encoder = ResponseEncoder(response, Output(offer, tells_logprobs(body)), entry, self._ledger)
        return await answer(request, generation, encoder, body.stream)

    async def count(self, request: Request) -> Response:
        """POST /v1/responses/input_tokens: what the same input would cost."""
        service, owner = service_of(request), tenant_of(request)
        body = await _read(request, service, PromptFields)
        service.model.resolve(body.model)
        before = self._before(owner, body.previous_response_id)
        items = input_items(body.input, lambda name: self._ledger.store.item(owner, name))
        _, conversation = _prompt(service, body, before, items)
        prompt = await service.prompts.chat(conversation, _scope(request, service, body, None).salt)
        return json_response({"object": "response.input_tokens", "input_tokens": len(prompt.ids)})

    async def retrieve(self, request: Request) -> Response:
        """GET /v1/responses/{id}: a kept response, or one that will be and is being answered."""
        if request.query_params.get("stream", "false").lower() not in ("false", "0"):
            raise InvalidRequest("stream is not supported here: events are sent once, and not kept.", param="stream")
        owner, response_id = _asked_for(request)
        running = self._ledger.find_running(owner, response_id)
        if running is not None and running.entry.is_stored:
            return json_response(running.as_of_now("in_progress"))
        stored = self._ledger.store.get(owner, response_id)
        if stored is None:
            raise _not_found(response_id)
        return Response(stored.response, media_type="application/json")

    async def delete(self, request: Request) -> Response:
        """DELETE /v1/responses/{id}."""
        owner, response_id = _asked_for(request)
        if not self._ledger.delete(owner, response_id):
            raise _not_found(response_id)
        return json_response({"id": response_id, "object": "response", "deleted": True})

    async def cancel(self, request: Request) -> Response:
        """POST /v1/responses/{id}/cancel: end the work on a response. Who waits for it gets an error."""
        owner, response_id = _asked_for(request)
        running = self._ledger.find_running(owner, response_id)
        if running is not None and running.abort():
            response = running.as_of_now("cancelled")
            self._ledger.keep(running.entry, response)
            return json_response(response)
        stored = self._ledger.store.get(owner, response_id)
        if stored is None:
            raise _not_found(response_id)
        raise InvalidRequest(
            f"This response is {stored.status}: only one that is being answered can be cancelled.",
            param="response_id",
            code="not_cancellable",
        )

    async def list_inputs(self, request: Request) -> Response:
        """GET /v1/responses/{id}/input_items: what the response answered, in pages, the last item first."""
        owner, response_id = _asked_for(request)
        running = self._ledger.find_running(owner, response_id)
        stored = self._ledger.store.get(owner, response_id)
        if running is not None and running.entry.is_stored:
            inputs = [*running.entry.inputs]
        elif stored is not None:
            inputs = stored.inputs
        else:
            raise _not_found(response_id)
        order = request.query_params.get("order", "desc")
        if order not in ("asc", "desc"):
            raise InvalidRequest(f"order must be 'asc' or 'desc', not {shorten(order)}.", param="order")
        items = inputs if order == "asc" else inputs[::-1]
        rest = _after(items, request.query_params.get("after"))
        page = rest[: _limit(request)]
        return json_response(
            {
                "object": "list",
                "data": page,
                "first_id": page[0]["id"] if page else None,
                "last_id": page[-1]["id"] if page else None,
                "has_more": len(page) < len(rest),
            }
        )

    def _before(self, owner: str, response_id: str | None) -> Turn | None:
        """What was said up to the previous response."""
        if response_id is None:
            return None
        stored = self._ledger.store.get(owner, response_id)
        if stored is None:
            raise InvalidRequest(
                f"Previous response with id {shorten(response_id)} not found: it was not stored, was deleted, or has "
                "been out of use for too long. Send the whole conversation as input.",
                param="previous_response_id",
                code="previous_response_not_found",
            )
        if stored.status == "cancelled":
            raise InvalidRequest(
                "The previous response was cancelled, and cannot be gone on from.", param="previous_response_id"
            )
        return stored.turn


async def _read(request: Request, service: Service, schema: type[AnyBody]) -> AnyBody:
    payload = await read_json_object(request, service.settings.max_body_size)
    return PARAMETERS.parse(schema, payload, service.warnings)


def _prompt(
    service: Service, body: PromptFields, before: Turn | None, items: Sequence[Item]
) -> tuple[Offer, Conversation]:
    offer = offer_of(body.tools, body.tool_choice, body.parallel_tool_calls, service.warnings)
    earlier = before.conversation() if before else ()
    return offer, conversation_of(body.instructions, earlier, items, offer.tools, service.warnings)


def _scope(request: Request, service: Service, body: PromptFields, session: str | None) -> CacheScope:
    return cache_scope(request, body.cache_salt, session, service.settings.share_cache_across_keys)


def _asked_for(request: Request) -> tuple[str, str]:
    return tenant_of(request), request.path_params["response_id"]


def _not_found(response_id: str) -> NotFound:
    return NotFound(f"Response with id {shorten(response_id)} not found.", param="response_id", code="not_found")


def _after(items: list[Item], name: str | None) -> list[Item]:
    """The items that follow the one of this id."""
    if name is None:
        return items
    place = next((number for number, item in enumerate(items) if item["id"] == name), None)
    if place is None:
        raise InvalidRequest(f"after names no item of this response: {shorten(name)}.", param="after")
    return items[place + 1 :]


def _limit(request: Request) -> int:
    given = request.query_params.get("limit", str(_USUAL_ITEMS))
    if not given.isascii() or not given.isdigit() or len(given) > 9 or not 1 <= int(given) <= _MOST_ITEMS:
        raise InvalidRequest(f"limit must be from 1 to {_MOST_ITEMS}, not {shorten(given)}.", param="limit")
    return int(given)
