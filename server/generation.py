"""The use case: prompts go to the engine, events come back, and nothing keeps running when nobody listens.

`Generator.start` submits every sequence of a request at once, so that a refusal comes before any header. `Generation`
is the merged stream of their events; closing it frees all that it holds within one engine step. Knows no HTTP.
"""

import asyncio
import logging
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from engine.client import EngineClient, TokenStream
from engine.errors import Overloaded
from engine.types import (
    CacheReport,
    Constraint,
    ErrorReason,
    FinishReason,
    GenerationRequest,
    MissReason,
    PromptProgress,
    RequestTimes,
    SamplingParams,
    TokenOutput,
)
from server.cache_scope import CacheScope
from server.chat.events import GenerationEvent, GenerationFailed, TokenText
from server.chat.history import Answer, History
from server.chat.tokenizer import Tokenizer
from server.choice import ChoiceWriter, OutputOptions
from server.errors import ApiError, InternalError, InvalidRequest, RequestAborted, RequestTimedOut
from server.metrics import Metrics, SequenceRecord
from server.prompts import Prompt

logger = logging.getLogger(__name__)


# What a person waits for at the keyboard, and what is over so soon that letting it go ahead delays nobody much.
INTERACTIVE_PROMPT_TOKENS = 4096
INTERACTIVE_MAX_TOKENS = 256


