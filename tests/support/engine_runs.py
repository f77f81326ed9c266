"""A core and a hash model of the same sizes, and a few lines to run them to the end."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from engine.client import EngineInfo
from engine.core import CoreLimits, EngineCore
from engine.errors import ExecutorError
from engine.plan import StepPlan
from engine.scheduler.sequence import Sequence
from engine.types import FinishReason, GenerationRequest, SamplingParams, TokenLogprobs, TokenOutput
from tests.support.hash_model import (
    EOS_TOKEN_IDS,
    VOCAB_SIZE,
    HashModel,
    Hook,
    expected_scores,
    expected_tokens,
    no_hook,
)

SEED = 5


def limits(
    *,
    num_blocks: int = 64,
    block_size: int = 4,
    num_slots: int = 4,
    max_model_len: int = 128,
    max_num_batched_tokens: int = 512,
    max_inter_token_gap_seconds: float = 0.25,
    num_checkpoints: int = 0,
    max_host_bytes: int = 0,
    max_disk_bytes: int = 0,
    max_running_per_key: int | None = None,
) -> CoreLimits:
    """Sizes of a small engine. A token takes ten bytes of KV, and a state as much as a hundred tokens."""
    return CoreLimits(
        max_model_len=max_model_len,
        vocab_size=VOCAB_SIZE,
        eos_token_ids=EOS_TOKEN_IDS,
        num_blocks=num_blocks,
        block_size=block_size,
        num_slots=num_slots,
        max_num_batched_tokens=max_num_batched_tokens,
        max_inter_token_gap_seconds=max_inter_token_gap_seconds,
        num_checkpoints=num_checkpoints,
        max_host_bytes=max_host_bytes,
        max_disk_bytes=max_disk_bytes,
        max_running_per_key=max_running_per_key,
        state_bytes=1000,
        block_bytes=10 * block_size,
    )


def engine_info(sizes: CoreLimits) -> EngineInfo:
    """What such an engine says of itself."""
    return EngineInfo(
        max_model_len=sizes.max_model_len,
        vocab_size=sizes.vocab_size,
        eos_token_ids=sizes.eos_token_ids,
        num_slots=sizes.num_slots,
        num_blocks=sizes.num_blocks,
        block_size=sizes.block_size,
        kv_cache_bytes=sizes.num_blocks * sizes.block_bytes,
        state_slot_bytes=sizes.state_bytes,
        device="none",
        dtype="hashes",
    )


def prompt(num_tokens: int, start: int = 1) -> tuple[int, ...]:
    """A prompt that another `start` shares no token sequence with."""
    return tuple(hash((start, i)) % VOCAB_SIZE for i in range(num_tokens))


def fixed_length(num_tokens: int, **params: object) -> SamplingParams:
    """Sampling that generates this many tokens, whatever is drawn."""
    return SamplingParams(max_tokens=num_tokens, ignore_eos=True, **params)  # type: ignore[arg-type]


def expected(request: GenerationRequest, max_model_len: int = 128) -> tuple[tuple[int, ...], FinishReason]:
    """What the request generates alone."""
    seed = SEED if request.sampling.seed is None else request.sampling.seed
    return expected_tokens(
        request.prompt_ids, request.sampling, seed=seed, choice=request.choice, max_model_len=max_model_len
    )


@dataclass
class Run:
    """Drives a core without asyncio; `outputs` are by the order in which requests were added."""

    limits: CoreLimits = field(default_factory=limits)
    before_step: Hook = no_hook
    outputs: dict[int, list[TokenOutput]] = field(default_factory=dict)
    now: float = 0.0

    def __post_init__(self) -> None:
        self.core = EngineCore(self.limits, seed=SEED, clock=lambda: self.now)
        self.scheduler = self.core.scheduler
        self.cache = self.scheduler.cache
        self.model = HashModel(
            self.limits.num_blocks,
            self.limits.block_size,
            self.limits.num_slots,
            self.limits.num_checkpoints,
            before_step=self.before_step,
        )

    def add(
        self,
        prompt_ids: tuple[int, ...],
        sampling: SamplingParams | None = None,
        *,
        choice: int = 0,
        priority: int = 0,
        boundaries: tuple[int, ...] = (),
        salt: str = "",
        session: str | None = None,
        interactive: bool = False,
        owner: str = "",
    ) -> Sequence:
        """Queue a request."""
        request = GenerationRequest(
            "request",
            prompt_ids,
            sampling or SamplingParams(),
            choice,
            priority,
            boundaries,
            salt,
            session,
            interactive=interactive,
            owner=owner,
        )
        self.core.validate(request)
        sequence = self.core.add(request)
        self.outputs[sequence.seq_id] = []
        return sequence

    def abort(self, sequence: Sequence) -> TokenOutput | None:
        """Abort, and note the last output if it comes at once."""
        output = self.core.abort(sequence)
        if output is not None:
            self.outputs[sequence.seq_id].append(output)
        return output

    def step(self) -> StepPlan | None:
        """One step, if there is something to do."""
        plan = self.core.schedule()
        if plan is not None:
            self.finish_step(plan)
        return plan

    def finish_step(self, plan: StepPlan) -> None:
        """Carry out a plan and enter what came of it."""
        self.now += 0.01
        try:
            result = self.model.execute(plan)
        except ExecutorError as error:
            outputs = self.core.fail(str(error))
        else:
            outputs = self.core.apply(plan, result)
        for sequence, output in outputs:
            self.outputs[sequence.seq_id].append(output)
        self.scheduler.check()

    def finish(self, max_steps: int = 10_000) -> list[StepPlan]:
        """Step until nothing is left to do, and see that everything was given back."""
        plans = []
        while (plan := self.step()) is not None:
            plans.append(plan)
            assert len(plans) < max_steps, "no end in sight"
        assert not self.scheduler.has_work
        assert (self.cache.num_blocks_free, self.cache.num_slots_used) == (self.cache.num_blocks, 0)
        return plans

    def answer(self, sequence: Sequence) -> tuple[tuple[int, ...], FinishReason | None]:
        """Tokens and finish reason so far, as a client sees them."""
        outputs = self.outputs[sequence.seq_id]
        assert all(o.finish_reason is None for o in outputs[:-1])
        return tuple(t for o in outputs for t in o.token_ids), outputs[-1].finish_reason if outputs else None

    def scores(self, sequence: Sequence) -> tuple[TokenLogprobs, ...]:
        """The log-probabilities of its prompt so far."""
        return tuple(s for o in self.outputs[sequence.seq_id] for s in o.prompt_logprobs)

    def assert_as_alone(self, sequences: Iterable[Sequence]) -> None:
        """Each of these got what it would have got alone."""
        for sequence in sequences:
            assert self.answer(sequence) == expected(sequence.request, self.limits.max_model_len)
            assert self.scores(sequence) == expected_scores(sequence.request.prompt_ids, sequence.request.sampling)
