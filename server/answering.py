"""From a request that a dialect has understood to its answer on the wire: constraint, prompt, admission, stream.

What every dialect's generating routes do in the same way. Knows HTTP and the server's parts, no dialect.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response

from engine.errors import EngineError
from engine.types import SamplingParams
from server.access import note_error, record_of
from server.auth import tenant_of
from server.cache_scope import CacheScope
from server.chat.answer_form import CallPolicy, TextForm
from server.chat.conversation import Conversation, Tool
from server.chat.events import (
    ChoiceFinished,
    GenerationEvent,
    GenerationFailed,
    TextDelta,
    ToolCallArguments,
    ToolCallStarted,
)
from server.chat.stops import added_token_stops
from server.choice import OutputOptions
from server.errors import ApiError, InternalError, RequestAborted, from_engine
from server.generation import Generation, GenerationJob
from server.service import service_of
from server.sse import EventStream, PatientJson

PROGRESS_SECONDS = 0.5  # between two reports of a prompt's reading, where a client asks for them

AnswerEvent = TextDelta | ToolCallStarted | ToolCallArguments | ChoiceFinished


class Encoder(Protocol):
    """Writes the answer to one request in a dialect."""

    def stream(self, generation: Generation) -> AsyncGenerator[bytes, None]:
        """The answer as events."""
        ...

    async def collect(self, generation: Generation) -> Any:
        """The answer as one object, for JSON."""
        ...

    def life_sign(self, generation: Generation) -> bytes:
        """What a stream sends when it has been silent for long; whatever this dialect's clients take for life."""
        ...

    def failure(self, error: ApiError) -> bytes:
        """The last event of a stream that breaks off."""
        ...


@dataclass(frozen=True, slots=True)
class ChatQuestion:
    """What a chat request of any dialect comes to. The tools on offer are the conversation's, and `told_tools`, which
    its messages tell of; stops that are tokens are found among `output.stops`. `prompt_param` is what the body calls
    the conversation."""

    conversation: Conversation
    sampling: SamplingParams
    scope: CacheScope
    output: OutputOptions = field(default_factory=OutputOptions)
    policy: CallPolicy = field(default_factory=CallPolicy)
    form: TextForm | None = None
    n: int = 1
    priority: int = 0
    prompt_param: str = "messages"
    told_tools: tuple[Tool, ...] = ()

    @property
    def held_form(self) -> TextForm | None:
        """The form that the answer's text must have, where it may be a text."""
        return None if self.policy.is_required else self.form

    @property
    def tools(self) -> tuple[Tool, ...]:
        """All that the model was told of."""
        return (*self.conversation.tools, *self.told_tools)

    @property
    def callable_tools(self) -> tuple[Tool, ...]:
        """Those of them that the answer may call."""
        has_room = self.held_form is None or self.held_form.leaves_room_for_calls
        return self.tools if has_room and not self.policy.is_forbidden else ()


async def ask(request: Request, question: ChatQuestion) -> Generation:
    """Render, constrain and admit a chat request.

    Raises:
        ApiError: it cannot be served, or not now.
    """
    service = service_of(request)
    constraint = await service.constrainer.constraint(question.tools, question.policy, question.form)
    output = replace(
        question.output,
        tools=question.callable_tools,
        text_has_form=question.held_form is not None,
        call_format=service.model.call_format,
        calls_are_held=constraint is not None,
        max_tool_calls=None if question.policy.several else 1,
    )
    prompt = await service.prompts.chat(question.conversation, question.scope.salt)
    job = GenerationJob(
        record_of(request).request_id,
        (prompt,),
        question.sampling,
        output,
        question.scope,
        question.n,
        question.priority,
        is_chat=True,
        constraint=constraint,
    )
    return await admit(request, job, question.prompt_param)


async def admit(request: Request, job: GenerationJob, prompt_param: str) -> Generation:
    """Queue a job. Stop strings that are one token of the vocabulary are looked for as tokens.

    Raises:
        ApiError: it can never be served, or not now.
    """
    service = service_of(request)
    stop_tokens = added_token_stops(job.output.stops, service.model.tokenizer)
    stop_token_ids = (*job.output.stop_token_ids, *stop_tokens)
    job = replace(
        job,
        owner=tenant_of(request),
        output=replace(job.output, stop_tokens=stop_tokens),
        sampling=replace(job.sampling, stop_token_ids=stop_token_ids),
    )
    try:
        generation = await service.generator.start(job)
    except EngineError as error:
        raise from_engine(error, prompt_param) from error
    record_of(request).generation = generation
    return generation


async def answer(
    request: Request,
    generation: Generation,
    encoder: Encoder,
    stream: bool,
    media_type: str = "text/event-stream",
    life_sign_seconds: float | None = None,
) -> Response:
    """The answer to an admitted request, streamed or whole. Both show signs of life while nothing is there to send."""
    interval = service_of(request).settings.sse_keep_alive_interval

    def failure(error: ApiError) -> bytes:
        note_error(request, error)
        return encoder.failure(error)

    if stream:
        seconds = interval if life_sign_seconds is None else min(interval, life_sign_seconds)
        return EventStream(
            encoder.stream(generation), generation, failure, lambda: encoder.life_sign(generation), seconds, media_type
        )
    return await PatientJson.of(request.receive, encoder.collect(generation), generation, interval)


def unbroken(event: GenerationEvent) -> AnswerEvent:
    """The event of a generation that goes well.

    Raises:
        InternalError: a choice failed. That fails the request, for half an answer must not look like a whole one.
        RequestAborted: it was ended from outside, with the same consequence.
    """
    if isinstance(event, GenerationFailed):
        raise InternalError(event.message)
    if isinstance(event, ChoiceFinished) and event.finished_as == "abort":
        raise RequestAborted
    return event
