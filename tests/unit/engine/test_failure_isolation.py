"""A step that fails costs the sequence at fault its life and the others only time."""

import pytest

from engine.errors import ExecutorError
from engine.plan import ScheduledSequence, StepPlan
from engine.scheduler.scheduler import MAX_FAILURES
from engine.scheduler.sequence import Sequence
from engine.types import ErrorReason, FinishReason, SamplingParams
from tests.support.engine_runs import Run, fixed_length, limits, prompt
from tests.support.hash_model import Hook, fail_on_steps, fail_on_token

POISON = 63
HARMLESS = tuple(range(POISON))


def harmless(num_tokens: int, start: int) -> tuple[int, ...]:
    return tuple(t % POISON for t in prompt(num_tokens, start))


def others(run: Run, num: int = 4) -> list[Sequence]:
    """Sequences that never see the poisoned token, of many lengths."""
    params = [fixed_length(20 - 3 * i, allowed_token_ids=HARMLESS) for i in range(num)]
    return [run.add(harmless(5 + 9 * i, i), params[i]) for i in range(num)]


def assert_failed(run: Run, sequence: Sequence) -> None:
    assert run.answer(sequence)[1] is FinishReason.ERROR
    assert run.outputs[sequence.seq_id][-1].error_reason is not None
    assert run.outputs[sequence.seq_id][-1].error


@pytest.mark.parametrize("position", [0, 20, 39], ids=["first", "middle", "last"])
@pytest.mark.parametrize("max_num_batched_tokens", [16, 512])
def test_the_culprit_ends_and_everyone_else_gets_every_token(position: int, max_num_batched_tokens: int) -> None:
    run = Run(limits(max_num_batched_tokens=max_num_batched_tokens), before_step=fail_on_token(POISON))
    before = others(run, 2)
    run.step()
    poisoned = list(harmless(40, 9))
    poisoned[position] = POISON
    culprit = run.add(tuple(poisoned), fixed_length(3))
    after = others(run, 3)
    run.finish()
    assert_failed(run, culprit)
    assert run.outputs[culprit.seq_id][-1].error_reason is ErrorReason.STEP
    assert run.answer(culprit)[0] == ()
    run.assert_as_alone([*before, *after])


def test_a_culprit_that_fails_in_the_middle_of_its_answer() -> None:
    run = Run(limits(max_num_batched_tokens=24), before_step=fail_on_token(POISON))
    culprit = run.add(harmless(30, 7), fixed_length(40, allowed_token_ids=(1, 2, 3, 4, 5, 6, POISON)))
    innocent = others(run)
    run.finish()
    assert_failed(run, culprit)
    assert POISON in run.answer(culprit)[0]
    run.assert_as_alone(innocent)


def test_an_innocent_sequence_survives_any_number_of_culprits() -> None:
    run = Run(limits(num_slots=2), before_step=fail_on_token(POISON))
    survivor = run.add(harmless(6, 1), fixed_length(60, allowed_token_ids=HARMLESS))
    culprits = []
    for start in range(2 * MAX_FAILURES):
        for _ in range(5):
            run.step()
        culprits.append(run.add((*harmless(3, start), POISON, 5), fixed_length(3)))
    run.finish()
    for culprit in culprits:
        assert_failed(run, culprit)
    run.assert_as_alone([survivor])


@pytest.mark.parametrize("call", range(1, 12))
def test_one_failed_step_changes_nobodys_tokens(call: int) -> None:
    run = Run(limits(max_num_batched_tokens=16, num_blocks=32), before_step=fail_on_steps(call))
    sequences = others(run)
    run.finish()
    alone = len(run.model.plans[call - 1].sequences) == 1
    assert alone == any(run.answer(s)[1] is FinishReason.ERROR for s in sequences)
    run.assert_as_alone(s for s in sequences if run.answer(s)[1] is not FinishReason.ERROR)


def test_a_sequence_that_fails_alone_ends_at_once() -> None:
    run = Run(before_step=fail_on_steps(2))
    sequence = run.add(prompt(4), fixed_length(9))
    assert len(run.finish()) == 2
    assert_failed(run, sequence)
    assert run.outputs[sequence.seq_id][-1].error == "call 2 was told to fail"


