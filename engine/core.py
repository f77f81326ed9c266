"""`EngineCore`: requests in, token outputs out, one step at a time.

It holds the scheduler and turns its updates into what leaves the engine. It does not know how a plan is carried
out, nor anything asynchronous: `engine.async_engine` drives it, and so can a test.
"""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from engine.cache.lower_tier import LowerTier
from engine.cache.manager import CacheManager
from engine.constraints.constraints import Constraints
from engine.errors import ContextOverflow, LoadError, RequestError
from engine.plan import StepPlan, StepResult
from engine.scheduler.budget import StepBudget
from engine.scheduler.scheduler import Scheduler, SequenceUpdate
from engine.scheduler.sequence import Sequence
from engine.scheduler.turns import Turns
from engine.types import CacheTier, Constraint, GenerationRequest, TokenOutput


@dataclass(frozen=True, slots=True)
class CoreLimits:
    """The sizes a core works within; the memory planner makes them. With `max_host_bytes` and
    `max_disk_bytes` states are kept in main memory beside the cache's own, and on disk."""

    max_model_len: int
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    num_blocks: int
    block_size: int
    num_slots: int
    max_num_batched_tokens: int
    max_inter_token_gap_seconds: float
    num_checkpoints: int = 0
    max_host_bytes: int = 0
    max_disk_bytes: int = 0
    state_bytes: int = 0
    block_bytes: int = 0
    max_running_per_key: int | None = None

    def __post_init__(self) -> None:
        """Raise `LoadError` unless one sequence can fill the context: it would wait for blocks forever."""
        num_tokens = self.num_blocks * self.block_size
        if self.max_model_len > num_tokens + 1:  # the last token is drawn, but never computed
            raise LoadError(
                f"the KV cache holds {num_tokens} tokens and the context {self.max_model_len}: give the cache more "
                "memory, or lower max_model_len"
            )


class EngineCore:
    """Sequences by id, the scheduler over them, and the way back to `TokenOutput`."""

    def __init__(
        self,
        limits: CoreLimits,
        seed: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        constraints: Constraints | None = None,
    ) -> None:
        """Without `constraints` requests that have one are refused."""
        self.limits = limits
        self.constraints = constraints
        cache = CacheManager(limits.num_blocks, limits.block_size, limits.num_slots, limits.num_checkpoints, clock)
        budget = StepBudget(limits.max_num_batched_tokens, limits.max_inter_token_gap_seconds)
        self.lower = {
            tier: LowerTier(tier, cache, limits.state_bytes, limits.block_bytes, max_bytes, clock)
            for tier, max_bytes in ((CacheTier.HOST, limits.max_host_bytes), (CacheTier.DISK, limits.max_disk_bytes))
            if max_bytes
        }
        turns = Turns(limits.num_slots, limits.max_running_per_key)
        lower = tuple(self.lower.values())
        self.scheduler = Scheduler(cache, budget, limits.max_model_len, clock, lower, constraints, turns)
        self._seed = seed
        self._clock = clock
        self._next_seq_id = 0

    def validate(self, request: GenerationRequest) -> None:
        """Raise `RequestError` when the request can never be served."""
        num_tokens, limits = len(request.prompt_ids), self.limits
        if num_tokens == 0:
            raise RequestError("the prompt is empty: at least one token is needed", param="prompt")
        if num_tokens >= limits.max_model_len:
            raise ContextOverflow(num_tokens, limits.max_model_len)
        params = request.sampling
        for param, ids in (
            ("prompt", request.prompt_ids),
            ("stop_token_ids", params.stop_token_ids),
            ("logit_bias", tuple(params.logit_bias)),
            ("allowed_token_ids", params.allowed_token_ids or ()),
        ):
            if ids and not (min(ids) >= 0 and max(ids) < limits.vocab_size):
                raise RequestError(
                    f"{param} has a token id outside the vocabulary, which is 0 to {limits.vocab_size - 1}", param=param
                )
        for param, num_top in (("logprobs", params.logprobs), ("prompt_logprobs", params.prompt_logprobs)):
            if num_top is not None and num_top > limits.vocab_size:
                raise RequestError(f"{param} is {num_top}, the vocabulary has {limits.vocab_size}", param)
        if request.constraint is not None:
            self._validate_constraint(request)

    def _validate_constraint(self, request: GenerationRequest) -> None:
        assert request.constraint is not None
        if request.constraint.opening is None:
            for name in ("ignore_eos", "min_tokens"):
                if getattr(request.sampling, name):
                    raise RequestError(f"{name} is not possible where the answer has a form to end in", param=name)
        self.check(request.constraint)

    def check(self, constraint: Constraint) -> None:
        """Compile it, which may take a moment, for all who have the same. Raises `RequestError`. For any thread."""
        if self.constraints is None:
            raise RequestError("this engine has no vocabulary to hold answers to grammars with")
        self.constraints.compile(constraint)

    def add(self, request: GenerationRequest) -> Sequence:
        """Queue a validated request."""
        seed = request.sampling.seed if request.sampling.seed is not None else self._seed
        sequence = Sequence(
            seq_id=self._next_seq_id,
            request=request,
            seed=secrets.randbits(64) if seed is None else seed % 2**64,
            arrival=self._clock(),
            eos_token_ids=self.limits.eos_token_ids,
            block_size=self.limits.block_size,
        )
        self._next_seq_id += 1
        if request.constraint is not None and self.constraints is not None:
            self.constraints.open(sequence.seq_id, request.constraint)
        self.scheduler.add(sequence)
        return sequence

    def abort(self, sequence: Sequence) -> TokenOutput | None:
        """The last output of an aborted sequence, or None when it comes with the step in flight."""
        if sequence.finish_reason is not None or not self.scheduler.abort(sequence):
            return None
        return _output(SequenceUpdate(sequence))

    def schedule(self) -> StepPlan | None:
        return self.scheduler.schedule()

    def apply(self, plan: StepPlan, result: StepResult) -> list[tuple[Sequence, TokenOutput]]:
        return [(u.sequence, _output(u)) for u in self.scheduler.apply(plan, result)]

    def fail(self, error: str) -> list[tuple[Sequence, TokenOutput]]:
        """End or restart the sequences of a step that failed."""
        return [(u.sequence, _output(u)) for u in self.scheduler.fail(error)]


def _output(update: SequenceUpdate) -> TokenOutput:
    sequence = update.sequence
    return TokenOutput(
        token_ids=update.token_ids,
        logprobs=update.logprobs,
        prompt_logprobs=update.prompt_logprobs,
        finish_reason=sequence.finish_reason,
        error=sequence.error,
        error_reason=sequence.error_reason,
        cache=sequence.cache_report,
        num_preemptions=sequence.num_preemptions,
        times=sequence.times,
    )
