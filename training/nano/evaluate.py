"""Measures a checkpoint as it is exported: bits per byte on held-out modules, right tool calls, and what it says.

It reads with the training module, whose agreement with transformers `parity.py` checks, on the weights rounded to bf16
and greedily. That is many times faster on a CPU than generating with a library made for large models.
"""

import argparse
import lzma
import math
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from jinja2 import Template
from tokenizers import Tokenizer
from torch import Tensor

from .conversations import Conversation, call_message, single_request
from .corpus import default_stdlib, held_out
from .model import Nano, NanoConfig
from .tokenizer import END, END_OF_TURN, load_template, render, token_id
from .words import Words

WINDOW, STRIDE, BATCH = 1024, 768, 8
PROMPTS = (
    "hi", "Hello!", "What can you do?", "Write a Python function that adds two numbers",
    "Write a Python function that reverses a string.", "How do I read a JSON file in Python?",
    "Write fibonacci in Python", "What does the keyword yield do?", "What is a decorator?",
    "Write a function that counts the vowels in a word", "Explain recursion", "thanks!",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Subject:
    """A model with its tokenizer and template."""

    model: Nano
    tokenizer: Tokenizer
    template: Template

    @classmethod
    def load(cls, checkpoint: Path, folder: Path) -> "Subject":
        state = torch.load(checkpoint)
        model = Nano(NanoConfig(**state["config"]))
        model.load_state_dict({name: tensor.bfloat16().float() for name, tensor in state["average"].items()})
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        return cls(model.eval(), tokenizer, load_template(folder / "chat_template.jinja"))

    def logits(self, rows: list[list[int]]) -> Tensor:
        """Next-token logits for rows of ids, which are padded on the right to one length."""
        width = max(map(len, rows))
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            hidden, _ = self.model(torch.tensor([row + [0] * (width - len(row)) for row in rows]))
            logits: Tensor = self.model.lm_head(hidden)
        return logits.float()

    def answers(self, questions: tuple[str, ...], limit: int = 120) -> list[str]:
        """The greedy answers to single questions; one that does not end within the limit ends with "…"."""
        ends = {token_id(self.tokenizer, END_OF_TURN), token_id(self.tokenizer, END)}
        conversations = [Conversation([{"role": "user", "content": question}]) for question in questions]
        rows = [self.tokenizer.encode(render(self.template, c, prompt=True)).ids for c in conversations]
        starts = [len(row) for row in rows]
        for _ in range(limit):
            going = [row for row, start in zip(rows, starts, strict=True) if len(row) == start or row[-1] not in ends]
            if not going:
                break
            for row, logits in zip(going, self.logits(going), strict=True):
                row.append(int(logits[len(row) - 1].argmax()))
        texts = []
        for row, start in zip(rows, starts, strict=True):
            ended = row[-1] in ends
            text = self.tokenizer.decode(row[start:-1] if ended else row[start:], skip_special_tokens=False)
            texts.append(text if ended else text + "…")
        return texts


def bits(subject: Subject, text: str) -> float:
    """The bits that the model needs for a text, which it reads in overlapping windows after an end-of-text token."""
    ids = [token_id(subject.tokenizer, END), *subject.tokenizer.encode(text).ids]
    starts = list(range(0, max(1, len(ids) - WINDOW + STRIDE), STRIDE))
    total = 0.0
    for first in range(0, len(starts), BATCH):
        batch = starts[first : first + BATCH]
        rows = [ids[start : start + WINDOW] for start in batch]
        for start, row, logits in zip(batch, rows, subject.logits(rows), strict=True):
            seen = WINDOW - STRIDE if start else 1  # what the window before has scored
            wanted = torch.tensor(row[seen:])
            total += torch.nn.functional.cross_entropy(logits[seen - 1 : len(row) - 1], wanted, reduction="sum").item()
    return total / math.log(2)


def compression(subject: Subject, stdlib: Path, limit: int) -> tuple[float, float, int]:
    """Bits per byte of the model and of `xz -9` over the held-out modules, and how many modules there were."""
    model_bits = xz_bits = size = 0.0
    files = held_out(stdlib)[:limit]
    for file in files:
        raw = file.text.encode()
        model_bits += bits(subject, file.text)
        xz_bits += 8 * len(lzma.compress(raw, preset=9))
        size += len(raw)
    return model_bits / size, xz_bits / size, len(files)


def tool_calls(subject: Subject, count: int, seed: int, unseen_words: bool, show: int) -> tuple[int, int]:
    """How many of `count` generated requests get exactly the right call greedily, and how many the right function.

    Nothing is generated: a greedy answer is the wanted text exactly if, reading that text, the model expects every next
    token of it. The text ends with the token that ends the turn, so a right answer is one call and nothing else.
    """
    words = Words(random.Random(seed), held_out=unseen_words)
    asked = []
    for _ in range(count):
        conversation, tool, request = single_request(words)
        prompt = render(subject.template, conversation, prompt=True)
        answered = Conversation([*conversation.messages, call_message(tool, [request])], conversation.tools)
        answer = render(subject.template, answered).removeprefix(prompt).removesuffix("\n")
        opening = f"<tool_call>\n<function={tool.name}>\n"
        asked.append([subject.tokenizer.encode(text).ids for text in (prompt, answer, opening)])
    asked.sort(key=lambda parts: len(parts[0]) + len(parts[1]))
    right = named = 0
    for first in range(0, count, BATCH):
        batch = asked[first : first + BATCH]
        guesses = subject.logits([prompt_ids + wanted for prompt_ids, wanted, _ in batch]).argmax(-1).tolist()
        for (prompt_ids, wanted, name), guess in zip(batch, guesses, strict=True):
            got = guess[len(prompt_ids) - 1 : len(prompt_ids) - 1 + len(wanted)]
            right += got == wanted
            named += got[: len(name)] == name
            if got != wanted and show > 0:
                show -= 1
                wanted_text, got_text = (subject.tokenizer.decode(i, skip_special_tokens=False) for i in (wanted, got))
                print(f"  wanted {wanted_text!r}\n  expected token by token {got_text!r}")
    return right, named


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Measure a checkpoint as it is exported.")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="the model folder, for tokenizer and template")
    parser.add_argument("--stdlib", type=Path, default=default_stdlib(), help="where the held-out modules are")
    parser.add_argument("--modules", type=int, default=1000, help="at most this many held-out modules")
    parser.add_argument("--requests", type=int, default=200, help="tool requests of each kind")
    parser.add_argument("--seed", type=int, default=20_000)
    parser.add_argument("--show", type=int, default=0, help="print this many wrong calls of each kind")
    arguments = parser.parse_args()
    subject = Subject.load(arguments.checkpoint, arguments.model)
    for prompt, answer in zip(PROMPTS, subject.answers(PROMPTS), strict=True):
        print(f"> {prompt}\n{answer}\n", flush=True)
    for unseen, label in ((False, "training vocabulary, other seed"), (True, "held-out vocabulary")):
        right, named = tool_calls(subject, arguments.requests, arguments.seed, unseen, arguments.show)
        share = arguments.requests / 100
        print(f"tool calls, {label}: {right / share:.1f} % right, {named / share:.1f} % the right function", flush=True)
    model_bpb, xz_bpb, count = compression(subject, arguments.stdlib, arguments.modules)
    print(f"{count} held-out modules: {model_bpb:.3f} bits per byte (xz -9, module by module: {xz_bpb:.3f})")


if __name__ == "__main__":
    main()
