"""From a plan's integers to a batch's tensors."""

from dataclasses import replace

import torch

from engine.batch import Segment, Span, TokenBatch
from engine.plan import ScheduledSequence, StepPlan


def token_batch(plan: StepPlan, block_size: int, device: torch.device) -> TokenBatch:
    """The batch of a single plan."""
    return BatchBuilder(block_size, device).build(plan)


class BatchBuilder:
    """Packs a plan's sequences row after row.

    A decoding sequence's block table changes once a block and may be long: each slot's last one is kept as a tensor.
    """

    def __init__(self, block_size: int, device: torch.device) -> None:
        self._block_size = block_size
        self._device = device
        self._tables: dict[int, tuple[tuple[int, ...], torch.Tensor]] = {}

    def build(self, plan: StepPlan) -> TokenBatch:
        """The batch of a plan."""
        token_ids: list[int] = []
        positions: list[int] = []
        kv_rows: list[int] = []
        spans: list[Span] = []
        sample_rows: list[int] = []
        score_rows: list[int] = []
        for sequence in plan.sequences:
            start, num_rows = len(token_ids), len(sequence.token_ids)
            token_ids += sequence.token_ids
            positions += range(sequence.start, sequence.start + num_rows)
            kv_rows += self._kv_rows(sequence)
            spans.append(Span(start, num_rows, sequence.start, sequence.slot, self._block_table(sequence)))
            if sequence.sample is not None:
                sample_rows.append(start + num_rows - 1)
            if sequence.score is not None:
                first = start + sequence.score.offset
                score_rows += range(first, first + len(sequence.score.token_ids))
        packed = tuple(spans)
        return TokenBatch(
            token_ids=self._tensor(token_ids),
            positions=self._tensor(positions),
            kv_rows=self._tensor(kv_rows),
            spans=packed,
            segments=_segments(plan, packed),
            sample_rows=self._tensor(sample_rows),
            score_rows=self._tensor(score_rows),
        )

    def _kv_rows(self, sequence: ScheduledSequence) -> list[int]:
        size, block_ids = self._block_size, sequence.block_ids
        end = sequence.start + len(sequence.token_ids)
        return [block_ids[at // size] * size + at % size for at in range(sequence.start, end)]

    def _block_table(self, sequence: ScheduledSequence) -> torch.Tensor:
        known = self._tables.get(sequence.slot)
        if known is not None and known[0] == sequence.block_ids:
            return known[1]
        table = self._tensor(sequence.block_ids)
        self._tables[sequence.slot] = (sequence.block_ids, table)
        return table

    def _tensor(self, values: list[int] | tuple[int, ...]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self._device)


def _segments(plan: StepPlan, spans: tuple[Span, ...]) -> tuple[Segment, ...]:
    """The spans, cut behind every token after which a snapshot is taken."""
    if not any(sequence.snapshots for sequence in plan.sequences):
        return (Segment(0, spans[-1].end, spans),)
    segments: list[Segment] = []
    begun: list[Span] = []
    start = 0

    def end_segment(end: int, copies: tuple[tuple[int, int], ...] = ()) -> None:
        nonlocal start
        segments.append(Segment(start, end, tuple(begun), copies))
        begun.clear()
        start = end

    for sequence, span in zip(plan.sequences, spans, strict=True):
        done = 0
        for snapshot in sequence.snapshots:
            begun.append(_part(span, done, snapshot.num_tokens, start))
            done = snapshot.num_tokens
            end_segment(span.start + done, ((span.slot, snapshot.to_slot),))
        if done < span.num_rows:
            begun.append(_part(span, done, span.num_rows, start))
    if begun:
        end_segment(spans[-1].end)
    return tuple(segments)


def _part(span: Span, first: int, last: int, segment_start: int) -> Span:
    """Rows `first` … `last - 1` of a span, as part of a segment."""
    start, position = span.start + first - segment_start, span.position + first
    return replace(span, start=start, num_rows=last - first, position=position)
