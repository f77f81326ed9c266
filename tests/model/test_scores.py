"""Scores of prompts against what transformers' model gives, on tiny random checkpoints."""

from pathlib import Path

import pytest
import torch

from engine.loading import load_model
from engine.types import GenerationRequest, SamplingParams
from engine.weights.checkpoint import open_checkpoint
from tests.support.engines import CPU, run
from tests.support.tiny_models import random_model, save

NUM_TOKENS, NUM_TOP = 150, 5


@pytest.mark.parametrize("tokens_per_step", [40, 2048])
@pytest.mark.parametrize("kernels", ["reference", "auto"])
def test_scores_are_those_of_transformers(
    kernels: str, tokens_per_step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DELTALOOP_KERNELS", kernels)
    theirs = random_model(seed=3)
    ids = torch.randint(0, theirs.config.vocab_size, (NUM_TOKENS,), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        truth = theirs(ids[None]).logits[0].double().log_softmax(-1)[:-1]
    model, _ = load_model(open_checkpoint(save(theirs, tmp_path)), torch.float32, CPU)
    request = GenerationRequest("r", tuple(ids.tolist()), SamplingParams(max_tokens=0, prompt_logprobs=NUM_TOP))
    scores = run(model, [(0, request)], max_tokens_per_step=tokens_per_step)["r"].prompt_logprobs
    assert [score.token_id for score in scores] == ids[1:].tolist()
    for score, expected in zip(scores, truth, strict=True):
        best = expected.topk(NUM_TOP)
        assert score.logprob == pytest.approx(float(expected[score.token_id]), abs=2e-3)
        assert [value for _, value in score.top] == pytest.approx(best.values.tolist(), abs=2e-3)
        assert all(value == pytest.approx(float(expected[i]), abs=2e-3) for i, value in score.top)
