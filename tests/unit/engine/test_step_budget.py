"""The step budget against simulated machines, whose steps cost a + b·n seconds."""

import pytest

from engine.scheduler.budget import FIRST_CHUNK_TOKENS, IDLE_STEP_FACTOR, MIN_CHUNK_TOKENS, StepBudget

GAP = 0.25
PLENTY = 100_000


def read_prompt(budget: StepBudget, base: float, per_token: float, num_steps: int, num_decoding: int = 1) -> float:
    """Seconds of the last of some steps, each with a chunk of prompt."""
    seconds = 0.0
    for _ in range(num_steps):
        num_tokens = budget.chunk_tokens(num_decoding)
        seconds = base + per_token * (num_tokens + num_decoding)
        budget.observe(num_tokens, num_decoding, seconds)
    return seconds


def decode(budget: StepBudget, seconds: float, num_steps: int) -> None:
    for _ in range(num_steps):
        budget.observe(0, 1, seconds)


def test_the_first_chunk_is_small() -> None:
    assert StepBudget(PLENTY, GAP).chunk_tokens(0) == FIRST_CHUNK_TOKENS
    assert StepBudget(40, GAP).chunk_tokens(3) == 37


@pytest.mark.parametrize("num_decoding", [1, 8])
@pytest.mark.parametrize("base", [0.0, 0.01, 0.1])
@pytest.mark.parametrize("per_token", [2e-5, 5e-4, 4e-3])
def test_steps_come_close_to_the_target_while_something_streams(
    base: float, per_token: float, num_decoding: int
) -> None:
    budget = StepBudget(PLENTY, GAP)
    decode(budget, base + per_token * num_decoding, 10)
    seconds = read_prompt(budget, base, per_token, 40, num_decoding)
    assert 0.6 * GAP < seconds <= GAP


def test_it_converges_without_ever_having_seen_a_decoding_step() -> None:
    seconds = read_prompt(StepBudget(PLENTY, GAP), base=0.05, per_token=1e-4, num_steps=40)
    assert 0.6 * GAP < seconds <= GAP


def test_steps_may_last_longer_when_only_prompts_are_read() -> None:
    seconds = read_prompt(StepBudget(PLENTY, GAP), base=0.0, per_token=1e-3, num_steps=40, num_decoding=0)
    assert 0.6 * GAP * IDLE_STEP_FACTOR < seconds <= GAP * IDLE_STEP_FACTOR


def test_no_step_is_far_too_long_on_the_way() -> None:
    budget = StepBudget(PLENTY, GAP)
    assert all(read_prompt(budget, base=0.002, per_token=1e-3, num_steps=1) <= 1.2 * GAP for _ in range(60))


def test_a_slow_memory_of_decoding_does_not_make_prompt_tokens_look_free() -> None:
    budget = StepBudget(PLENTY, GAP)
    decode(budget, 0.19, 30)  # a full batch, which then ended
    assert all(read_prompt(budget, base=0.001, per_token=1e-3, num_steps=1) <= 1.2 * GAP for _ in range(40))


def test_it_follows_a_cost_that_grows_with_the_context() -> None:
    budget, per_token = StepBudget(PLENTY, GAP), 1e-4
    decode(budget, 0.01, 10)
    read_prompt(budget, 0.01, per_token, 30)
    for _ in range(60):
        per_token *= 1.02
        seconds = read_prompt(budget, 0.01, per_token, 1)
        assert 0.5 * GAP < seconds <= 1.1 * GAP


def test_a_chunk_never_falls_below_the_least_one_where_there_is_room() -> None:
    budget = StepBudget(PLENTY, GAP)
    read_prompt(budget, base=3.0, per_token=1.0, num_steps=20)
    assert budget.chunk_tokens(1) == MIN_CHUNK_TOKENS
    assert budget.chunk_tokens(PLENTY - 5) == 5


@pytest.mark.parametrize("num_decoding", [10, 11, 50])
def test_there_is_no_chunk_when_decoding_takes_the_whole_step(num_decoding: int) -> None:
    budget = StepBudget(10, GAP)
    assert budget.chunk_tokens(num_decoding) <= 0
    budget.observe(64, 0, 0.1)
    assert budget.chunk_tokens(num_decoding) == 0


def test_decoding_steps_do_not_change_what_a_prompt_token_costs() -> None:
    budget = StepBudget(PLENTY, GAP)
    read_prompt(budget, 0.0, 1e-3, 20, num_decoding=0)
    before = budget.chunk_tokens(0)
    decode(budget, 0.1, 50)
    assert budget.chunk_tokens(0) == before
    assert budget.chunk_tokens(1) < before


def test_a_few_prompt_tokens_teach_nothing() -> None:
    budget = StepBudget(PLENTY, GAP)
    budget.observe(MIN_CHUNK_TOKENS - 1, 1, 10.0)
    assert budget.chunk_tokens(1) == FIRST_CHUNK_TOKENS


def test_a_clock_that_stands_still_is_survived() -> None:
    budget = StepBudget(512, GAP)
    budget.observe(64, 0, 0.0)
    assert budget.chunk_tokens(1) == 511


def test_prompts_keep_a_share_when_decoding_alone_exceeds_the_target() -> None:
    budget = StepBudget(max_tokens=2048, max_gap_seconds=0.25)
    for _ in range(50):
        budget.observe(num_prompt_tokens=0, num_decoding=16, seconds=0.4)
    for _ in range(50):
        budget.observe(num_prompt_tokens=64, num_decoding=16, seconds=0.4 + 64 * 0.001)
    assert 190 <= budget.chunk_tokens(16) <= 200  # half of 0.4 seconds at a millisecond each
