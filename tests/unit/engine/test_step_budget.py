"""The step budget against simulated machines, whose steps cost a + b·n seconds."""

import pytest

from engine.scheduler.budget import FIRST_CHUNK_TOKENS, MIN_CHUNK_TOKENS, Pace, StepBudget, StepRoom

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
    assert 0.6 * GAP * Pace.IDLE < seconds <= GAP * Pace.IDLE


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


# --- where interactive requests come --------------------------------------------------------------------------------


def at_pace(budget: StepBudget, pace: Pace, base: float, per_token: float, num_steps: int = 40) -> float:
    """Seconds of the last of some steps that only read."""
    seconds = 0.0
    for _ in range(num_steps):
        num_tokens = budget.chunk_tokens(0, pace)
        seconds = base + per_token * num_tokens
        budget.observe(num_tokens, 0, seconds, pace)
    return seconds


def test_brisk_steps_last_a_quarter_of_idle_ones() -> None:
    budget = StepBudget(PLENTY, GAP)
    at_pace(budget, Pace.IDLE, base=0.0, per_token=1e-3)
    assert 0.6 * GAP * Pace.BRISK < at_pace(budget, Pace.BRISK, base=0.01, per_token=1e-3) <= GAP * Pace.BRISK


def test_brisk_steps_keep_an_eighth_of_the_tokens_where_a_step_costs_much_by_itself() -> None:
    budget = StepBudget(PLENTY, GAP)
    at_pace(budget, Pace.IDLE, base=1.5, per_token=1e-3)
    num_idle = budget.chunk_tokens(0)
    at_pace(budget, Pace.BRISK, base=1.5, per_token=1e-3)
    assert budget.chunk_tokens(0, Pace.BRISK) == num_idle // 8 > MIN_CHUNK_TOKENS


def test_each_pace_learns_its_own_cost() -> None:
    budget = StepBudget(PLENTY, GAP)
    at_pace(budget, Pace.IDLE, base=0.0, per_token=1e-3)
    before = budget.chunk_tokens(0)
    at_pace(budget, Pace.BRISK, base=0.5, per_token=1e-3)
    assert budget.chunk_tokens(0) == before


def test_interactive_prompts_have_three_quarters_of_a_shared_step() -> None:
    room = StepRoom(100, num_short=20, is_shared=True)
    assert room.take(1000, goes_ahead=True) == 75
    assert room.take(1000, goes_ahead=False) == 25
    assert (room.left(True), room.left(False)) == (0, 0)


@pytest.mark.parametrize(("num_ahead", "num_others"), [(3, 17), (15, 5), (18, 6), (30, 10), (75, 25)])
def test_beside_an_interactive_prompt_others_get_the_rest_of_a_short_step_or_a_quarter(
    num_ahead: int, num_others: int
) -> None:
    room = StepRoom(100, num_short=20, is_shared=True)
    assert room.take(num_ahead, goes_ahead=True) == num_ahead
    assert room.take(1000, goes_ahead=False) == num_others


def test_a_step_of_one_kind_is_not_divided() -> None:
    assert StepRoom(100, 20, is_shared=False).take(1000, goes_ahead=True) == 100
    assert StepRoom(100, 20, is_shared=True).take(1000, goes_ahead=False) == 100
    assert StepRoom(1, 1, is_shared=True).take(5, goes_ahead=True) == 1
    assert StepRoom(0, 0, is_shared=True).take(5, goes_ahead=True) == 0
