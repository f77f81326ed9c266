"""What goes into a step, who has to wait, who has to give way, and how a sequence ends."""

import pytest

from engine.errors import InvariantViolation
from engine.plan import ScheduledSequence, SequenceResult, StateAction, StepPlan, StepResult
from engine.scheduler.sequence import Sequence
from engine.types import FinishReason, SamplingParams, TokenLogprobs
from tests.support.engine_runs import Run, expected, fixed_length, limits, prompt
from tests.support.hash_model import EOS_TOKEN_IDS, VOCAB_SIZE, fail_on_steps


def sizes(plan: StepPlan | None) -> dict[int, int]:
    """How many tokens of which sequence, in the plan's order."""
    assert plan is not None
    return {s.seq_id: len(s.token_ids) for s in plan.sequences}


def order(sequences: list[Sequence]) -> list[int]:
    return [s.seq_id for s in sequences]


# --- composition ----------------------------------------------------------------------------------------------------


def test_nothing_to_do() -> None:
    assert Run().core.schedule() is None


def test_a_prompt_that_fits_takes_one_step_and_then_one_token_a_step() -> None:
    run = Run()
    run.add(prompt(10), fixed_length(3))
    assert [sizes(plan) for plan in run.finish()] == [{0: 10}, {0: 1}, {0: 1}]


def test_a_long_prompt_is_read_in_chunks_and_sampled_at_its_end() -> None:
    run = Run(limits(max_num_batched_tokens=16))
    run.add(prompt(40), fixed_length(1))
    plans = run.finish()
    assert [sizes(p) for p in plans] == [{0: 16}, {0: 16}, {0: 8}]
    assert [p.sequences[0].start for p in plans] == [0, 16, 32]
    assert [p.sequences[0].sample is None for p in plans] == [True, True, False]
    assert [p.sequences[0].state for p in plans] == [StateAction.RESET, StateAction.CONTINUE, StateAction.CONTINUE]
    assert [len(p.sequences[0].block_ids) for p in plans] == [4, 8, 10]


def test_decoding_comes_before_prompts_and_both_share_a_step() -> None:
    run = Run(limits(max_num_batched_tokens=16))
    run.add(prompt(8), fixed_length(20))
    run.step()
    run.add(prompt(40), fixed_length(1))
    run.add(prompt(3), fixed_length(2), priority=-1)
    assert sizes(run.step()) == {0: 1, 2: 3, 1: 12}
    assert sizes(run.step()) == {2: 1, 0: 1, 1: 14}
    assert sizes(run.step()) == {0: 1, 1: 14}
    run.finish()


def test_several_prompts_share_a_step() -> None:
    run = Run(limits(max_num_batched_tokens=16))
    for start in range(3):
        run.add(prompt(6, start), fixed_length(1))
    assert sizes(run.step()) == {0: 6, 1: 6, 2: 4}
    assert sizes(run.step()) == {2: 2}


def test_a_prompt_under_way_goes_on_before_a_new_one_is_admitted() -> None:
    run = Run(limits(max_num_batched_tokens=16))
    run.add(prompt(40), fixed_length(1))
    run.step()
    run.add(prompt(2), fixed_length(1))
    assert sizes(run.step()) == {0: 16}
    assert sizes(run.step()) == {0: 8, 1: 2}


def test_no_step_is_larger_than_allowed_even_when_all_decode() -> None:
    run = Run(limits(max_num_batched_tokens=2))
    sequences = [run.add(prompt(1, start), fixed_length(6)) for start in range(4)]
    plans = run.finish()
    assert max(p.num_tokens for p in plans) <= 2
    run.assert_as_alone(sequences)


def test_slots_bound_what_runs() -> None:
    run = Run(limits(num_slots=2))
    for start in range(3):
        run.add(prompt(3, start), fixed_length(2))
    assert sizes(run.step()) == {0: 3, 1: 3}
    run.step()
    assert sizes(run.step()) == {2: 3}


# --- admission ------------------------------------------------------------------------------------------------------


def test_first_come_first_served_within_a_priority() -> None:
    run = Run(limits(num_slots=1))
    for start, priority in enumerate([0, 1, 0, -1, 0]):
        run.add(prompt(2, start), fixed_length(1), priority=priority)
    assert [plan.sequences[0].seq_id for plan in run.finish()] == [3, 0, 2, 4, 1]


