"""From a plan's sampled sequences and their logits to results. What draws a token is a kernel."""

from collections.abc import Callable, Sequence

from torch import Tensor

from engine.plan import SampleSpec, SequenceResult, StepPlan
from engine.sampling.draw import Draw, Drawn, NoToken
from engine.sampling.random import uniform

SampleKernel = Callable[[Tensor, Sequence[Draw], int], Sequence[Drawn | NoToken]]


def sample(kernel: SampleKernel, logits: Tensor, plan: StepPlan, num_used_tokens: int) -> tuple[SequenceResult, ...]:
    """Draw the next token of every sequence of the plan that wants one, in the plan's order.

    Shapes: logits fp32 [sampled sequences, V], which may be written to. Ids from `num_used_tokens` up are never drawn.
    """
    sampled = [(sequence.seq_id, sequence.sample) for sequence in plan.sequences if sequence.sample is not None]
    drawn = kernel(logits, [_draw(spec) for _, spec in sampled], num_used_tokens)
    return tuple(_result(seq_id, outcome) for (seq_id, _), outcome in zip(sampled, drawn, strict=True))


def _draw(spec: SampleSpec) -> Draw:
    number = uniform(spec.seed, spec.choice, spec.position)
    return Draw(spec.params, number, spec.seen_ids, spec.seen_counts, spec.barred_token_ids)


def _result(seq_id: int, outcome: Drawn | NoToken) -> SequenceResult:
    if isinstance(outcome, NoToken):
        return SequenceResult(seq_id, (), error=str(outcome))
    return SequenceResult(seq_id, (outcome.token_id,), () if outcome.logprobs is None else (outcome.logprobs,))
