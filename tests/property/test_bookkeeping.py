"""The promise: the same request gives the same tokens and scores, whatever else the engine is doing.

Random workloads drive `EngineCore` step by step, with a fake clock, over pools that are far too small. The executor
is made of hashes, so any slip in the bookkeeping of blocks, slots and positions changes a token.
"""

from dataclasses import dataclass, field, replace

from hypothesis import event, given, settings
from hypothesis import strategies as st

from engine.core import CoreLimits, EngineCore
from engine.errors import ExecutorError
from engine.plan import StepPlan, StepResult
from engine.scheduler.sequence import Sequence
from engine.types import FinishReason, GenerationRequest, RepetitionDetection, SamplingParams, TokenOutput
from tests.support.hash_model import EOS_TOKEN_IDS, VOCAB_SIZE, HashModel, expected_scores, expected_tokens

ENGINE_SEED = 5


@dataclass(frozen=True)
class Arrival:
    """A request, the step before which it comes, and when it is aborted, counted in steps from then, if at all."""

    step: int
    request: GenerationRequest
    abort_after: int | None
    abort_in_flight: bool


@dataclass(frozen=True)
class Workload:
    limits: CoreLimits
    arrivals: tuple[Arrival, ...]
    base_seconds: float
    token_seconds: float

    def seconds(self, plan: StepPlan) -> float:
        return self.base_seconds + self.token_seconds * plan.num_tokens


token_ids = st.integers(0, VOCAB_SIZE - 1)


@st.composite
def repetition_detections(draw: st.DrawFn) -> RepetitionDetection:
    smallest = draw(st.integers(1, 3))
    return RepetitionDetection(
        max_pattern_size=draw(st.integers(smallest, 6)),
        min_pattern_size=smallest,
        min_count=draw(st.integers(2, 4)),
        min_repeated_tokens=draw(st.sampled_from([0, 0, 5])),
    )


@st.composite
def sampling_params(draw: st.DrawFn) -> SamplingParams:
    max_tokens = draw(st.none() | st.integers(0, 60))
    min_tokens = draw(st.just(0) | st.integers(0, 60 if max_tokens is None else max_tokens))
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=draw(st.sampled_from([0.0, 1.0])),
        frequency_penalty=draw(st.sampled_from([0.0, 0.0, 0.5])),
        seed=draw(st.none() | st.integers(-3, 3)),
        prompt_logprobs=draw(st.none() | st.integers(0, 2)),
        stop_token_ids=tuple(draw(st.lists(token_ids, max_size=2))),
        min_tokens=min_tokens,
        ignore_eos=draw(st.sampled_from([False, True, True])),
        # few enough for repetitions, and more than can be barred at once
        allowed_token_ids=draw(st.none() | st.just((0, 1, 2, 3))),
        repetition_detection=draw(st.none() | repetition_detections()),
    )


@st.composite
def arrivals(draw: st.DrawFn, max_model_len: int) -> Arrival:
    num_tokens = draw(st.integers(1, max_model_len - 1) | st.integers(1, min(12, max_model_len - 1)))
    prompt_seed = draw(st.integers(1, 10**6))
    return Arrival(
        step=draw(st.just(0) | st.integers(0, 40)),
        request=GenerationRequest(
            request_id="request",
            prompt_ids=tuple(hash((prompt_seed, i)) % VOCAB_SIZE for i in range(num_tokens)),
            sampling=draw(sampling_params()),
            choice=draw(st.integers(0, 1)),
            priority=draw(st.sampled_from([0, 0, 0, 1, -1])),
        ),
        abort_after=draw(st.none() | st.none() | st.integers(0, 60)),
        abort_in_flight=draw(st.booleans()),
    )


