"""From a plan's sampled sequences and their logits to results. What draws a token is a kernel."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from engine.constraints.matcher import ConstraintFailed, Mask
from engine.errors import InvariantViolation
from engine.plan import SampleSpec, SequenceResult, StepPlan
from engine.sampling.draw import Draw, Drawn, NoToken
from engine.sampling.random import uniform
from engine.types import ErrorReason

Masks = Callable[[int], Mask | None]
SampleKernel = Callable[[Tensor, Sequence[Draw], int], Sequence[Drawn | NoToken]]


def no_mask(number: int) -> None:
    """For engines without constraints, which take no request that has one."""
    raise InvariantViolation(f"there is no matcher {number}")


def sample(
    kernel: SampleKernel, logits: Tensor, plan: StepPlan, num_used_tokens: int, masks: Masks = no_mask
) -> tuple[SequenceResult, ...]:
    """Draw the next token of every sequence of the plan that wants one, in the plan's order.

    Shapes: logits fp32 [sampled sequences, V], which may be written to. Ids from `num_used_tokens` up are never drawn.
    `masks` has those of constraints, by number.
    """
    sampled = [(sequence.seq_id, sequence.sample) for sequence in plan.sequences if sequence.sample is not None]
    failures: dict[int, str] = {}
    draws = []
    for seq_id, spec in sampled:
        try:
            mask = masks(spec.constraint) if spec.constraint is not None else None
        except ConstraintFailed as error:
            failures[seq_id], mask = f"the answer cannot be held to its constraint: {error}", None
        draws.append(_draw(spec, mask))
    drawn = kernel(logits, draws, num_used_tokens)
    return tuple(
        _result(seq_id, failures.get(seq_id, outcome)) for (seq_id, _), outcome in zip(sampled, drawn, strict=True)
    )


def _draw(spec: SampleSpec, mask: Mask | None) -> Draw:
    number = uniform(spec.seed, spec.choice, spec.position)
    params = replace(spec.params, temperature=0.0) if mask is not None and mask.is_greedy else spec.params
    bits = None if mask is None else mask.bits
    return Draw(params, number, spec.seen_ids, spec.seen_counts, spec.barred_token_ids, bits)


def _result(seq_id: int, outcome: Drawn | str) -> SequenceResult:
    if isinstance(outcome, str):
        reason = outcome.reason if isinstance(outcome, NoToken) else ErrorReason.CONSTRAINT
        return SequenceResult(seq_id, (), error=str(outcome), error_reason=reason)
    return SequenceResult(seq_id, (outcome.token_id,), () if outcome.logprobs is None else (outcome.logprobs,))
