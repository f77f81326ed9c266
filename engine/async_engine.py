"""`AsyncEngine`: the asyncio loop around the core, and the engine's side of the boundary.

One task schedules, hands the plan to one worker thread, and enters the results; while the thread computes, the event
loop serves. Only this task and calls on the same event loop touch core, scheduler and cache, so there are no locks.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from engine.cache.checkpoints import KnownPrefix
from engine.cache.lower_tier import LowerTier
from engine.cache.manager import CacheManager
from engine.client import EngineHealth, EngineInfo, EngineStats, KeptState, LowerTierStats, StepStats, TokenStream
from engine.core import EngineCore
from engine.errors import InvariantViolation, Overloaded
from engine.filing import StateFiles
from engine.mover import Mover
from engine.plan import Executor, StepPlan, StepResult
from engine.scheduler.sequence import Sequence
from engine.types import (
    CacheTier,
    Constraint,
    ErrorReason,
    FinishReason,
    GenerationRequest,
    PromptProgress,
    TokenOutput,
)

logger = logging.getLogger(__name__)

STALL_SECONDS = 120.0
DEFAULT_RETRY_SECONDS = 2.0

StepNews = tuple[list[tuple[Sequence, TokenOutput]], StepStats | None]
NOTHING: StepNews = ([], None)


class AsyncEngine:
    """Implements `EngineClient` over a core and an executor."""

    def __init__(
        self,
        core: EngineCore,
        executor: Executor,
        info: EngineInfo,
        max_num_queued_reqs: int = 1024,
        max_num_queued_tokens: int | None = None,
        spare_work: Iterator[int] | None = None,
        files: Mapping[CacheTier, StateFiles] | None = None,
    ) -> None:
        """`files` are for the core's lower tiers, each its own. `spare_work` is done on the worker, a short piece at a
        time, while nobody waits for a next token."""
        self.info = info
        self.spare_work = spare_work
        self._core = core
        self._executor = executor
        self._max_num_queued_reqs = max_num_queued_reqs
        self._max_num_queued_tokens = max_num_queued_tokens
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="deltaloop-step")
        self._streams: dict[int, _Outputs] = {}
        self._sequences: dict[str, list[Sequence]] = {}
        self._listeners: list[Callable[[StepStats], None]] = []
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None
        self._draining = False
        self._failure: str | None = None
        self._step_started: float | None = None
        self._seconds_per_request = DEFAULT_RETRY_SECONDS
        self._num_preemptions_told = 0
        self._num_changes_told = 0
        self._untold = NOTHING
        self._movers = [Mover(lower, (files or {})[tier], self._work.set) for tier, lower in core.lower.items()]

    async def start(self) -> None:
        """Start the loop. Requests submitted before wait for it."""
        self._task = asyncio.create_task(self._run(), name="deltaloop-engine")
        for mover in self._movers:
            mover.start()

    async def check(self, constraint: Constraint) -> None:
        """See `EngineClient.check`."""
        await asyncio.to_thread(self._core.check, constraint)

    # --- the loop -------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while True:
                plan = self._core.schedule()
                self._tell_movers()
                if plan is not None:
                    await self._step(plan)
                else:
                    self._tell()
                    if not self._core.scheduler.has_work:
                        self._idle.set()
                if self.spare_work is not None and (plan is None or not plan.num_continued):
                    await self._do_spare_work(self.spare_work)
                elif plan is None:
                    self._work.clear()
                    await self._work.wait()
                    self._idle.clear()
        except asyncio.CancelledError:
            raise
        except Exception:
            logger.exception("the engine stopped")
            self._failure = "the engine stopped because of a fault of its own; its log has the details"
            self._fail_everything()
            self._idle.set()

    def _tell_movers(self) -> None:
        known, self._num_changes_told = self._num_changes_told, self._core.scheduler.cache.num_changes
        for mover in self._movers:
            mover.begin_loads()
            if known != self._num_changes_told:
                mover.notice()

    async def _do_spare_work(self, pieces: Iterator[int]) -> None:
        try:
            piece = await asyncio.get_running_loop().run_in_executor(self._worker, next, pieces, None)
        except Exception:
            logger.exception("work that was done while nobody waited failed; the rest of it is left undone")
            piece = None
        if piece is None:
            self.spare_work = None

    async def _step(self, plan: StepPlan) -> None:
        """Have a plan carried out. Clients hear of it when the next step is under way: they can wait for a millisecond,
        the computation should not."""
        self._step_started = time.monotonic()
        stats = None
        loop = asyncio.get_running_loop()
        on_begun = partial(loop.call_soon_threadsafe, self._tell)
        try:
            result = await loop.run_in_executor(self._worker, self._executor.execute, plan, on_begun)
        except InvariantViolation:
            raise
        except Exception as error:
            logger.exception("step %d failed", plan.step)
            outputs = self._core.fail(f"the computation failed: {type(error).__name__}")
        else:
            outputs = self._core.apply(plan, result)
            stats = self._step_stats(plan, result)
        finally:
            self._step_started = None
            self._tell()
        self._untold = outputs, stats

    def _tell(self) -> None:
        """Tell clients and listeners what the last step brought, if they have not heard of it."""
        (outputs, stats), self._untold = self._untold, NOTHING
        for sequence, output in outputs:
            self._emit(sequence, output)
        if stats is not None:
            self._tell_listeners(stats)

    def _emit(self, sequence: Sequence, output: TokenOutput) -> None:
        if output.finish_reason is not None:
            self._forget(sequence)
            if sequence.admitted is not None:
                seconds = time.monotonic() - sequence.admitted
                self._seconds_per_request += 0.2 * (seconds - self._seconds_per_request)
            stream = self._streams.pop(sequence.seq_id, None)
        else:
            stream = self._streams.get(sequence.seq_id)
        if stream is not None:
            stream.put(output)

    def _step_stats(self, plan: StepPlan, result: StepResult) -> StepStats:
        num_tokens = plan.num_tokens
        told, self._num_preemptions_told = self._num_preemptions_told, self._core.scheduler.num_preemptions
        return StepStats(
            num_tokens=num_tokens,
            num_prompt_tokens=num_tokens - plan.num_continued,
            num_generated_tokens=sum(len(r.token_ids) for r in result.sequences),
            num_preemptions=self._num_preemptions_told - told,
            seconds=result.seconds,
        )

    def _tell_listeners(self, stats: StepStats) -> None:
        for listener in self._listeners:
            try:
                listener(stats)
            except Exception:
                logger.exception("a step listener failed")

    def _fail_everything(self) -> None:
        self._tell()
        output = TokenOutput((), finish_reason=FinishReason.ERROR, error=self._failure, error_reason=ErrorReason.ENGINE)
        for sequences in list(self._sequences.values()):
            for sequence in list(sequences):
                self._emit(sequence, output)

    # --- EngineClient ---------------------------------------------------------------------------------------------

    def submit(self, request: GenerationRequest) -> TokenStream:
        """See `EngineClient.submit`."""
        self._core.validate(request)
        self._check_admission(request)
        sequence = self._core.add(request)
        stream = self._streams[sequence.seq_id] = _Outputs(self, sequence)
        self._sequences.setdefault(request.request_id, []).append(sequence)
        self._idle.clear()
        self._work.set()
        return stream

    def _check_admission(self, request: GenerationRequest) -> None:
        if self._failure is not None:
            raise Overloaded(self._failure, "failed", DEFAULT_RETRY_SECONDS)
        if self._draining:
            raise Overloaded("the server is shutting down", "draining", DEFAULT_RETRY_SECONDS)
        ahead = self._core.scheduler.waiting_before(request)
        if len(ahead) >= self._max_num_queued_reqs:
            raise Overloaded(f"{len(ahead)} requests wait already", "max_num_queued_reqs", self._expected_wait())
        num_tokens, limit = sum(len(s.tokens) for s in ahead), self._max_num_queued_tokens
        if limit is not None and ahead and num_tokens + len(request.prompt_ids) > limit:
            raise Overloaded(f"{num_tokens} prompt tokens wait already", "max_num_queued_tokens", self._expected_wait())

    def _expected_wait(self) -> float:
        """Seconds until a place in the line is likely free: recent time per request over those that run at once."""
        return max(1.0, self._seconds_per_request / max(1, len(self._core.scheduler.running)))

    def _num_waiting_tokens(self) -> int:
        return sum(len(s.tokens) for s in self._core.scheduler.waiting)

    def abort(self, request_id: str, owner: str = "") -> bool:
        """See `EngineClient.abort`."""
        sequences = [s for s in self._sequences.get(request_id, ()) if s.request.owner == owner]
        for sequence in sequences:
            self._abort(sequence)
        return bool(sequences)

    def _abort(self, sequence: Sequence) -> None:
        if self._failure is not None:
            return
        self._tell()
        output = self._core.abort(sequence)
        if output is not None:
            self._emit(sequence, output)
            self._work.set()  # it may have been the last that something was waited for

    def _release(self, sequence: Sequence) -> None:
        """The client no longer listens."""
        self._streams.pop(sequence.seq_id, None)
        self._abort(sequence)

    def _forget(self, sequence: Sequence) -> None:
        remaining = self._sequences.get(sequence.request.request_id, [])
        if sequence in remaining:
            remaining.remove(sequence)
        if not remaining:
            self._sequences.pop(sequence.request.request_id, None)

    async def drain(self, timeout_seconds: float) -> bool:
        """See `EngineClient.drain`."""
        self._draining = True
        if self._failure is not None or self._task is None:
            return not self._sequences
        if self._idle.is_set():
            return True
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_seconds)
        except TimeoutError:
            for sequence in [s for sequences in self._sequences.values() for s in sequences]:
                self._abort(sequence)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), STALL_SECONDS)
            return False
        return self._failure is None

    async def close(self) -> None:
        """See `EngineClient.close`."""
        await self.drain(0.0)
        stuck = self._step_started is not None
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await asyncio.gather(*(mover.close() for mover in self._movers))
        self._failure = self._failure or "the engine was closed"
        self._fail_everything()
        self._worker.shutdown(wait=not stuck)
        if self._core.constraints is not None:
            self._core.constraints.shut_down()

    def stats(self) -> EngineStats:
        """See `EngineClient.stats`."""
        scheduler = self._core.scheduler
        return EngineStats(
            num_running=len(scheduler.running),
            num_waiting=len(scheduler.waiting),
            num_waiting_tokens=self._num_waiting_tokens(),
            kv_cache_usage=scheduler.cache.usage,
            num_slots_used=scheduler.cache.num_slots_used,
            num_blocks_free=scheduler.cache.num_blocks_free,
            num_checkpoints_kept=scheduler.cache.num_checkpoints_kept,
            num_evictions=scheduler.cache.num_evictions,
            num_held_back=scheduler.num_held_back,
            kept_memory_bytes=scheduler.cache.num_checkpoints_kept * self.info.state_slot_bytes
            + scheduler.cache.num_blocks_kept * self.info.kv_cache_bytes // self.info.num_blocks,
            **{str(tier): _lower_tier_stats(lower) for tier, lower in self._core.lower.items()},
        )

    def kept_states(self) -> list[KeptState]:
        """See `EngineClient.kept_states`."""
        kept = [_kept_state(checkpoint, CacheTier.MEMORY) for checkpoint in self._core.scheduler.cache.checkpoints]
        nearer: list[CacheManager | LowerTier] = [self._core.scheduler.cache]
        for tier, lower in self._core.lower.items():
            kept += [
                _kept_state(filed, tier)
                for filed in lower.filed
                if not any(other.has(filed.lineage, filed.position) for other in nearer)
            ]
            nearer.append(lower)
        return sorted(kept, key=lambda state: -state.num_tokens)

    def forget_kept_states(self, salted: Callable[[str], bool], tiers: Collection[CacheTier] = tuple(CacheTier)) -> int:
        """See `EngineClient.forget_kept_states`."""
        before = len(self.kept_states())
        if CacheTier.MEMORY in tiers:
            self._core.scheduler.cache.forget(salted)
        for tier, lower in self._core.lower.items():
            if tier in tiers:
                lower.forget(salted)
        for mover in self._movers:
            mover.tidy()
        return before - len(self.kept_states())

    def health(self) -> EngineHealth:
        """Alive while the loop runs and no step has been under way for two minutes."""
        reason = self._failure
        if reason is None and (self._task is None or self._task.done()):
            reason = "the engine is not running"
        if reason is None and self._step_started is not None and time.monotonic() - self._step_started > STALL_SECONDS:
            reason = f"a step has been running for more than {STALL_SECONDS:.0f} seconds"
        return EngineHealth(alive=reason is None, accepting=reason is None and not self._draining, reason=reason)

    def add_step_listener(self, listener: Callable[[StepStats], None]) -> None:
        """See `EngineClient.add_step_listener`."""
        self._listeners.append(listener)


def _lower_tier_stats(lower: LowerTier) -> LowerTierStats:
    return LowerTierStats(len(lower), lower.num_bytes, lower.max_bytes, lower.num_evictions, lower.lag_seconds)


def _kept_state(known: KnownPrefix, tier: CacheTier) -> KeptState:
    return KeptState(
        salt=known.lineage.salt,
        num_tokens=known.position,
        num_beyond=known.num_beyond,
        is_answer=known.is_answer,
        num_turns=known.num_turns,
        num_hits=known.num_hits,
        idle_seconds=time.monotonic() - known.last_used,
        tier=tier,
    )


class _Outputs:
    """One sequence's outputs, a `TokenStream`. Unlike a generator it can be closed before it was ever awaited."""

    def __init__(self, engine: AsyncEngine, sequence: Sequence) -> None:
        self._engine = engine
        self._sequence = sequence
        self._waiting: deque[TokenOutput] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._ended = False

    def put(self, output: TokenOutput) -> None:
        """Hand over an output."""
        self._waiting.append(output)
        self._wake()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def __aiter__(self) -> "_Outputs":
        return self

    async def __anext__(self) -> TokenOutput:
        while not self._waiting and not self._ended:
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            except asyncio.CancelledError:
                await self.aclose()
                raise
        if self._ended:
            raise StopAsyncIteration
        output = self._waiting.popleft()
        if output.finish_reason is not None:
            await self.aclose()
        return output

    def progress(self) -> PromptProgress:
        return self._sequence.progress(time.monotonic())

    async def aclose(self) -> None:
        if not self._ended:
            self._ended = True
            self._wake()  # whoever still waits for an output
            self._engine._release(self._sequence)
