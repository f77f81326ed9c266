"""Measures an exported model: bits per byte on held-out modules, right tool calls, and what it says.

Everything runs through transformers' own implementation of the architecture, greedily, in fp32 arithmetic on the bf16
weights, so that the numbers belong to the files and not to the training code.
"""

import argparse
import json
import lzma
import math
import random
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import Qwen3NextForCausalLM

from .conversations import Conversation, single_request
from .corpus import default_stdlib, held_out
from .tokenizer import END, END_OF_TURN, load_template, render
from .tools import Request, Tool
from .words import Words

WINDOW, STRIDE = 1024, 512
CALL = re.compile(r"\s*<tool_call>\n<function=([^>\n]+)>\n(.*?)</function>\n</tool_call>\s*", re.DOTALL)
PARAMETER = re.compile(r"<parameter=([^>\n]+)>\n(.*?)\n</parameter>\n", re.DOTALL)
PROMPTS = (
    "hi", "Hello!", "What can you do?", "Write a Python function that adds two numbers",
    "Write a Python function that reverses a string.", "How do I read a JSON file in Python?", "Write fibonacci in Python",
    "What does the keyword yield do?", "What is a decorator?", "Write a function that counts the vowels in a word",
    "Explain recursion", "thanks!",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Folder:
    """A model folder, loaded."""

    model: Qwen3NextForCausalLM
    tokenizer: Tokenizer
    path: Path

    @classmethod
    def load(cls, path: Path) -> "Folder":
        model = Qwen3NextForCausalLM.from_pretrained(path, dtype=torch.float32)
        return cls(model.eval(), Tokenizer.from_file(str(path / "tokenizer.json")), path)

    def answer(self, conversation: Conversation, limit: int = 400) -> str:
        """The greedy answer, without the token that ended it; an answer cut at the limit ends with "…"."""
        prompt = render(load_template(self.path / "chat_template.jinja"), conversation, prompt=True)
        ids = self.tokenizer.encode(prompt).ids
        ends = [self.tokenizer.token_to_id(END_OF_TURN), self.tokenizer.token_to_id(END)]
        with torch.inference_mode():
            output = self.model.generate(
                torch.tensor([ids]), max_new_tokens=limit, do_sample=False, temperature=None, top_p=None, top_k=None,
                eos_token_id=ends,
            )  # fmt: skip
        new = output[0, len(ids) :].tolist()
        text = self.tokenizer.decode([token for token in new if token not in ends], skip_special_tokens=False)
        return text if new[-1] in ends else text + "…"


def bits(folder: Folder, text: str) -> float:
    """The bits that the model needs for a text, which it reads in overlapping windows after an end-of-text token."""
    ids = [folder.tokenizer.token_to_id(END), *folder.tokenizer.encode(text).ids]
    total, scored = 0.0, 1
    while scored < len(ids):
        start = max(0, min(scored - STRIDE, len(ids) - WINDOW))
        window = torch.tensor([ids[start : start + WINDOW]])
        with torch.inference_mode():
            logits = folder.model(window).logits[0, :-1].float()
        losses = torch.nn.functional.cross_entropy(logits, window[0, 1:], reduction="none")
        total += losses[scored - start - 1 :].sum().item()
        scored = start + window.shape[1]
    return total / math.log(2)


def compression(folder: Folder, stdlib: Path, limit: int) -> tuple[float, float, int]:
    """Bits per byte of the model and of `xz -9` over the held-out modules, and how many modules there were."""
    model_bits = xz_bits = size = 0.0
    files = held_out(stdlib)[:limit]
    for file in files:
        raw = file.text.encode()
        model_bits += bits(folder, file.text)
        xz_bits += 8 * len(lzma.compress(raw, preset=9))
        size += len(raw)
    return model_bits / size, xz_bits / size, len(files)


def parse_call(text: str) -> tuple[str, dict[str, str]] | None:
    """Name and raw arguments, if the text is exactly one well-formed call."""
    match = CALL.fullmatch(text)
    if match is None:
        return None
    parameters = PARAMETER.findall(match[2])
    if "".join(f"<parameter={k}>\n{v}\n</parameter>\n" for k, v in parameters) != match[2]:
        return None
    return match[1], dict(parameters)


def is_right(text: str, tool: Tool, request: Request) -> bool:
    wanted = {k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in request.arguments.items()}
    return parse_call(text) == (tool.name, wanted)


def tool_calls(folder: Folder, count: int, seed: int, unseen_words: bool, show: int) -> tuple[int, int]:
    """How many of `count` generated requests get exactly the right call, and how many get a well-formed one."""
    words = Words(random.Random(seed), held_out=unseen_words)
    right = formed = 0
    for _ in range(count):
        conversation, tool, request = single_request(words)
        text = folder.answer(conversation)
        good = is_right(text, tool, request)
        right += good
        formed += parse_call(text) is not None
        if not good and show > 0:
            show -= 1
            print(f"  wrong: {request.text!r}\n    wanted {tool.name} {request.arguments}\n    got {text!r}", flush=True)
    return right, formed


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure an exported model.")
    parser.add_argument("--model", type=Path, required=True, help="the model folder")
    parser.add_argument("--stdlib", type=Path, default=default_stdlib(), help="standard library with the held-out modules")
    parser.add_argument("--modules", type=int, default=1000, help="at most this many held-out modules")
    parser.add_argument("--requests", type=int, default=200, help="tool requests of each kind")
    parser.add_argument("--seed", type=int, default=20_000)
    parser.add_argument("--show", type=int, default=0, help="print this many wrong calls of each kind")
    arguments = parser.parse_args()
    folder = Folder.load(arguments.model)
    for prompt in PROMPTS:
        print(f"> {prompt}\n{folder.answer(Conversation([{'role': 'user', 'content': prompt}]))}\n", flush=True)
    for unseen, label in ((False, "training vocabulary, other seed"), (True, "held-out vocabulary")):
        right, formed = tool_calls(folder, arguments.requests, arguments.seed, unseen, arguments.show)
        share = arguments.requests / 100
        print(f"tool calls, {label}: {right / share:.1f} % right, {formed / share:.1f} % well-formed", flush=True)
    model_bpb, xz_bpb, count = compression(folder, arguments.stdlib, arguments.modules)
    print(f"{count} held-out modules: {model_bpb:.3f} bits per byte (xz -9, module by module: {xz_bpb:.3f})")


if __name__ == "__main__":
    main()
