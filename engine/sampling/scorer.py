"""From a plan's prompt tokens and the logits before them to the log-probabilities of these tokens.

What draws a token scores it too: where no other is allowed, it tells how likely that one was among all. Logits are had
for a few rows at a time: those of a long chunk would take gigabytes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice

from torch import Tensor

from engine.plan import ScheduledSequence, ScoreSpec, SequenceResult, StepPlan
from engine.sampling.draw import Draw, Drawn, NoToken
from engine.sampling.sampler import SampleKernel
from engine.types import SamplingParams, TokenLogprobs

PIECE_ROWS = 64  # 37 MiB of logits with the real vocabulary; with fewer, reading lm_head takes longer than computing

Scores = tuple[TokenLogprobs, ...] | NoToken


def score(
    kernel: SampleKernel, logits_of: Callable[[Tensor], Tensor], rows: Tensor, plan: StepPlan
) -> dict[int, Scores]:
    """The scores of every sequence of the plan that wants some, or why it has none.

    Shapes: rows int64 [scored tokens], in the plan's order; `logits_of` gives fp32 [R, V] for R of them, which may be
    written to.
    """
    scored = [(sequence.seq_id, sequence.score) for sequence in plan.sequences if sequence.score is not None]
    draws = [draw for _, spec in scored for draw in _forced_draws(spec)]
    outcomes: list[Drawn | NoToken] = []
    for start in range(0, len(draws), PIECE_ROWS):
        logits = logits_of(rows[start : start + PIECE_ROWS])
        outcomes += kernel(logits, draws[start : start + PIECE_ROWS], logits.shape[1])
    in_order = iter(outcomes)
    return {seq_id: _scores(list(islice(in_order, len(spec.token_ids)))) for seq_id, spec in scored}


def with_scores(
    results: Sequence[SequenceResult], scores: Mapping[int, Scores], plan: StepPlan
) -> tuple[SequenceResult, ...]:
    """The results of the plan's sampled sequences and the scores, one result a sequence, in the plan's order."""
    drawn = {result.seq_id: result for result in results}
    return tuple(
        _joined(drawn.get(s.seq_id, SequenceResult(s.seq_id, ())), scores.get(s.seq_id, ()))
        for s in plan.sequences
        if _is_answered(s)
    )


def _is_answered(sequence: ScheduledSequence) -> bool:
    return sequence.sample is not None or sequence.score is not None


def _forced_draws(spec: ScoreSpec) -> list[Draw]:
    params = SamplingParams(temperature=0.0, logprobs=spec.num_top)
    return [Draw(replace(params, allowed_token_ids=(token_id,)), 0.0) for token_id in spec.token_ids]


def _scores(outcomes: Sequence[Drawn | NoToken]) -> Scores:
    scores = []
    for outcome in outcomes:
        if isinstance(outcome, NoToken):
            return outcome
        assert outcome.logprobs is not None
        scores.append(outcome.logprobs)
    return tuple(scores)


def _joined(result: SequenceResult, scores: Scores) -> SequenceResult:
    if result.error is not None or not scores:
        return result
    if isinstance(scores, NoToken):
        return SequenceResult(result.seq_id, (), error=str(scores), error_reason=scores.reason)
    return replace(result, prompt_logprobs=scores)
