"""Interactive requests beside long prompts: how soon they start, what that costs the others, and the bounds on it."""

import pytest

from engine.plan import StateAction, StepPlan
from engine.scheduler.sequence import GRACE_TOKENS, Sequence
from engine.scheduler.turns import MOST_PASSES
from engine.types import FinishReason
from tests.support.engine_runs import Run, fixed_length, limits, prompt


def sizes(plan: StepPlan | None) -> dict[int, int]:
    """How many tokens of which sequence, in the plan's order."""
    assert plan is not None
    return {s.seq_id: len(s.token_ids) for s in plan.sequences}


def interactive(run: Run, start: int, num_tokens: int = 4, max_tokens: int = 2, **more: object) -> Sequence:
    """Queue a request that goes ahead."""
    return run.add(prompt(num_tokens, start), fixed_length(max_tokens), interactive=True, **more)  # type: ignore[arg-type]


def steps_to_first_token(run: Run, sequence: Sequence) -> int:
    for step in range(1, 1000):
        run.step()
        if sequence.first_token is not None:
            return step
    raise AssertionError("no first token")


# --- in a step ------------------------------------------------------------------------------------------------------


def test_it_is_read_in_the_next_step_before_the_rest_of_a_long_prompt() -> None:
    run = Run(limits(max_num_batched_tokens=16))
    run.add(prompt(100), fixed_length(1))
    run.step()
    short = interactive(run, 2)
    assert sizes(run.step()) == {1: 4, 0: 12}
    assert short.first_token is not None
    run.finish()


def test_long_prompts_keep_a_quarter_of_the_step() -> None:
    run = Run(limits(max_num_batched_tokens=16))
    run.add(prompt(100), fixed_length(1))
    run.step()
    interactive(run, 2, num_tokens=30)
    assert [sizes(run.step()) for _ in range(3)] == [{1: 12, 0: 4}, {1: 12, 0: 4}, {1: 6, 0: 10}]
    run.finish()


def test_alone_it_has_the_whole_step() -> None:
    run = Run(limits(max_num_batched_tokens=16))
    interactive(run, 2, num_tokens=30)
    assert [sizes(plan) for plan in run.finish()] == [{0: 16}, {0: 14}, {0: 1}]


def test_its_own_prompt_makes_the_step_no_longer_than_it_must_be() -> None:
    """Nothing decodes, so the step could last: but somebody waits for its end."""
    run = Run(limits(max_model_len=1000, num_blocks=1000, max_inter_token_gap_seconds=0.1))
    run.model.step_seconds = lambda plan: 1e-3 * plan.num_tokens
    run.add(prompt(900), fixed_length(1))
    while (plan := run.step()) is not None and plan.num_tokens < 400:
        pass
    interactive(run, 2, num_tokens=8)
    plan = run.step()
    assert 40 <= sum(sizes(plan).values()) <= 80  # tenths of a second
    run.finish()


def test_after_an_interactive_request_steps_stay_shorter_for_a_while() -> None:
    run = Run(limits(max_model_len=4000, num_blocks=1000, max_num_batched_tokens=2000, max_inter_token_gap_seconds=0.1))
    run.model.step_seconds = lambda plan: 1e-3 * plan.num_tokens
    run.add(prompt(3900), fixed_length(1))
    first = [run.step() for _ in range(2)]
    assert [plan.num_tokens for plan in first if plan] == [64, 1280]
    run.abort(interactive(run, 2))
    plan = run.step()
    assert plan is not None
    assert plan.num_tokens == 320
    run.now += 61.0
    plan = run.step()
    assert plan is not None
    assert plan.num_tokens == 1280
    run.finish()


# --- slots ----------------------------------------------------------------------------------------------------------


def test_with_a_single_slot_it_runs_beside_in_a_checkpoints_slot() -> None:
    run = Run(limits(num_slots=1, num_checkpoints=2, max_num_batched_tokens=16))
    long = run.add(prompt(100), fixed_length(4))
    run.step()
    short = interactive(run, 2)
    assert steps_to_first_token(run, short) == 1
    assert run.cache.num_slots_used == 2
    run.finish()
    assert run.scheduler.num_preemptions == 0
    run.assert_as_alone([long, short])


