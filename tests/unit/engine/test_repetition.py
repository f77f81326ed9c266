"""When an answer has repeated itself enough, held against the definition, and how its sequence ends."""

from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.scheduler.repetition import RepetitionGuard
from engine.types import FinishReason, RepetitionDetection, SamplingParams
from tests.support.engine_runs import Run, fixed_length, limits, prompt
from tests.support.hash_model import fail_on_steps
from tests.support.repetition import ends_in_repetition, first_repetition

TWICE = RepetitionDetection(max_pattern_size=3, min_count=2)
FEW = (1, 2, 3)
BIG = 2**32 - 1


def found_at(tokens: Iterable[int], detection: RepetitionDetection, min_tokens: int = 0) -> list[int]:
    """After how many tokens the guard sees a repetition."""
    guard = RepetitionGuard(detection, min_tokens)
    found = []
    for count, token in enumerate(tokens, 1):
        guard.add(token)
        if guard.found:
            found.append(count)
    return found


@st.composite
def detections(draw: st.DrawFn) -> RepetitionDetection:
    smallest = draw(st.integers(1, 5))
    return RepetitionDetection(
        draw(st.integers(smallest, 12)), smallest, draw(st.integers(2, 5)), draw(st.sampled_from([0, 0, 7, 20]))
    )


@st.composite
def texts(draw: st.DrawFn) -> list[int]:
    """Stretches of patterns, whole ones and begun ones, with other tokens between them."""
    text: list[int] = []
    for _ in range(draw(st.integers(1, 6))):
        pattern = draw(st.lists(st.sampled_from([0, 1, 2, BIG]), min_size=1, max_size=8))
        text += (pattern * draw(st.integers(1, 8)))[: draw(st.integers(1, 40))]
    return text


@given(texts(), detections(), st.sampled_from([0, 0, 9, 30]))
def test_the_guard_finds_what_the_definition_says(
    text: list[int], detection: RepetitionDetection, min_tokens: int
) -> None:
    counts = range(max(1, min_tokens), len(text) + 1)
    expected = [count for count in counts if ends_in_repetition(text[:count], detection)]
    assert found_at(text, detection, min_tokens) == expected


@pytest.mark.parametrize(
    ("detection", "text", "first"),
    [
        (RepetitionDetection(1, 1, 4), [5, 7, 7, 7, 7, 7], 5),
        (RepetitionDetection(3, 1, 3), [9, *[1, 2, 3] * 4], 10),
        (RepetitionDetection(3, 3, 3), [4] * 20, 9),  # three equal tokens are a pattern of three as well
        (RepetitionDetection(2, 1, 3), [1, 2, 3] * 20, None),
        (RepetitionDetection(3, 1, 3), [1, 2, 3, 1, 2, 3, 1, 2, 9, 1, 2, 3], None),
        (RepetitionDetection(3, 1, 2, min_repeated_tokens=10), [1, 2, 3] * 20, 10),
        (RepetitionDetection(1024, 1, 2), [*range(1000), *range(1000)], 2000),
        (RepetitionDetection(999, 1, 2), [*range(1000), *range(1000)], None),
    ],
)
def test_what_is_a_repetition(detection: RepetitionDetection, text: Sequence[int], first: int | None) -> None:
    assert next(iter(found_at(text, detection)), None) == first


# --- in the engine --------------------------------------------------------------------------------------------------


def guarded(detection: RepetitionDetection = TWICE, num_tokens: int = 60, **more: int) -> SamplingParams:
    return fixed_length(num_tokens, allowed_token_ids=FEW, repetition_detection=detection, **more)


def test_an_answer_ends_at_its_first_repetition_and_not_at_one_in_the_prompt() -> None:
    run = Run(limits(num_slots=8))
    sequences = [run.add((1, 1, 1, 1, *prompt(3, start)), guarded()) for start in range(12)]
    run.finish()
    run.assert_as_alone(sequences)
    for sequence in sequences:
        tokens, reason = run.answer(sequence)
        assert reason is FinishReason.REPETITION
        assert first_repetition(tokens, TWICE) == len(tokens)


def test_nothing_ends_before_min_tokens() -> None:
    run = Run(limits(num_slots=8))
    sequences = [run.add(prompt(3, start), guarded(min_tokens=20)) for start in range(12)]
    run.finish()
    run.assert_as_alone(sequences)
    assert all(len(run.answer(sequence)[0]) >= 20 for sequence in sequences)


def test_a_limit_at_the_same_token_goes_first() -> None:
    run = Run()
    ends = run.add(prompt(3), guarded())
    run.finish()
    limited = run.add(prompt(3), guarded(num_tokens=len(run.answer(ends)[0])))
    run.finish()
    assert run.answer(limited) == (run.answer(ends)[0], FinishReason.LENGTH)


def test_the_count_survives_preemption_and_a_failed_step() -> None:
    four_times = RepetitionDetection(max_pattern_size=3, min_count=4)
    run = Run(limits(num_blocks=7, block_size=4, max_model_len=25), before_step=fail_on_steps(3, 9))
    sequences = [run.add(prompt(2, start), guarded(four_times, num_tokens=22)) for start in range(30)]
    run.finish()
    run.assert_as_alone(sequences)
    ended = [s for s in sequences if s.finish_reason is FinishReason.REPETITION]
    assert any(s.num_preemptions for s in ended)
    assert any(s.num_failures for s in sequences)


def test_its_state_is_kept_as_that_of_any_answer() -> None:
    run = Run(limits(num_blocks=200, num_checkpoints=10))
    first = run.add(prompt(20), guarded())
    run.finish()
    assert [c.position for c in run.cache.checkpoints if c.is_answer] == [len(first.tokens) - 1]
    second = run.add((*first.tokens, *prompt(5, 2)), fixed_length(3))
    run.finish()
    assert second.num_cached_tokens == len(first.tokens) - 1
    run.assert_as_alone([second])