def only_alone() -> Hook:
    """What happens when memory is short: no step with two sequences succeeds."""

    def hook(plan: StepPlan) -> None:
        if len(plan.sequences) > 1:
            raise ExecutorError("out of memory")

    return hook


def test_three_failures_in_company_end_a_sequence() -> None:
    run = Run(before_step=only_alone())
    sequences = [run.add(prompt(4, start), fixed_length(9)) for start in range(2)]
    run.finish()
    for sequence in sequences:
        assert_failed(run, sequence)
        assert sequence.num_failures == MAX_FAILURES


def test_suspects_are_computed_alone_until_they_are_past_the_failure() -> None:
    run = Run(limits(max_num_batched_tokens=16), before_step=fail_on_steps(6))
    sequences = [run.add(prompt(20, start), fixed_length(9)) for start in range(3)]
    plans = run.finish()
    failed = plans[5]
    assert len(failed.sequences) == 3
    alone = [len(s.token_ids) for p in plans[6:] if len(p.sequences) == 1 for s in p.sequences]
    known = {s.seq_id: s.start + len(s.token_ids) for s in failed.sequences}
    assert sum(alone) >= sum(known.values())
    for plan in plans[6:]:
        for scheduled in plan.sequences:
            if scheduled.start + len(scheduled.token_ids) <= known[scheduled.seq_id]:
                assert len(plan.sequences) == 1
    run.assert_as_alone(sequences)


def test_an_arrival_during_the_search_waits_for_it_and_is_served() -> None:
    run = Run(limits(max_num_batched_tokens=16), before_step=fail_on_token(POISON))
    innocent = others(run, 2)
    culprit = run.add((1, 2, POISON), fixed_length(2))
    while not any(s.num_failures for s in (*innocent, culprit)):
        run.step()
    late = run.add(harmless(7, 30), fixed_length(5, allowed_token_ids=HARMLESS))
    urgent = run.add(harmless(7, 31), fixed_length(5, allowed_token_ids=HARMLESS), priority=-1)
    run.finish()
    assert_failed(run, culprit)
    run.assert_as_alone([*innocent, late, urgent])


def test_a_suspect_can_be_aborted() -> None:
    run = Run(limits(max_num_batched_tokens=8), before_step=fail_on_steps(1))
    first, second = run.add(prompt(4, 0), fixed_length(3)), run.add(prompt(30, 1), fixed_length(3))
    run.step()
    assert first.suspect
    assert second.suspect
    assert run.abort(first) is not None
    run.step()
    run.finish()
    run.assert_as_alone([second])


def test_an_error_of_one_sequence_leaves_the_others_alone() -> None:
    run = Run()
    sequences = [run.add(prompt(4, start), fixed_length(9)) for start in range(3)]

    def nan_logits(scheduled: ScheduledSequence) -> str | None:
        return "the logits were not numbers" if scheduled.seq_id == 1 and scheduled.start > 6 else None

    run.model.sequence_error = nan_logits
    run.model.error_reason = ErrorReason.NOT_FINITE
    plans = run.finish()
    assert any(len(plan.sequences) == 3 for plan in plans)
    assert_failed(run, sequences[1])
    assert run.outputs[1][-1].error_reason is ErrorReason.NOT_FINITE
    assert run.outputs[1][-1].error == "the logits were not numbers"
    assert len(run.answer(sequences[1])[0]) == 4
    run.assert_as_alone([sequences[0], sequences[2]])


def test_failures_in_a_crowded_cache_give_everything_back() -> None:
    run = Run(limits(num_blocks=9, max_model_len=30), before_step=fail_on_steps(2, 9, 15, 16))
    sequences = [run.add(prompt(7, start), SamplingParams(max_tokens=20)) for start in range(5)]
    run.finish()
    survivors = [s for s in sequences if run.answer(s)[1] is not FinishReason.ERROR]
    assert survivors
    run.assert_as_alone(survivors)