def test_for_it_the_state_worth_least_goes() -> None:
    run = Run(limits(num_slots=1, num_checkpoints=2))
    for start in (1, 2):
        run.add(prompt(9, start), fixed_length(3))
    run.finish()
    assert run.cache.num_checkpoints_kept == 2
    long = run.add(prompt(50, 3), fixed_length(20))
    run.step()
    short = interactive(run, 4)
    run.step()
    assert run.scheduler.running == [long, short]
    assert run.cache.num_checkpoints_kept == 1
    run.finish()
    run.assert_as_alone([long, short])


def test_a_live_conversation_is_not_forgotten_for_it() -> None:
    run = Run(limits(num_slots=1, num_checkpoints=1))
    run.add(prompt(9, 1), fixed_length(3), session="a")
    run.finish()
    assert run.cache.num_checkpoints_kept == 1
    long = run.add(prompt(50, 3), fixed_length(20))
    run.step()
    short = interactive(run, 4)
    run.step()
    assert run.scheduler.waiting == [short]
    assert run.cache.num_checkpoints_kept == 1
    run.finish()
    run.assert_as_alone([long, short])


def test_without_memory_for_states_it_is_the_first_in_line() -> None:
    run = Run(limits(num_slots=1, max_num_batched_tokens=16))
    first, second = run.add(prompt(40, 1), fixed_length(3)), run.add(prompt(40, 2), fixed_length(3))
    run.step()
    short = interactive(run, 3)
    run.finish()
    assert run.scheduler.num_preemptions == 0
    assert first.last_token is not None
    assert short.admitted == first.last_token
    assert second.admitted == short.last_token
    run.assert_as_alone([first, second, short])


def test_only_some_go_ahead_at_once() -> None:
    run = Run(limits(num_slots=4, num_checkpoints=8))
    agents = [run.add(prompt(20, start), fixed_length(30)) for start in range(4)]
    run.step()
    shorts = [interactive(run, start, max_tokens=5) for start in range(10, 13)]
    run.step()
    assert run.scheduler.running == [*agents, shorts[0]]
    run.finish()
    run.assert_as_alone([*agents, *shorts])


def test_it_does_not_take_a_slot_from_those_who_come_later() -> None:
    run = Run(limits(num_slots=2, num_checkpoints=4))
    first, short = run.add(prompt(20, 1), fixed_length(30)), interactive(run, 2, max_tokens=20)
    run.step()
    second, third = (run.add(prompt(20, start), fixed_length(30)) for start in (3, 4))
    run.step()
    assert run.scheduler.running == [first, short, second]
    assert run.scheduler.waiting == [third]
    run.finish()


@pytest.mark.parametrize("num_checkpoints", [0, 8])
def test_an_agent_gets_on_in_a_flood(num_checkpoints: int) -> None:
    """Sixty-four at once, of one token each, and a new one for each that ends."""
    run = Run(limits(num_slots=4, num_checkpoints=num_checkpoints, num_blocks=400, max_num_batched_tokens=32))
    flood = [interactive(run, start, num_tokens=20, max_tokens=1) for start in range(10, 74)]
    agent = run.add(prompt(100, 1), fixed_length(20))
    for start in range(100, 10_000):
        if agent.finish_reason is not None:
            break
        num_waiting = len(run.scheduler.waiting)
        run.step()
        num_admitted = num_waiting - len(run.scheduler.waiting)
        flood += [interactive(run, start, num_tokens=20, max_tokens=1) for _ in range(num_admitted)]
    assert agent.finish_reason is FinishReason.LENGTH
    passed = [s for s in flood if s.seq_id > agent.seq_id and s.admitted is not None and s.admitted < agent.admitted]
    assert len(passed) <= MOST_PASSES
    assert agent.first_token - agent.admitted <= 0.01 * (100 / 8 + 1)  # a quarter of each step, a hundredth of a second
    for sequence in run.scheduler.waiting[:] + run.scheduler.running[:]:
        run.abort(sequence)
    run.finish()


def test_a_lower_priority_goes_ahead_of_nobody() -> None:
    run = Run(limits(num_slots=1))
    first = run.add(prompt(20, 1), fixed_length(3))
    run.step()
    second = run.add(prompt(20, 2), fixed_length(3))
    short = interactive(run, 3, priority=1)
    run.finish()
    assert first.admitted < second.admitted < short.admitted  # type: ignore[operator]


