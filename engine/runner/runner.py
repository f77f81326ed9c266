"""`Runner`: the executor that computes. Reset, forward, sample, in this order, on one thread."""

import time

import torch

from engine.model.qwen3_next import Qwen3Next
from engine.plan import StateAction, StepPlan, StepResult
from engine.runner.inputs import token_batch
from engine.runner.storage import Storage
from engine.sampling.sampler import sample


class Runner:
    """Carries out plans with a model and its storage. Ids from `num_used_tokens` up are never drawn."""

    def __init__(self, model: Qwen3Next, storage: Storage, block_size: int, num_used_tokens: int) -> None:
        self._model = model
        self._storage = storage
        self._block_size = block_size
        self._num_used_tokens = num_used_tokens
        self._device = model.embedding.device

    @torch.inference_mode()
    def execute(self, plan: StepPlan) -> StepResult:
        """See `engine.plan.Executor`."""
        started = time.perf_counter()
        for sequence in plan.sequences:
            if sequence.state is StateAction.RESET:
                self._storage.reset_slot(sequence.slot)
        batch = token_batch(plan, self._block_size, self._device)
        logits = self._model.forward(batch, self._storage.layers)
        sampled = [(s.seq_id, s.sample) for s in plan.sequences if s.sample is not None]
        results = tuple(
            sample(seq_id, row, spec, self._num_used_tokens)
            for (seq_id, spec), row in zip(sampled, logits, strict=True)
        )
        return StepResult(results, time.perf_counter() - started)
