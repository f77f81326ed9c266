"""From a plan's integers to a batch's tensors."""

import torch

from engine.batch import Span, TokenBatch
from engine.plan import ScheduledSequence, StepPlan


def token_batch(plan: StepPlan, block_size: int, device: torch.device) -> TokenBatch:
    """Pack the plan's sequences row after row."""
    token_ids: list[int] = []
    positions: list[torch.Tensor] = []
    kv_rows: list[torch.Tensor] = []
    spans: list[Span] = []
    sample_rows: list[int] = []
    for sequence in plan.sequences:
        span = _span(sequence, len(token_ids))
        token_ids.extend(sequence.token_ids)
        at = torch.arange(span.position, span.context_len)
        positions.append(at)
        kv_rows.append(span.block_ids[at // block_size] * block_size + at % block_size)
        spans.append(span)
        if sequence.sample is not None:
            sample_rows.append(span.end - 1)
    return TokenBatch(
        token_ids=torch.tensor(token_ids, device=device),
        positions=torch.cat(positions).to(device),
        kv_rows=torch.cat(kv_rows).to(device),
        spans=tuple(_to(span, device) for span in spans),
        sample_rows=torch.tensor(sample_rows, dtype=torch.int64, device=device),
    )


def _span(sequence: ScheduledSequence, start: int) -> Span:
    return Span(start, len(sequence.token_ids), sequence.start, sequence.slot, torch.tensor(sequence.block_ids))


def _to(span: Span, device: torch.device) -> Span:
    return Span(span.start, span.num_rows, span.position, span.slot, span.block_ids.to(device))