def test_a_completion_at_each_keystroke() -> None:
    """Each is aborted by the next: the agent beside it loses neither its place nor its state."""
    run = Run(limits(num_slots=1, num_checkpoints=2, max_num_batched_tokens=16, num_blocks=100))
    agent = run.add(prompt(120), fixed_length(8))
    run.step()
    before = None
    for start in range(10, 40):
        if before is not None:
            run.abort(before)
        before = interactive(run, start, num_tokens=6, max_tokens=50)
        assert steps_to_first_token(run, before) == 1
        run.step()
    run.finish()
    assert run.scheduler.num_preemptions == 0
    run.assert_as_alone([agent])


# --- blocks ---------------------------------------------------------------------------------------------------------


def crowded(num_checkpoints: int = 8, **sizes: int) -> tuple[Run, list[Sequence]]:
    """Two agents that read, and have all blocks but a few."""
    run = Run(limits(num_blocks=20, num_checkpoints=num_checkpoints, max_num_batched_tokens=16, max_model_len=78))
    agents = [run.add(prompt(39, 1), fixed_length(4)), run.add(prompt(35, 2), fixed_length(4), boundaries=(8, 16, 24))]
    for _ in range(5):
        run.step()
    return run, agents


def test_out_of_blocks_the_last_in_line_makes_way_and_goes_on_from_what_is_left() -> None:
    run, agents = crowded()
    short = interactive(run, 3, num_tokens=6)
    assert steps_to_first_token(run, short) == 1
    assert run.scheduler.waiting == [agents[1]]
    plans = run.finish()
    assert run.scheduler.num_preemptions == 1
    resumed = next(s for p in plans for s in p.sequences if s.seq_id == agents[1].seq_id)
    assert (resumed.state, resumed.start) == (StateAction.RESTORE, 24)
    run.assert_as_alone([*agents, short])


def test_without_memory_for_states_nobody_makes_way() -> None:
    run, agents = crowded(num_checkpoints=0)
    short = interactive(run, 3, num_tokens=6)
    run.step()
    assert run.scheduler.waiting == [short]
    run.finish()
    assert run.scheduler.num_preemptions == 0
    run.assert_as_alone([*agents, short])


def test_who_made_way_is_left_alone_until_it_has_made_good_for_it() -> None:
    run = Run(limits(num_blocks=100, num_checkpoints=8, max_num_batched_tokens=64, max_model_len=400))
    agent = run.add(prompt(376, 1), fixed_length(20), boundaries=(100, 200, 300))
    for _ in range(6):
        run.step()
    before, num_first = None, 0
    for start in range(10, 100):
        if agent.finish_reason is not None:
            break
        if before is not None:
            run.abort(before)
        before = interactive(run, start, num_tokens=40, max_tokens=50)
        run.step()
        num_first += before.first_token is not None
    run.finish()
    assert 1 <= agent.num_preemptions <= 1 + len(agent.tokens) // GRACE_TOKENS
    assert num_first > 0
    run.assert_as_alone([agent])


# --- keys -----------------------------------------------------------------------------------------------------------


def test_of_one_owner_no_more_run_than_allowed_and_others_pass() -> None:
    run = Run(limits(max_running_per_key=2))
    mine = [run.add(prompt(5, start), fixed_length(6), owner="a", choice=start) for start in range(4)]
    other = run.add(prompt(5, 9), fixed_length(3), owner="b")
    run.step()
    assert run.scheduler.running == [mine[0], mine[1], other]
    assert run.scheduler.num_held_back == 2
    most = 0
    while run.step() is not None:
        most = max(most, sum(s.request.owner == "a" for s in run.scheduler.running))
    assert most == 2
    run.assert_as_alone([*mine, other])


def test_an_interactive_request_counts_too_and_does_not_go_ahead_of_its_owners_limit() -> None:
    run = Run(limits(max_running_per_key=1))
    agent = run.add(prompt(5, 1), fixed_length(6), owner="a")
    run.step()
    mine, other = interactive(run, 2, owner="a"), interactive(run, 3, owner="b")
    run.step()
    assert run.scheduler.running == [agent, other]
    run.finish()
    run.assert_as_alone([agent, mine, other])


def test_without_a_limit_nobody_is_held_back() -> None:
    run = Run()
    for start in range(4):
        run.add(prompt(5, start), fixed_length(2))
    run.step()
    assert (len(run.scheduler.running), run.scheduler.num_held_back) == (4, 0)
    run.finish()
