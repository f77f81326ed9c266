"""Compares the training module with transformers on an exported model: both must give the same logits."""

import argparse
from pathlib import Path

import torch
from transformers import Qwen3NextForCausalLM

from .model import Nano, NanoConfig


def largest_difference(checkpoint: Path, folder: Path, length: int) -> tuple[float, float]:
    """The largest difference of two logits, in fp32 on the exported bf16 weights, and the largest logit."""
    state = torch.load(checkpoint)
    ours = Nano(NanoConfig(**state["config"]))
    ours.load_state_dict({name: tensor.bfloat16().float() for name, tensor in state["average"].items()})
    theirs = Qwen3NextForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.manual_seed(0)
    ids = torch.randint(0, ours.config.vocab_size, (2, length))
    with torch.inference_mode():
        wanted = theirs(ids).logits
        got = ours.lm_head(ours(ids)[0])
    return (got - wanted).abs().max().item(), wanted.abs().max().item()


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Compare the training module with transformers.")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="the folder exported from that checkpoint")
    parser.add_argument("--length", type=int, default=200)
    arguments = parser.parse_args()
    difference, largest = largest_difference(arguments.checkpoint, arguments.model, arguments.length)
    print(f"largest difference of logits {difference:.2e} (largest logit {largest:.1f})")


if __name__ == "__main__":
    main()