def test_admission_leaves_one_block_for_each_running_sequence() -> None:
    run = Run(limits(num_blocks=8, block_size=4, max_model_len=33))
    run.add(prompt(8, 0), fixed_length(9))
    run.add(prompt(8, 1), fixed_length(9))
    run.step()
    third = run.add(prompt(12, 2), fixed_length(1))  # 4 blocks are free, of which 2 have to stay
    run.step()
    assert order(run.scheduler.waiting) == [third.seq_id]
    run.assert_as_alone(s for s in [third] if run.finish())


def test_the_first_in_line_is_not_overtaken_by_a_smaller_one() -> None:
    run = Run(limits(num_blocks=8, block_size=4, max_model_len=33))
    run.add(prompt(16, 0), fixed_length(4))
    run.step()
    run.add(prompt(28, 1), fixed_length(1))
    run.add(prompt(1, 2), fixed_length(1))
    run.step()
    assert order(run.scheduler.waiting) == [1, 2]
    run.finish()


# --- preemption -----------------------------------------------------------------------------------------------------


def crowded(**sampling: object) -> tuple[Run, list[Sequence]]:
    """Three sequences whose answers do not fit beside each other."""
    run = Run(limits(num_blocks=9, block_size=4, max_model_len=30))
    return run, [run.add(prompt(7, start), fixed_length(20, **sampling)) for start in range(3)]


def test_the_last_in_line_gives_way_and_comes_back() -> None:
    run, sequences = crowded()
    while run.scheduler.num_preemptions == 0:
        assert run.step() is not None
    assert order(run.scheduler.running) == [0, 1]
    assert order(run.scheduler.waiting) == [2]
    assert sequences[2].num_computed_tokens == 0
    assert sequences[2].allocation is None
    tokens_before = list(sequences[2].tokens)
    plans = run.finish()
    resumed = next(s for p in plans for s in p.sequences if s.seq_id == 2)
    assert resumed.state is StateAction.RESET
    assert resumed.token_ids == tuple(tokens_before)
    run.assert_as_alone(sequences)
    told = [run.outputs[i][-1].num_preemptions for i in range(3)]
    assert told[0] == 0
    assert sum(told) == run.scheduler.num_preemptions


def test_priority_decides_who_gives_way() -> None:
    run = Run(limits(num_blocks=9, block_size=4, max_model_len=30))
    low = run.add(prompt(7, 0), fixed_length(20), priority=1)
    high = [run.add(prompt(7, start), fixed_length(20), priority=0) for start in (1, 2)]
    while run.scheduler.num_preemptions == 0:
        assert run.step() is not None
    assert low.allocation is None
    run.finish()
    run.assert_as_alone([low, *high])


def test_a_preempted_sequence_comes_back_before_later_arrivals() -> None:
    run, sequences = crowded()
    late = run.add(prompt(1, 9), fixed_length(1))
    while run.scheduler.num_preemptions == 0:
        assert run.step() is not None
    assert order(run.scheduler.waiting)[-1] == late.seq_id
    run.finish()
    run.assert_as_alone([*sequences, late])


@pytest.mark.parametrize("penalty", ["frequency_penalty", "repetition_penalty"])
def test_penalties_see_the_same_tokens_after_a_preemption(penalty: str) -> None:
    run, sequences = crowded(**{penalty: 1.1})
    run.finish()
    assert run.scheduler.num_preemptions
    run.assert_as_alone(sequences)


def test_one_sequence_can_fill_the_whole_cache() -> None:
    run = Run(limits(num_blocks=4, block_size=4, max_model_len=17))
    sequences = [run.add(prompt(5, start), SamplingParams(ignore_eos=True)) for start in range(2)]
    run.finish()
    assert [len(s.tokens) for s in sequences] == [17, 17]
    run.assert_as_alone(sequences)


# --- abort ----------------------------------------------------------------------------------------------------------


def test_abort_while_waiting_is_immediate() -> None:
    run = Run(limits(num_slots=1))
    first, second = run.add(prompt(3, 0), fixed_length(3)), run.add(prompt(3, 1), fixed_length(3))
    run.step()
    output = run.abort(second)
    assert output is not None
    assert (output.finish_reason, output.token_ids) == (FinishReason.ABORT, ())
    assert order(run.scheduler.waiting) == []
    run.finish()
    run.assert_as_alone([first])


def test_abort_between_steps_is_immediate_and_frees_at_once() -> None:
    run = Run()
    sequence = run.add(prompt(9), fixed_length(9))
    run.step()
    run.step()
    assert run.abort(sequence) is not None
    assert run.cache.num_blocks_free == run.cache.num_blocks
    tokens, reason = run.answer(sequence)
    assert reason is FinishReason.ABORT
    assert tokens == expected(sequence.request)[0][:2]