@dataclass(frozen=True, slots=True)
class GenerationJob:
    """One request as a dialect hands it over: every prompt is answered `n` times, choices count through in order.

    `interactive`: somebody waits at the keyboard, as for a completion in an editor. A job of one short prompt and a
    short answer counts as such in any case. `owner`: whose API key it came with.
    """

    request_id: str
    prompts: tuple[Prompt, ...]
    sampling: SamplingParams
    output: OutputOptions
    cache: CacheScope
    n: int = 1
    priority: int = 0
    is_chat: bool = False
    constraint: Constraint | None = None
    interactive: bool = False
    owner: str = ""


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """What a request has cost so far, in tokens."""

    num_prompt_tokens: int
    num_cached_tokens: int
    num_generated_tokens: int


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds until the first sequence of a request was admitted, from there to its first token, and to its last."""

    queue_seconds: float
    prompt_seconds: float
    generation_seconds: float


class Generator:
    """Starts generations on one engine."""

    def __init__(
        self,
        engine: EngineClient,
        tokenizer: Tokenizer,
        metrics: Metrics,
        max_output_tokens: int | None,
        timeout_seconds: float | None,
        history: History | None = None,
    ) -> None:
        """Answers to conversations go into the history, if there is one."""
        self._engine = engine
        self._history = history
        self._tokenizer = tokenizer
        self._metrics = metrics
        self._max_output_tokens = max_output_tokens
        self._timeout_seconds = timeout_seconds

    async def start(self, job: GenerationJob) -> "Generation":
        """Queue every sequence of the job.

        Raises:
            RequestError, InvalidRequest: it can never be served.
            Overloaded: not now. In both cases none of the sequences stays behind.
        """
        self.check_number(len(job.prompts), job.n)
        sequences: list[_Sequence] = []
        try:
            for prompt in job.prompts:
                sampling = self._fitted(job.sampling, len(prompt.ids))
                for choice in range(job.n):
                    request = GenerationRequest(
                        job.request_id,
                        prompt.ids,
                        sampling,
                        choice,
                        job.priority,
                        prompt.boundaries,
                        job.cache.salt,
                        job.cache.session,
                        job.constraint,
                        job.interactive or _is_short(job, prompt, sampling),
                        job.owner,
                    )
                    writer = ChoiceWriter(len(sequences), len(prompt.ids), self._tokenizer, job.output)
                    history = self._history if job.is_chat else None
                    sequences.append(_Sequence(request, self._engine.submit(request), writer, history))
        except BaseException as error:
            if isinstance(error, Overloaded):
                self._metrics.admission_rejected(error.reason)
            for sequence in sequences:
                await sequence.close()
            raise
        num_replayed = sum(prompt.num_replayed for prompt in job.prompts)
        return Generation(sequences, self._metrics, job.n, self._timeout_seconds, num_replayed)

    def check_number(self, num_prompts: int, n: int) -> None:
        """Refuse what the line could never hold: told to come later, clients would come for ever.

        To be asked before a million prompts are encoded, too.
        Raises:
            InvalidRequest: there are too many.
        """
        num_sequences, info = num_prompts * n, self._engine.info
        most = info.num_slots + info.max_num_queued_reqs
        if num_sequences > most:
            raise InvalidRequest(
                f"{num_prompts} prompts × n {n} make {num_sequences} sequences; this server holds {most}.",
                param="n" if n > 1 else "prompt",
                code="invalid_value",
            )

    def _fitted(self, sampling: SamplingParams, num_prompt_tokens: int) -> SamplingParams:
        """Cut the wish down to what there is room for; agents send a ceiling, not an expectation.

        A prompt that leaves no room at all is for the engine to refuse.
        """
        room = self._engine.info.max_model_len - num_prompt_tokens
        limits = (sampling.max_tokens, self._max_output_tokens, room if room > 0 else None)
        max_tokens = min(limit for limit in (*limits, self._engine.info.max_model_len) if limit is not None)
        return replace(sampling, max_tokens=max_tokens, min_tokens=min(sampling.min_tokens, max_tokens))


def _is_short(job: GenerationJob, prompt: Prompt, sampling: SamplingParams) -> bool:
    """Whether one prompt can be answered so soon that nobody is held up by it. Editors ask for one at a time; who sends
    many together, or wants to know how likely a prompt is, evaluates a model."""
    if sampling.prompt_logprobs is not None:
        return False
    max_tokens = sampling.max_tokens
    is_short_answer = max_tokens is not None and max_tokens <= INTERACTIVE_MAX_TOKENS
    return len(job.prompts) == 1 and len(prompt.ids) <= INTERACTIVE_PROMPT_TOKENS and is_short_answer


class _Sequence:
    """One sequence under way: its outputs, the writer of its choice, and when what happened."""

    def __init__(
        self, request: GenerationRequest, outputs: TokenStream, writer: ChoiceWriter, history: History | None
    ) -> None:
        self.request = request
        self._history = history
        self._answer = Answer()
        self.outputs = outputs
        self.writer = writer
        self.arrival = time.monotonic()
        self.first_token: float | None = None
        self.last_token: float | None = None
        self.times: RequestTimes | None = None
        self.num_preemptions = 0
        self.failed = False
        self.error_reason: ErrorReason | None = None
        self.settled = False

    def saw(self, output: TokenOutput) -> float | None:
        """Note an output; the seconds since the one before it, when both brought tokens."""
        self.times = output.times or self.times
        self.error_reason = output.error_reason
        self.num_preemptions = max(self.num_preemptions, output.num_preemptions)
        if not output.token_ids:
            return None
        before, self.last_token = self.last_token, time.monotonic()
        self.first_token = self.first_token or self.last_token
        return None if before is None else self.last_token - before

    def remember(self, output: TokenOutput, events: Sequence[GenerationEvent]) -> None:
        """Note what the answer consists of, for when it comes back. A stop string leaves less text than tokens."""
        if self._history is None:
            return
        num_ids = len(output.token_ids) - (output.finish_reason is FinishReason.STOP)
        self._answer.add(output.token_ids[:num_ids], events)
        if self.writer.finished_as in ("stop", "length", "tool_calls", "repetition") and not self.writer.is_cut:
            self._history.remember(self.request.cache_salt, self.request.prompt_ids, self._answer)

    async def close(self) -> None:
        """Abort the sequence if it still runs."""
        await self.outputs.aclose()


class Generation:
    """The events of one request, choices mixed as they come. Iterate once; `aclose` in any case."""

    def __init__(
        self,
        sequences: list[_Sequence],
        metrics: Metrics,
        num_choices: int,
        timeout_seconds: float | None,
        num_replayed: int,
    ) -> None:
        self._num_replayed = num_replayed
        self._sequences = sequences
        self._metrics = metrics
        self._num_choices = num_choices
        self._timeout_seconds = timeout_seconds
        self._deadline = None if timeout_seconds is None else asyncio.get_running_loop().time() + timeout_seconds
        self._events: deque[GenerationEvent | ApiError] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._num_running = len(sequences)
        self._pumps = [asyncio.create_task(self._pump(sequence)) for sequence in sequences]

    def __aiter__(self) -> "Generation":
        """Iterate over the events."""
        return self

    async def __anext__(self) -> GenerationEvent:
        """The next event of any choice.

        Raises:
            ApiError: the request cannot go on, whatever its choices did so far.
        """
        while not self._events:
            if not self._num_running:
                raise StopAsyncIteration
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        event = self._events.popleft()
        if isinstance(event, ApiError):
            raise event
        return event

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def abort(self) -> bool:
        """End it from outside: who reads it gets `RequestAborted`. False where nothing runs any more."""
        if not self._num_running:
            return False
        for pump in self._pumps:
            pump.cancel()
        self._events.append(RequestAborted())
        self._wake()
        return True

    async def aclose(self) -> None:
        """Stop everything that still runs. Safe to call again."""
        for pump in self._pumps:
            pump.cancel()
        await asyncio.wait(self._pumps)
        for sequence in self._sequences:  # a pump cancelled before its first step has closed nothing
            await sequence.close()
            self._settle(sequence)

    async def _pump(self, sequence: _Sequence) -> None:
        limit = asyncio.timeout_at(self._deadline)
        try:
            async with limit:
                await self._forward(sequence)
        except Exception:
            if limit.expired() and self._timeout_seconds is not None:
                self._events.append(RequestTimedOut(self._timeout_seconds))
                return
            sequence.failed = True
            logger.exception("request %s failed", sequence.request.request_id)
            self._events.append(InternalError())
        finally:
            self._num_running -= 1
            self._wake()
            await sequence.close()
            self._settle(sequence)

    async def _forward(self, sequence: _Sequence) -> None:
        async for output in sequence.outputs:
            gap = sequence.saw(output)
            if gap is not None:
                self._metrics.observe_token_gap(gap)
            events = sequence.writer.feed(output)
            sequence.remember(output, events)
            for event in events:
                if isinstance(event, GenerationFailed):
                    sequence.failed = True
                self._events.append(event)
            self._wake()
            if sequence.writer.finished:
                return
        raise RuntimeError("the engine's stream ended without a finish reason")

    def _settle(self, sequence: _Sequence) -> None:
        """Count a sequence that has come to its end, once, and its prompt with the last of its choices."""
        if sequence.settled:
            return
        sequence.settled = True
        times, writer = sequence.times, sequence.writer
        self._metrics.sequence_finished(
            SequenceRecord(
                finished_reason="error" if sequence.failed else writer.finished_as or "abort",
                error_reason=sequence.error_reason,
                num_prompt_tokens=len(sequence.request.prompt_ids),
                cache=writer.cache,
                num_generated_tokens=writer.num_generated_tokens,
                num_preemptions=sequence.num_preemptions,
                max_tokens=sequence.request.sampling.max_tokens,
                interactive=sequence.request.interactive,
                arrival=times.arrival if times else sequence.arrival,
                admitted=times.admitted if times else None,
                first_token=(times.first_token if times else None) or sequence.first_token,
                last_token=sequence.last_token,
                finished=time.monotonic(),
            )
        )
        first = writer.choice - writer.choice % self._num_choices
        siblings = self._sequences[first : first + self._num_choices]
        if all(sibling.settled for sibling in siblings):
            most = max(sibling.writer.num_generated_tokens for sibling in siblings)
            self._metrics.prompt_finished(self._num_choices, most)

    def counts(self) -> "TokenCounts":
        """The tokens so far. Each prompt counts once, however often it is answered."""
        firsts = self._sequences[:: self._num_choices]
        return TokenCounts(
            num_prompt_tokens=sum(len(s.request.prompt_ids) for s in firsts),
            num_cached_tokens=sum(s.writer.num_cached_tokens for s in firsts),
            num_generated_tokens=sum(s.writer.num_generated_tokens for s in self._sequences),
        )

    def progress(self) -> PromptProgress:
        """How far the reading of the prompts is, all of them together; the time is the longest."""
        each = [sequence.outputs.progress() for sequence in self._sequences[:: self._num_choices]]
        return PromptProgress(
            sum(one.num_prompt_tokens for one in each),
            sum(one.num_cached_tokens for one in each),
            sum(one.num_read_tokens for one in each),
            max(one.seconds for one in each),
        )

    def scored_prompt(self, choice: int) -> Sequence[TokenText]:
        """The tokens after the first of a choice's prompt, if it is to be scored: all of them, once it has events."""
        return self._sequences[choice].writer.scored_prompt

    def timings(self) -> "Timings":
        """Where the time went, so far."""
        now = time.monotonic()
        times = [sequence.times for sequence in self._sequences if sequence.times is not None]
        arrival = min(sequence.arrival for sequence in self._sequences)
        admitted = min((t.admitted for t in times if t.admitted is not None), default=now)
        first = min((s.first_token for s in self._sequences if s.first_token is not None), default=now)
        last = max((s.last_token for s in self._sequences if s.last_token is not None), default=first)
        return Timings(admitted - arrival, max(0.0, first - admitted), max(0.0, last - first))

    def cache_reports(self) -> list[dict[str, Any]]:
        """What of each prompt was at hand, and why not more of it."""
        return [_cache_report(s.request, s.writer.cache) for s in self._sequences[:: self._num_choices]]

    def log_fields(self) -> Mapping[str, Any]:
        """What the request's log line says of it: counts, times, reasons; no content."""
        firsts = [s.first_token - s.arrival for s in self._sequences if s.first_token is not None]
        admitted = [s.times.admitted - s.times.arrival for s in self._sequences if s.times and s.times.admitted]
        reasons = {"error" if s.failed else s.writer.finished_as or "abort" for s in self._sequences}
        return {
            **asdict(self.counts()),
            "num_replayed_answers": self._num_replayed,
            "cache_tier": ",".join(sorted({s.writer.cache.tier or "none" for s in self._sequences if s.writer.cache})),
            "cache_miss": ",".join(sorted({s.writer.cache.miss for s in self._sequences if s.writer.cache})),
            "finish_reason": ",".join(sorted(reasons)),
            "queue_seconds": round(max(admitted), 4) if admitted else None,
            "first_token_seconds": round(min(firsts), 4) if firsts else None,
        }


def _cache_report(request: GenerationRequest, report: CacheReport | None) -> dict[str, Any]:
    """For a client. A message's number counts from zero; the tools on offer are part of the first."""
    if report is None:
        return {"cached_tokens": 0, "known_tokens": 0, "tier": None, "miss": None, "first_different_message": None}
    differs = report.miss is MissReason.DIFFERS and bool(request.boundaries)
    return {
        "cached_tokens": report.num_cached_tokens,
        "known_tokens": report.num_known_tokens,
        "tier": report.tier,
        "miss": report.miss,
        "first_different_message": bisect_right(request.boundaries, report.num_known_tokens) if differs else None,
    }
