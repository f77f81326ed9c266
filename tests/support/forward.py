"""Driving the real model below the scheduler: a folder in, logits of given chunks out."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from engine.loading import load_model
from engine.plan import SampleSpec, ScheduledSequence, StateAction, StepPlan
from engine.runner.inputs import token_batch
from engine.runner.storage import Storage
from engine.types import SamplingParams
from engine.weights.checkpoint import open_checkpoint

BLOCK_SIZE = 16
CPU = torch.device("cpu")


class Forward:
    """A loaded model with storage for a few sequences; `chunk` computes more tokens of one or several."""

    def __init__(
        self, folder: Path, dtype: torch.dtype = torch.float32, num_slots: int = 20, max_len: int = 512
    ) -> None:
        checkpoint = open_checkpoint(folder)
        config = checkpoint.config
        self.model, _ = load_model(checkpoint, dtype, CPU)
        kv_dtype = torch.float32 if dtype == torch.float32 else torch.bfloat16
        self._blocks_per_seq = -(-max_len // BLOCK_SIZE)
        self.storage = Storage.allocate(config, num_slots * self._blocks_per_seq, BLOCK_SIZE, num_slots, kv_dtype, CPU)

    def step(self, work: Sequence[tuple[int, int, Sequence[int]]]) -> list[Tensor]:
        """One forward pass over (slot, start, token ids) of several sequences; logits of every row, by sequence."""
        sequences = []
        for slot, start, token_ids in work:
            if start == 0:
                self.storage.reset_slot(slot)
            num_blocks = -(-(start + len(token_ids)) // BLOCK_SIZE)
            first = slot * self._blocks_per_seq
            blocks = tuple(first + (7 * i + slot) % self._blocks_per_seq for i in range(num_blocks))
            spec = SampleSpec(SamplingParams(), seed=0, choice=0, position=0)
            sequences.append(ScheduledSequence(slot, start, tuple(token_ids), blocks, slot, StateAction.CONTINUE, spec))
        batch = token_batch(StepPlan(1, tuple(sequences)), BLOCK_SIZE, CPU)
        logits = self.model.logits(self.model.forward(batch, self.storage.layers), torch.arange(len(batch.token_ids)))
        return [logits[span.start : span.end] for span in batch.spans]

    def logits(self, ids: Sequence[int], chunks: Sequence[int], slot: int = 0) -> Tensor:
        """Logits of all positions, computed in chunks of these lengths."""
        assert sum(chunks) == len(ids)
        out, start = [], 0
        for length in chunks:
            out += self.step([(slot, start, ids[start : start + length])])
            start += length
        return torch.cat(out)