def test_abort_in_flight_waits_for_the_step_and_drops_its_token() -> None:
    run = Run()
    sequence = run.add(prompt(9), fixed_length(9))
    plan = run.core.schedule()
    assert plan is not None
    assert run.abort(sequence) is None
    assert run.cache.num_slots_used == 1
    run.finish_step(plan)
    assert run.answer(sequence) == ((), FinishReason.ABORT)
    run.finish()


def test_abort_in_flight_of_a_step_that_fails() -> None:
    run = Run(before_step=fail_on_steps(1, 2))
    first, second = run.add(prompt(3, 0)), run.add(prompt(3, 1))
    plan = run.core.schedule()
    assert plan is not None
    run.abort(first)
    run.finish_step(plan)
    assert run.answer(first) == ((), FinishReason.ABORT)
    assert run.answer(second) == ((), None)
    run.finish()


def test_abort_of_a_sequence_that_ends_in_the_same_step_keeps_its_end() -> None:
    run = Run()
    sequence = run.add(prompt(9), fixed_length(1))
    plan = run.core.schedule()
    assert plan is not None
    run.abort(sequence)
    run.finish_step(plan)
    assert run.answer(sequence) == expected(sequence.request)


def test_abort_of_a_preempted_sequence() -> None:
    run, sequences = crowded()
    while run.scheduler.num_preemptions == 0:
        run.step()
    assert run.abort(sequences[2]) is not None
    run.finish()
    run.assert_as_alone(sequences[:2])


def test_a_second_abort_and_one_after_the_end_say_nothing() -> None:
    run = Run()
    first, second = run.add(prompt(2, 0), fixed_length(1)), run.add(prompt(2, 1), fixed_length(5))
    run.step()
    assert run.abort(first) is None
    assert run.abort(second) is not None
    assert run.abort(second) is None
    run.finish()


def test_a_running_sequence_outside_the_step_in_flight_is_aborted_at_once() -> None:
    run = Run(limits(max_num_batched_tokens=8))
    run.add(prompt(7, 0), fixed_length(9))
    second = run.add(prompt(40, 1), fixed_length(1))
    run.step()
    third = run.add(prompt(3, 2), fixed_length(1))
    plan = run.core.schedule()
    assert plan is not None
    assert sizes(plan) == {0: 1, 1: 7}
    assert run.abort(third) is not None
    assert run.abort(second) is None
    run.finish_step(plan)
    assert run.answer(second) == ((), FinishReason.ABORT)
    run.finish()


# --- ends -----------------------------------------------------------------------------------------------------------


def test_length_at_max_tokens_and_at_the_end_of_the_context() -> None:
    run = Run(limits(max_model_len=16))
    bounded, unbounded = run.add(prompt(5, 0), fixed_length(4)), run.add(prompt(5, 1), SamplingParams(ignore_eos=True))
    run.finish()
    assert [len(bounded.tokens), len(unbounded.tokens)] == [9, 16]
    assert [run.answer(s)[1] for s in (bounded, unbounded)] == [FinishReason.LENGTH] * 2


def test_a_prompt_one_below_the_context_gets_one_token() -> None:
    run = Run(limits(max_model_len=16))
    sequence = run.add(prompt(15), fixed_length(8))
    assert len(run.finish()) == 1
    assert len(run.answer(sequence)[0]) == 1


@pytest.mark.parametrize("ignore_eos", [False, True])
def test_end_tokens_stop_unless_ignored_and_stop_ids_always(ignore_eos: bool) -> None:
    stops = tuple(range(20, 40))
    run = Run(limits(num_slots=8))
    sequences = [
        run.add(prompt(3, start), SamplingParams(stop_token_ids=stops, ignore_eos=ignore_eos)) for start in range(40)
    ]
    run.finish()
    run.assert_as_alone(sequences)
    last = {run.answer(s)[0][-1] for s in sequences if run.answer(s)[1] is FinishReason.STOP}
    assert last <= {*stops, *(() if ignore_eos else EOS_TOKEN_IDS)}
    assert len(last) > 5


def test_before_min_tokens_end_and_stop_tokens_are_barred() -> None:
    stops = tuple(range(1, 50))
    run = Run()
    sequence = run.add(prompt(3), SamplingParams(min_tokens=5, stop_token_ids=stops))
    plans = run.finish()
    specs = [s.sample for p in plans for s in p.sequences if s.sample is not None]
    assert [bool(spec.barred_token_ids) for spec in specs[:6]] == [True] * 5 + [False] * len(specs[5:6])
    assert set(specs[0].barred_token_ids) == {*stops, *EOS_TOKEN_IDS}
    tokens, _ = run.answer(sequence)
    assert len(tokens) >= 5
    assert not set(tokens[:5]) & {*stops, *EOS_TOKEN_IDS}


