"""`Runner`: the executor that computes. Reset or restore, forward, score, sample, in this order, on one thread."""

import time
from collections.abc import Callable
from functools import partial

import torch

from engine.model.qwen3_next import Qwen3Next
from engine.plan import StateAction, StepPlan, StepResult, nobody
from engine.runner.inputs import BatchBuilder
from engine.runner.storage import Storage
from engine.sampling.sampler import Masks, no_mask, sample
from engine.sampling.scorer import score, with_scores


class Runner:
    """Carries out plans with a model and its storage. Ids from `num_used_tokens` up are never drawn, and `masks` say
    what constraints admit."""

    def __init__(
        self, model: Qwen3Next, storage: Storage, block_size: int, num_used_tokens: int, masks: Masks = no_mask
    ) -> None:
        self._model = model
        self._storage = storage
        self._batches = BatchBuilder(block_size, model.embedding.device)
        self._num_used_tokens = num_used_tokens
        self._masks = masks

    @torch.inference_mode()
    def execute(self, plan: StepPlan, on_begun: Callable[[], object] = nobody) -> StepResult:
        """See `engine.plan.Executor`."""
        started = time.perf_counter()
        for sequence in plan.sequences:
            if sequence.state is StateAction.RESET:
                self._storage.reset_slot(sequence.slot)
            elif sequence.restore is not None:
                self._storage.restore(sequence.slot, sequence.restore)
        batch = self._batches.build(plan)
        on_begun()
        logits = partial(self._model.logits, self._model.forward(batch, self._storage.layers))
        kernel = self._model.kernels.sample
        scores = score(kernel, logits, batch.score_rows, plan)
        results = sample(kernel, logits(batch.sample_rows), plan, self._num_used_tokens, self._masks)
        return StepResult(with_scores(results, scores, plan), time.perf_counter() - started)