@st.composite
def workloads(draw: st.DrawFn, aborts: bool = True) -> Workload:
    block_size = draw(st.sampled_from([1, 2, 4, 16]))
    num_blocks = draw(st.integers(3, 12) | st.integers(12, 300 // block_size))
    limits = CoreLimits(
        max_model_len=draw(st.integers(2, num_blocks * block_size) | st.just(num_blocks * block_size + 1)),
        vocab_size=VOCAB_SIZE,
        eos_token_ids=EOS_TOKEN_IDS,
        num_blocks=num_blocks,
        block_size=block_size,
        num_slots=draw(st.integers(1, 4)),
        max_num_batched_tokens=draw(st.integers(1, 4) | st.integers(5, 24) | st.sampled_from([64, 512])),
        max_inter_token_gap_seconds=draw(st.sampled_from([0.001, 0.05, 0.25])),
    )
    chosen = draw(st.lists(arrivals(limits.max_model_len), min_size=2, max_size=8))
    if not aborts:
        chosen = [replace(a, abort_after=None) for a in chosen]
    return Workload(
        limits=limits,
        arrivals=tuple(sorted(chosen, key=lambda a: a.step)),
        base_seconds=draw(st.sampled_from([0.0, 0.001, 0.1])),
        token_seconds=draw(st.sampled_from([1e-5, 1e-4, 5e-3])),
    )


@dataclass
class Driver:
    """Plays a workload and holds every step against the rules of the scheduler."""

    workload: Workload
    outputs: dict[int, list[TokenOutput]] = field(default_factory=dict)
    sequences: list[Sequence] = field(default_factory=list)
    now: float = 0.0

    def __post_init__(self) -> None:
        limits = self.workload.limits
        self.core = EngineCore(limits, seed=ENGINE_SEED, clock=lambda: self.now)
        self.scheduler = self.core.scheduler
        self.model = HashModel(
            limits.num_blocks,
            limits.block_size,
            limits.num_slots,
            limits.num_checkpoints,
            step_seconds=self.workload.seconds,
        )

    def run(self) -> None:
        """Play until nothing is left. Whoever comes first makes headway in every step, so the end comes in time."""
        total = sum(self.most_tokens(a.request) for a in self.workload.arrivals)
        for step in range(50 + total * len(self.workload.arrivals)):
            self.arrive(step)
            self.abort(step, in_flight=False)
            plan = self.schedule()
            self.abort(step, in_flight=True)
            if plan is not None:
                self.carry_out(plan)
            self.scheduler.check()
            assert plan is not None or not self.scheduler.has_work, "work is left, but no step comes"
            if plan is None and len(self.sequences) == len(self.workload.arrivals):
                return
        raise AssertionError("the workload does not come to an end")

    def most_tokens(self, request: GenerationRequest) -> int:
        most = self.workload.limits.max_model_len
        max_tokens = request.sampling.max_tokens
        return min(most, len(request.prompt_ids) + (most if max_tokens is None else max_tokens))

    def arrive(self, step: int) -> None:
        for arrival in self.workload.arrivals[len(self.sequences) :]:
            if arrival.step > step:
                return
            self.core.validate(arrival.request)
            sequence = self.core.add(arrival.request)
            self.sequences.append(sequence)
            self.outputs[sequence.seq_id] = []

    def abort(self, step: int, *, in_flight: bool) -> None:
        for arrival, sequence in zip(self.workload.arrivals, self.sequences, strict=False):
            due = arrival.abort_after is not None and arrival.step + arrival.abort_after == step
            if due and arrival.abort_in_flight is in_flight:
                output = self.core.abort(sequence)
                if output is not None:
                    self.outputs[sequence.seq_id].append(output)

    def schedule(self) -> StepPlan | None:
        scheduler, cache = self.scheduler, self.scheduler.cache
        before, waiting = list(scheduler.running), list(scheduler.waiting)
        num_preemptions, num_free = scheduler.num_preemptions, cache.num_blocks_free
        held = {s.seq_id: len(s.allocation.block_ids) for s in before if s.allocation is not None}
        missing = sum(cache.num_blocks_for(len(s.tokens)) - held[s.seq_id] for s in before)

        plan = self.core.schedule()

        scheduler.check()
        is_needed = missing > num_free or any(s.request.interactive for s in waiting)
        assert scheduler.num_preemptions == num_preemptions or is_needed, "preempted with blocks to spare"
        for sequence in scheduler.running:
            if sequence not in before:
                passed = [other for other in scheduler.waiting if other.order < sequence.order]
                assert all(self.may_pass(sequence, other, before) for other in passed), "admitted out of turn"
        if plan is not None:
            self.check_plan(plan)
            decoding = [s.seq_id for s in before if s.num_uncomputed_tokens == 1 and s in scheduler.running]
            first = [s.seq_id for s in plan.sequences[: len(decoding)]]
            is_alone = any(s.suspect for s in scheduler.running)  # the only one in the step, after one that failed
            assert first == decoding or is_alone, "decoding sequences come first"
        return plan

    def may_pass(self, sequence: Sequence, other: Sequence, before: list[Sequence]) -> bool:
        """Whether one that came later may be admitted before another."""
        is_ahead = sequence.request.interactive and sequence.request.priority == other.request.priority
        return is_ahead or self.has_enough(other, before) or self.shares_a_prefix(other)

    def has_enough(self, sequence: Sequence, before: list[Sequence]) -> bool:
        """Whether as many of its owner's run as may, or did until the others were admitted."""
        most = self.workload.limits.max_running_per_key
        owners = [s.request.owner for s in {*before, *self.scheduler.running}]
        return most is not None and owners.count(sequence.request.owner) >= most

    def shares_a_prefix(self, sequence: Sequence) -> bool:
        """With another that runs, whose checkpoint it may wait for."""
        first = sequence.tokens[:1]
        return self.workload.limits.num_checkpoints > 0 and any(s.tokens[:1] == first for s in self.scheduler.running)

    def check_plan(self, plan: StepPlan) -> None:
        limits = self.workload.limits
        assert 0 < plan.num_tokens <= limits.max_num_batched_tokens
        assert len({s.slot for s in plan.sequences}) == len({s.seq_id for s in plan.sequences}) == len(plan.sequences)
        written = [block_id for s in plan.sequences for block_id in s.block_ids[s.start // limits.block_size :]]
        assert len(written) == len(set(written))
        for s in plan.sequences:
            assert set(s.block_ids[: s.start // limits.block_size]).isdisjoint(written)
        slots = [s.slot for s in plan.sequences] + [t.to_slot for s in plan.sequences for t in s.snapshots]
        assert len(slots) == len(set(slots))
        assert all(s.restore.from_slot not in slots for s in plan.sequences if s.restore is not None)
        running = {s.seq_id: s for s in self.scheduler.running}
        for scheduled in plan.sequences:
            sequence, end = running[scheduled.seq_id], scheduled.start + len(scheduled.token_ids)
            assert len(scheduled.block_ids) == -(-end // limits.block_size)
            is_drawn = end == len(sequence.tokens) and sequence.request.sampling.max_tokens != 0
            assert (scheduled.sample is not None) == is_drawn

    def carry_out(self, plan: StepPlan) -> None:
        try:
            result = self.model.execute(plan)
        except ExecutorError as error:
            for sequence, output in self.core.fail(str(error)):
                self.outputs[sequence.seq_id].append(output)
        else:
            self.apply(plan, result)

    def apply(self, plan: StepPlan, result: StepResult) -> None:
        self.now += result.seconds
        for sequence, output in self.core.apply(plan, result):
            self.outputs[sequence.seq_id].append(output)

    def check_outputs(self) -> None:
        """Everyone got what it would have got alone, or the beginning of that."""
        for sequence in self.sequences:
            request, outputs = sequence.request, self.outputs[sequence.seq_id]
            expected, reason = expected_tokens(
                request.prompt_ids,
                request.sampling,
                seed=ENGINE_SEED if request.sampling.seed is None else request.sampling.seed,
                choice=request.choice,
                max_model_len=self.workload.limits.max_model_len,
            )
            tokens = tuple(t for output in outputs for t in output.token_ids)
            scores = tuple(s for output in outputs for s in output.prompt_logprobs)
            expected_prompt = expected_scores(request.prompt_ids, request.sampling)
            assert all(output.finish_reason is None for output in outputs[:-1])
            if outputs[-1].finish_reason in (FinishReason.ABORT, FinishReason.ERROR):
                assert tokens == expected[: len(tokens)]
                assert scores == expected_prompt[: len(scores)]
            else:
                assert (tokens, outputs[-1].finish_reason) == (expected, reason)
                assert scores == expected_prompt

    def check_all_returned(self) -> None:
        cache = self.scheduler.cache
        assert (cache.num_blocks_free, cache.num_slots_used) == (cache.num_blocks, 0)
        assert not self.scheduler.running
        assert not self.scheduler.waiting


def play(workload: Workload) -> Driver:
    driver = Driver(workload)
    driver.run()
    driver.check_all_returned()
    driver.check_outputs()
    return driver


@settings(max_examples=250, deadline=None)
@given(workloads())
def test_every_request_gets_the_tokens_it_would_get_alone(workload: Workload) -> None:
    driver = play(workload)
    event("preempted" if driver.scheduler.num_preemptions else "not preempted")


@settings(max_examples=100, deadline=None)
@given(workloads(aborts=False))
def test_looking_for_repetitions_changes_no_token_before_the_end(workload: Workload) -> None:
    guarded, unguarded = play(workload), play(without_detection(workload))
    for sequence, other in zip(guarded.sequences, unguarded.sequences, strict=True):
        assert sequence.tokens == other.tokens[: len(sequence.tokens)]
        ended_early = sequence.finish_reason is FinishReason.REPETITION
        assert ended_early or (sequence.tokens, sequence.finish_reason) == (other.tokens, other.finish_reason)
        event(f"ended as {sequence.finish_reason}")


def without_detection(workload: Workload) -> Workload:
    arrivals = []
    for arrival in workload.arrivals:
        sampling = replace(arrival.request.sampling, repetition_detection=None)
        arrivals.append(replace(arrival, request=replace(arrival.request, sampling=sampling)))
    return replace(workload, arrivals=tuple(arrivals))


@settings(max_examples=100, deadline=None)
@given(workloads(aborts=False))
def test_each_token_is_computed_once_unless_its_sequence_was_preempted(workload: Workload) -> None:
    driver = play(workload)
    needed = sum(num_needed(s) for s in driver.sequences)
    if driver.scheduler.num_preemptions == 0:
        assert driver.model.num_tokens == needed
    else:
        assert driver.model.num_tokens > needed


def num_needed(sequence: Sequence) -> int:
    """Tokens to compute. The last one of an answer never is: nothing comes after it."""
    return len(sequence.tokens) - (sequence.request.sampling.max_tokens != 0)


@settings(max_examples=60, deadline=None)
@given(workloads(aborts=False))
def test_nothing_is_preempted_in_a_pool_that_holds_everything(workload: Workload) -> None:
    limits = workload.limits
    blocks_each = -(-limits.max_model_len // limits.block_size)
    roomy = replace(limits, num_blocks=(blocks_each + 4) * len(workload.arrivals), num_slots=len(workload.arrivals))
    driver = play(replace(workload, limits=roomy))
    assert driver.scheduler.num_preemptions == 0


@settings(max_examples=40, deadline=None)
@given(workloads(aborts=False))
def test_the_same_workload_makes_the_same_plans(workload: Workload) -> None:
    assert play(workload).model.plans == play(workload).model.plans