def test_min_tokens_with_ignore_eos_bars_the_stop_tokens_only() -> None:
    run = Run()
    run.add(prompt(3), SamplingParams(min_tokens=2, max_tokens=2, stop_token_ids=(9,), ignore_eos=True))
    plan = run.step()
    assert plan is not None
    assert plan.sequences[0].sample is not None
    assert plan.sequences[0].sample.barred_token_ids == (9,)


def test_seen_tokens_travel_only_when_a_penalty_looks_at_them() -> None:
    run = Run()
    run.add((5, 6, 5, 7), fixed_length(3))
    run.add((5, 6, 5, 7), fixed_length(3, repetition_penalty=1.1))
    run.add((5, 6, 5, 7), fixed_length(3, presence_penalty=0.1))
    first, _, third = (plan.sequences for plan in run.finish())
    assert [_seen(s) for s in first] == [{}, {5: 0, 6: 0, 7: 0}, {}]
    nothing, with_prompt, generated = (_seen(s) for s in third)
    assert nothing == {}
    assert (list(with_prompt)[:3], sum(with_prompt.values())) == ([5, 6, 7], 2)
    assert sum(generated.values()) == 2
    assert all(generated.values())


def _seen(scheduled: ScheduledSequence) -> dict[int, int]:
    assert scheduled.sample is not None
    return dict(zip(scheduled.sample.seen_ids, scheduled.sample.seen_counts, strict=True))


def test_choices_of_one_request_draw_their_own_tokens() -> None:
    run = Run()
    choices = [run.add(prompt(4), fixed_length(8, seed=1), choice=choice) for choice in range(3)]
    run.finish()
    run.assert_as_alone(choices)
    assert len({run.answer(s)[0] for s in choices}) == 3


def test_the_moments_of_a_sequence() -> None:
    run = Run(limits(num_slots=1))
    first = run.add(prompt(4, 0), fixed_length(3))
    second = run.add(prompt(4, 1), fixed_length(1))
    run.finish()
    assert first.times.admitted == 0.0
    assert first.times.first_token == pytest.approx(0.01)
    assert first.times.last_token == pytest.approx(0.03)
    assert second.times.arrival == 0.0
    assert second.times.admitted == pytest.approx(0.03)


def test_a_first_token_at_the_zero_of_the_clock_is_kept() -> None:
    run = Run()
    sequence = run.add(prompt(4), fixed_length(2))
    for now in (0.0, 5.0):
        plan = run.core.schedule()
        assert plan is not None
        run.now = now
        run.core.apply(plan, run.model.execute(plan))
    assert (sequence.times.first_token, sequence.times.last_token) == (0.0, 5.0)


def test_logprobs_come_with_their_tokens() -> None:
    run = Run()
    sequence = run.add(prompt(4), fixed_length(3, logprobs=0))
    run.finish()
    outputs = run.outputs[sequence.seq_id]
    assert [tuple(lp.token_id for lp in o.logprobs) for o in outputs] == [o.token_ids for o in outputs]


# --- results that do not fit the plan -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "results",
    [(), (SequenceResult(0, ()),), (SequenceResult(0, (1,)), SequenceResult(7, (1,))), (SequenceResult(7, (1,)),)],
    ids=["missing", "empty", "one too many", "someone else's"],
)
def test_a_result_that_does_not_answer_the_plan_is_a_violation(results: tuple[SequenceResult, ...]) -> None:
    run = Run()
    run.add(prompt(4))
    plan = run.core.schedule()
    assert plan is not None
    with pytest.raises(InvariantViolation):
        run.core.apply(plan, StepResult(results, 0.1))


@pytest.mark.parametrize("num_scores", [0, 2, 4])
def test_scores_that_are_not_those_of_the_plan_are_a_violation(num_scores: int) -> None:
    run = Run()
    run.add(prompt(4), fixed_length(1, prompt_logprobs=0))
    plan = run.core.schedule()
    assert plan is not None
    result = SequenceResult(0, (1,), prompt_logprobs=(TokenLogprobs(1, -1.0),) * num_scores)
    with pytest.raises(InvariantViolation):
        run.core.apply(plan, StepResult((result,), 0.1))


def test_drawn_tokens_are_within_the_vocabulary() -> None:
    run = Run()
    sequence = run.add(prompt(4), fixed_length(50))
    run.finish()
    assert all(0 <= t < VOCAB_SIZE for t in run.answer(sequence)[0])
