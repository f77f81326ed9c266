"""An `EngineClient` without a model: it plays a script for every request and remembers what was asked of it."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field

from engine.client import EngineHealth, EngineInfo, EngineStats, KeptState, ModelFacts, StepStats
from engine.errors import ContextOverflow, EngineError, Overloaded, RequestError
from engine.types import (
    CacheReport,
    CacheTier,
    Constraint,
    FinishReason,
    GenerationRequest,
    MissReason,
    PromptProgress,
    RequestTimes,
    TokenLogprobs,
    TokenOutput,
)
from tests.support.tiny_text_model import tiny_model

TOKENIZER = tiny_model().tokenizer
EOS = TOKENIZER.token_to_id("<|im_end|>") or 0
INFO = EngineInfo(
    max_model_len=4096,
    vocab_size=TOKENIZER.max_id + 1,
    eos_token_ids=(EOS,),
    num_slots=4,
    num_blocks=256,
    block_size=64,
    kv_cache_bytes=1 << 20,
    state_slot_bytes=1 << 10,
    device="cpu",
    dtype="float32",
    model=ModelFacts(
        architecture="qwen3next",
        container="gguf",
        weight_format="Q4_K",
        fingerprint="0123456789abcdef" * 4,
        modified=1_790_000_000.25,
        num_bytes=48_000_000_000,
        num_parameters=79_674_391_296,
        num_trained_positions=262_144,
        num_layers=48,
        hidden_size=2048,
        num_attention_heads=16,
        num_key_value_heads=2,
        num_experts=512,
        num_experts_per_tok=10,
    ),
)


@dataclass(frozen=True)
class Wait:
    """A step that takes its time."""

    seconds: float


Step = TokenOutput | Wait | Exception
Script = Callable[[GenerationRequest], Iterable[Step]]


def say(text: str, *, delay: float = 0.0, before: float = 0.0, per_step: int = 1, cached: int = 0) -> Script:
    """Answer every request with `text`, `per_step` tokens at a time, minding limits and stop tokens like an engine."""
    ids = TOKENIZER.encode(text, parse_special=True)

    def script(request: GenerationRequest) -> Iterator[Step]:
        if before:
            yield Wait(before)
        yield from _play(request, [*ids, EOS], delay, per_step, cached)

    return script


def _play(
    request: GenerationRequest, ids: list[int], delay: float, per_step: int, cached: int
) -> Iterator[TokenOutput | Wait]:
    sampling = request.sampling
    ends = set(sampling.stop_token_ids) | (set() if sampling.ignore_eos else {EOS})
    stop_at = next((n for n, i in enumerate(ids) if i in ends), len(ids) - 1)
    ids = ids[: stop_at + 1]
    if sampling.prompt_logprobs is not None:
        scores = [_logprobs(i, sampling.prompt_logprobs) for i in request.prompt_ids[1:]]
        for start in range(0, len(scores), 3):
            yield TokenOutput((), prompt_logprobs=tuple(scores[start : start + 3]))
    if sampling.max_tokens == 0:
        yield TokenOutput((), finish_reason=FinishReason.LENGTH, cache=_report(cached))
    limit = len(ids) if sampling.max_tokens is None else sampling.max_tokens
    reason = FinishReason.STOP if len(ids) <= limit else FinishReason.LENGTH
    ids = ids[:limit]
    for start in range(0, len(ids), per_step):
        if delay:
            yield Wait(delay)
        step = tuple(ids[start : start + per_step])
        logprobs = tuple(_logprobs(i, sampling.logprobs) for i in step) if sampling.logprobs is not None else ()
        last = start + per_step >= len(ids)
        now = time.monotonic()
        yield TokenOutput(
            step,
            logprobs,
            finish_reason=reason if last else None,
            cache=_report(cached),
            times=RequestTimes(now, now, now, now) if last else None,
        )


def _logprobs(token_id: int, k: int | None) -> TokenLogprobs:
    return TokenLogprobs(token_id, -0.25, tuple((token_id + n, -0.25 - n) for n in range(k or 0)))


def play(*steps: Step) -> Script:
    """The same steps for every request."""
    return lambda request: steps


def fail_after(text: str, message: str = "the device failed") -> Script:
    outputs = [TokenOutput((i,)) for i in TOKENIZER.encode(text, parse_special=True)]
    return play(*outputs, TokenOutput((), finish_reason=FinishReason.ERROR, error=message))


@dataclass
class ScriptedEngine:
    """`refusal`, when set, meets every submission. `requests`, `closed`, `aborted` tell what happened."""

    script: Script = field(default_factory=lambda: say("Hello"))
    refusal: EngineError | None = None
    constraint_error: str | None = None
    info: EngineInfo = INFO
    alive: bool = True
    accepting: bool = True
    requests: list[GenerationRequest] = field(default_factory=list)
    running: "list[ScriptedStream]" = field(default_factory=list)
    listeners: list[Callable[[StepStats], None]] = field(default_factory=list)
    kept: list[KeptState] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._idle = asyncio.Event()
        self._idle.set()

    async def start(self) -> None: ...

    def submit(self, request: GenerationRequest) -> "ScriptedStream":
        if self.refusal is not None:
            raise self.refusal
        if not self.accepting:
            raise Overloaded("the server is shutting down", "draining", 2.0)
        if not request.prompt_ids:
            raise RequestError("the prompt is empty: at least one token is needed", param="prompt")
        if len(request.prompt_ids) >= self.info.max_model_len:
            raise ContextOverflow(len(request.prompt_ids), self.info.max_model_len)
        self.requests.append(request)
        stream = ScriptedStream(self, request)
        self.running.append(stream)
        self._idle.clear()
        return stream

    def forget(self, stream: "ScriptedStream") -> None:
        if stream in self.running:
            self.running.remove(stream)
        if not self.running:
            self._idle.set()

    def abort(self, request_id: str, owner: str = "") -> bool:
        mine = [s for s in self.running if (s.request.request_id, s.request.owner) == (request_id, owner)]
        for stream in mine:
            stream.aborted.set()
        return bool(mine)

    async def drain(self, timeout_seconds: float) -> bool:
        self.accepting = False
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), timeout_seconds)
        finished = not self.running
        for stream in self.running:
            stream.aborted.set()
        return finished

    async def close(self) -> None:
        await self.drain(0.0)

    async def check(self, constraint: Constraint) -> None:
        if self.constraint_error is not None:
            raise RequestError(self.constraint_error)

    def stats(self) -> EngineStats:
        return EngineStats(len(self.running), 0, 0, 0.5, len(self.running), self.info.num_blocks, len(self.kept), 5)

    def kept_states(self) -> list[KeptState]:
        return list(self.kept)

    def forget_kept_states(self, salted: Callable[[str], bool], tiers: Collection[CacheTier] = ()) -> int:
        num_kept = len(self.kept)
        self.kept = [state for state in self.kept if not salted(state.salt)]
        return num_kept - len(self.kept)

    def health(self) -> EngineHealth:
        return EngineHealth(self.alive, self.accepting, None if self.alive else "the engine stopped")

    def add_step_listener(self, listener: Callable[[StepStats], None]) -> None:
        self.listeners.append(listener)


class ScriptedStream:
    def __init__(self, engine: ScriptedEngine, request: GenerationRequest) -> None:
        self.request = request
        self.aborted = asyncio.Event()
        self._engine = engine
        self._steps = iter(engine.script(request))

    def __aiter__(self) -> "ScriptedStream":
        return self

    async def __anext__(self) -> TokenOutput:
        await asyncio.sleep(0)
        for step in self._steps:
            if isinstance(step, Wait):
                await self._wait(step.seconds)
            if self.aborted.is_set():
                await self.aclose()
                return TokenOutput((), finish_reason=FinishReason.ABORT)
            if isinstance(step, Exception):
                raise step
            if isinstance(step, TokenOutput):
                for listener in self._engine.listeners:
                    listener(StepStats(len(step.token_ids), 0, len(step.token_ids), 0, 0.001))
                if step.finish_reason is not None:
                    await self.aclose()
                return step
        raise StopAsyncIteration

    async def _wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.aborted.wait(), seconds)

    def progress(self) -> PromptProgress:
        return PromptProgress(len(self.request.prompt_ids), 0, 0, 0.0)

    async def aclose(self) -> None:
        self._steps = iter(())
        self._engine.forget(self)


def _report(num_cached: int) -> CacheReport:
    if not num_cached:
        return CacheReport(0, 0, MissReason.NEW)
    return CacheReport(num_cached, num_cached, MissReason.DIFFERS, CacheTier.MEMORY)
