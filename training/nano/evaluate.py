"""Measures an exported model: bits per byte on held-out modules, right tool calls, and what it says.

Everything runs through transformers' own implementation of the architecture, in bf16 and greedily, so that the numbers
belong to the files and not to the training code.
"""

import argparse
import json
import lzma
import math
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import Qwen3NextForCausalLM

from .conversations import Conversation, single_request
from .corpus import default_stdlib, held_out
from .tokenizer import END, END_OF_TURN, load_template, render, token_id
from .tools import Request, Tool
from .words import Words

WINDOW, STRIDE, BATCH = 1024, 768, 16
CALL = re.compile(r"\s*<tool_call>\n<function=([^>\n]+)>\n(.*?)</function>\n</tool_call>\s*", re.DOTALL)
PARAMETER = re.compile(r"<parameter=([^>\n]+)>\n(.*?)\n</parameter>\n", re.DOTALL)
PROMPTS = (
    "hi", "Hello!", "What can you do?", "Write a Python function that adds two numbers",
    "Write a Python function that reverses a string.", "How do I read a JSON file in Python?",
    "Write fibonacci in Python", "What does the keyword yield do?", "What is a decorator?",
    "Write a function that counts the vowels in a word", "Explain recursion", "thanks!",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Folder:
    """A model folder, loaded."""

    model: Any  # transformers types its models only in part
    tokenizer: Tokenizer
    path: Path

    @classmethod
    def load(cls, path: Path) -> "Folder":
        model: Any = Qwen3NextForCausalLM.from_pretrained(path, dtype=torch.bfloat16)
        return cls(model.eval(), Tokenizer.from_file(str(path / "tokenizer.json")), path)

    def id_of(self, token: str) -> int:
        return token_id(self.tokenizer, token)

    def answers(self, conversations: list[Conversation], limit: int = 300) -> list[str]:
        """The greedy answers, without the token that ended them; an answer cut at the limit ends with "…"."""
        template = load_template(self.path / "chat_template.jinja")
        prompts = [self.tokenizer.encode(render(template, c, prompt=True)).ids for c in conversations]
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        texts = [""] * len(prompts)
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            for index, text in zip(batch, self.generate([prompts[i] for i in batch], limit), strict=True):
                texts[index] = text
        return texts

    def generate(self, prompts: list[list[int]], limit: int) -> list[str]:
        ends = [self.id_of(END_OF_TURN), self.id_of(END)]
        width = max(map(len, prompts))
        ids = torch.tensor([[ends[1]] * (width - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
        with torch.inference_mode():
            output = self.model.generate(
                ids, attention_mask=mask, max_new_tokens=limit, eos_token_id=ends, pad_token_id=ends[1],
                do_sample=False, temperature=None, top_p=None, top_k=None,
            )  # fmt: skip
        texts = []
        for row in output[:, width:].tolist():
            length = next((i for i, token in enumerate(row) if token in ends), None)
            text = self.tokenizer.decode(row[:length], skip_special_tokens=False)
            texts.append(text if length is not None else text + "…")
        return texts


def bits(folder: Folder, text: str) -> float:
    """The bits that the model needs for a text, which it reads in overlapping windows after an end-of-text token."""
    ids = [folder.id_of(END), *folder.tokenizer.encode(text).ids]
    starts = list(range(0, max(1, len(ids) - WINDOW + STRIDE), STRIDE))
    total = 0.0
    for first in range(0, len(starts), BATCH):
        batch = starts[first : first + BATCH]
        rows = [ids[start : start + WINDOW] for start in batch]
        width = max(map(len, rows))
        window = torch.tensor([row + [ids[0]] * (width - len(row)) for row in rows])
        with torch.inference_mode():
            logits = folder.model(window).logits[:, :-1].float()
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), window[:, 1:], reduction="none")
        for start, row, loss in zip(batch, rows, losses, strict=True):
            seen = WINDOW - STRIDE if start else 1  # what the window before has scored
            total += loss[seen - 1 : len(row) - 1].sum().item()
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
    """Whether a text is exactly the call that a request asks for."""
    wanted = {k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in request.arguments.items()}
    return parse_call(text) == (tool.name, wanted)


def tool_calls(folder: Folder, count: int, seed: int, unseen_words: bool, show: int) -> tuple[int, int]:
    """How many of `count` generated requests get exactly the right call, and how many get a well-formed one."""
    words = Words(random.Random(seed), held_out=unseen_words)
    asked = [single_request(words) for _ in range(count)]
    texts = folder.answers([conversation for conversation, _, _ in asked])
    right = formed = 0
    for text, (_, tool, request) in zip(texts, asked, strict=True):
        good = is_right(text, tool, request)
        right += good
        formed += parse_call(text) is not None
        if not good and show > 0:
            show -= 1
            print(f"  wrong: {request.text!r}\n    wanted {tool.name} {request.arguments}\n    got {text!r}")
    return right, formed


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Measure an exported model.")
    parser.add_argument("--model", type=Path, required=True, help="the model folder")
    parser.add_argument(
        "--stdlib", type=Path, default=default_stdlib(), help="standard library with the held-out modules"
    )
    parser.add_argument("--modules", type=int, default=1000, help="at most this many held-out modules")
    parser.add_argument("--requests", type=int, default=200, help="tool requests of each kind")
    parser.add_argument("--seed", type=int, default=20_000)
    parser.add_argument("--show", type=int, default=0, help="print this many wrong calls of each kind")
    arguments = parser.parse_args()
    folder = Folder.load(arguments.model)
    answers = folder.answers([Conversation([{"role": "user", "content": prompt}]) for prompt in PROMPTS])
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        print(f"> {prompt}\n{answer}\n", flush=True)
    for unseen, label in ((False, "training vocabulary, other seed"), (True, "held-out vocabulary")):
        right, formed = tool_calls(folder, arguments.requests, arguments.seed, unseen, arguments.show)
        share = arguments.requests / 100
        print(f"tool calls, {label}: {right / share:.1f} % right, {formed / share:.1f} % well-formed", flush=True)
    model_bpb, xz_bpb, count = compression(folder, arguments.stdlib, arguments.modules)
    print(f"{count} held-out modules: {model_bpb:.3f} bits per byte (xz -9, module by module: {xz_bpb:.3f})")


if __name__ == "__main__":
    main()
