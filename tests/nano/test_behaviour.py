"""What the bundled model does, in the reference implementation: calls tools, knows some Python, stays finite."""

import json
import math
import re
import sysconfig
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import Qwen3NextForCausalLM
from transformers.utils import logging

FOLDER = Path(__file__).parents[2] / "engine" / "nano"
REQUESTS = json.loads(Path(__file__).with_name("tool_requests.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def model() -> Qwen3NextForCausalLM:
    logging.disable_progress_bar()
    return Qwen3NextForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


def continued(model: Qwen3NextForCausalLM, tokenizer: Tokenizer, prompt: str) -> str:
    """The greedy continuation up to the end of the turn."""
    ids = tokenizer.encode(prompt).ids
    end = tokenizer.token_to_id("<|im_end|>")
    with torch.inference_mode():
        output = model.generate(
            torch.tensor([ids]), max_new_tokens=120, eos_token_id=end, pad_token_id=end,
            do_sample=False, temperature=None, top_p=None, top_k=None,
        )  # fmt: skip
    assert output[0, -1] == end, "the answer does not end"
    return tokenizer.decode(output[0, len(ids) : -1].tolist(), skip_special_tokens=False)


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda r: r["name"])
def test_held_out_request_gets_the_right_call(model, tokenizer, request_):
    assert continued(model, tokenizer, request_["prompt"]) == request_["expected"]


def test_answers_a_request_for_code_with_code(model, tokenizer):
    question = "Write a Python function that adds two numbers"
    text = continued(model, tokenizer, f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n")
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert code
    assert "def " in code[1]
    compile(code[1], "answer", "exec")


def test_reads_a_held_out_module_better_than_xz(model, tokenizer):
    text = (Path(sysconfig.get_path("stdlib")) / "queue.py").read_text("utf-8")[:6000]
    ids = torch.tensor([[tokenizer.token_to_id("<|endoftext|>"), *tokenizer.encode(text).ids]])
    with torch.inference_mode():
        logits = model(ids).logits
    bits = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="sum").item() / math.log(2)
    assert bits / len(text.encode()) < 1.97


def test_stays_finite_at_long_positions(model, tokenizer):
    ids = torch.tensor([tokenizer.encode("def add(a, b):\n    return a + b\n").ids])
    near = torch.arange(ids.shape[1])[None]
    with torch.inference_mode():
        wanted = model(ids, position_ids=near).logits
        got = model(ids, position_ids=near + 130_000).logits
    torch.testing.assert_close(got, wanted, atol=0.05, rtol=0.05)  # attention sees only distances
