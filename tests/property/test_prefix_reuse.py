"""The promise with a cache: random conversations that grow, branch, are abandoned and come back, over tiny pools.

Prompts are paths through trees of messages, with the model's own answers as messages where a conversation goes on. The
executor is made of hashes: a state that is not of just these tokens, or a block that is another's, changes a token.
"""

from dataclasses import replace

from hypothesis import event, given, settings
from hypothesis import strategies as st

from engine.core import CoreLimits
from engine.types import GenerationRequest, SamplingParams
from tests.property.test_bookkeeping import ENGINE_SEED, Arrival, Driver, Workload, num_needed, play
from tests.support.hash_model import EOS_TOKEN_IDS, VOCAB_SIZE, expected_tokens, fail_on_steps


@st.composite
def conversations(draw: st.DrawFn, max_model_len: int) -> list[GenerationRequest]:
    """The turns of one conversation; those of another drawn with the same seeds begin alike."""
    salt, session = draw(st.sampled_from(["", "", "", "x"])), draw(st.sampled_from([None, None, "a", "b"]))
    tokens: tuple[int, ...] = ()
    boundaries: tuple[int, ...] = ()
    turns = []
    for _ in range(draw(st.integers(1, 5))):
        for seed in draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)):
            tokens += tuple(hash((seed, i)) % VOCAB_SIZE for i in range(seed * draw(st.sampled_from([1, 4, 9]))))
            boundaries += (len(tokens),)
        if len(tokens) >= max_model_len:
            break
        params = SamplingParams(
            max_tokens=draw(st.integers(0, 8)),
            ignore_eos=draw(st.booleans()),
            prompt_logprobs=draw(st.sampled_from([None, None, None, 1])),
        )
        turns.append(GenerationRequest("r", tokens, params, boundaries=boundaries, cache_salt=salt, session=session))
        if draw(st.integers(0, 3)):
            answer, _ = expected_tokens(tokens, params, seed=ENGINE_SEED, max_model_len=max_model_len)
            tokens += answer
    return turns


@st.composite
def workloads(draw: st.DrawFn, aborts: bool = True) -> Workload:
    block_size = draw(st.sampled_from([1, 2, 4, 16]))
    num_blocks = draw(st.integers(4, 12) | st.integers(12, 400 // block_size))
    limits = CoreLimits(
        max_model_len=draw(st.integers(2, num_blocks * block_size)),
        vocab_size=VOCAB_SIZE,
        eos_token_ids=EOS_TOKEN_IDS,
        num_blocks=num_blocks,
        block_size=block_size,
        num_slots=draw(st.integers(1, 4)),
        max_num_batched_tokens=draw(st.integers(1, 4) | st.integers(5, 24) | st.sampled_from([64, 512])),
        max_inter_token_gap_seconds=draw(st.sampled_from([0.001, 0.25])),
        num_checkpoints=draw(st.integers(0, 12)),
    )
    arrivals = []
    for turns in draw(st.lists(conversations(limits.max_model_len), min_size=1, max_size=5)):
        step = draw(st.integers(0, 10))
        for request in turns:
            abort_after = draw(st.none() | st.none() | st.integers(0, 20)) if aborts else None
            arrivals.append(Arrival(step, request, abort_after, draw(st.booleans())))
            step += draw(st.integers(0, 30))
    return Workload(limits, tuple(sorted(arrivals, key=lambda a: a.step)), 0.001, draw(st.sampled_from([1e-5, 5e-3])))


@settings(max_examples=400, deadline=None)
@given(workloads())
def test_every_request_gets_the_tokens_it_would_get_alone(workload: Workload) -> None:
    driver = play(workload)
    cache = driver.scheduler.cache
    event("hit" if any(s.num_cached_tokens for s in driver.sequences) else "no hit")
    event("evicted" if cache.num_evictions else "not evicted")
    assert cache.num_checkpoints_kept <= workload.limits.num_checkpoints


@settings(max_examples=200, deadline=None)
@given(workloads(), st.lists(st.integers(1, 60), max_size=6))
def test_steps_that_fail_leave_nothing_wrong_behind(workload: Workload, failing: list[int]) -> None:
    driver = Driver(workload)
    driver.model.before_step = fail_on_steps(*failing)
    driver.run()
    driver.check_all_returned()
    driver.check_outputs()


@settings(max_examples=150, deadline=None)
@given(workloads(aborts=False))
def test_what_is_cached_is_not_computed(workload: Workload) -> None:
    driver = play(workload)
    if driver.scheduler.num_preemptions == 0:
        needed = sum(num_needed(s) - s.num_cached_tokens for s in driver.sequences)
        assert driver.model.num_tokens == needed


@settings(max_examples=100, deadline=None)
@given(workloads(aborts=False))
def test_in_a_pool_that_holds_everything_no_turn_is_read_again(workload: Workload) -> None:
    """One request after the other: each computes what no earlier one had, from the last checkpoint they share."""
    spread = tuple(replace(a, step=100_000 * i) for i, a in enumerate(workload.arrivals))
    limits = replace(workload.limits, num_blocks=5000, num_checkpoints=500, max_num_batched_tokens=512)
    workload = replace(workload, limits=limits, arrivals=spread)
    driver = Driver(workload)
    known: dict[str, set[tuple[int, ...]]] = {}
    for arrival in spread:
        before = driver.model.num_tokens
        request = arrival.request
        sequence = driver.core.add(request)
        driver.outputs[sequence.seq_id] = []
        while (plan := driver.core.schedule()) is not None:
            driver.apply(plan, driver.model.execute(plan))
        prefixes = known.setdefault(request.cache_salt, set())
        is_scored = request.sampling.prompt_logprobs is not None
        most = max(
            (len(p) for p in prefixes if len(p) < len(request.prompt_ids) and request.prompt_ids[: len(p)] == p),
            default=0,
        )
        assert sequence.num_cached_tokens == (0 if is_scored else most)
        assert driver.model.num_tokens - before == num_needed(sequence) - sequence.num_cached_tokens
        ends = (*(p for p in sequence.checkpoint_positions), num_needed(sequence))
        prefixes.update(tuple(sequence.tokens[:end]) for end in ends)
    assert driver.scheduler.cache.num_evictions == 0
