"""From files and generated conversations to the token windows that training reads, kept in one .npz file a kind.

A window is a fixed number of token ids with a weight for each: 0 where nothing is to be learnt (everything in a
conversation but the assistant's turns), 1 in source, more in answers. Windows come in several kinds, and training
mixes them.
"""

import argparse
import random
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jinja2 import Template
from tokenizers import Tokenizer

from .conversations import chat, copying, snippets_in, tool_use
from .corpus import default_site_packages, default_stdlib, training_files
from .tokenizer import END, END_OF_TURN, START_OF_TURN, load_template, render, token_id, train_tokenizer
from .words import Words

WINDOW = 1024
USED_TOKENS = 4070
ANSWER_WEIGHT = 2.5


def fim(text: str, rng: random.Random) -> str:
    """A piece of a file as a fill-in-the-middle task: a line, part of a line or a few lines are the middle."""
    lines = text.split("\n")
    start = rng.randrange(max(1, len(lines) - 20))
    piece = "\n".join(lines[start : start + rng.randint(8, 40)])[:2200]
    left = rng.randrange(len(piece))
    right = min(len(piece), left + rng.randint(4, 160))
    if rng.random() < 0.5:
        left = piece.rfind("\n", 0, left) + 1
    if rng.random() < 0.5 and "\n" in piece[right:]:
        right = piece.index("\n", right)
    return f"<|fim_prefix|>{piece[:left]}<|fim_suffix|>{piece[right:]}<|fim_middle|>{piece[left:right]}"


class Encoder:
    """Texts to pairs of ids and weights."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.end = token_id(tokenizer, END)
        self.close = token_id(tokenizer, END_OF_TURN)
        self.opening = tokenizer.encode(f"{START_OF_TURN}assistant\n").ids

    def text(self, text: str) -> tuple[list[int], list[float]]:
        ids = [*self.tokenizer.encode(text).ids, self.end]
        return ids, [1.0] * len(ids)

    def dialogue(self, text: str) -> tuple[list[int], list[float]]:
        """Weights only from after each assistant header to the end of that turn."""
        ids = self.tokenizer.encode(text).ids
        weights = [0.0] * len(ids)
        answering = False
        for index, token in enumerate(ids):
            if answering:
                weights[index] = ANSWER_WEIGHT
                answering = token != self.close
            elif ids[max(0, index - len(self.opening) + 1) : index + 1] == self.opening:
                answering = True
        return [*ids, self.end], [*weights, 0.0]


def streamed(pieces: Iterable[tuple[list[int], list[float]]]) -> tuple[np.ndarray, np.ndarray]:
    """Windows cut from one long stream."""
    ids: list[int] = []
    weights: list[float] = []
    for more_ids, more_weights in pieces:
        ids += more_ids
        weights += more_weights
    usable = len(ids) // WINDOW * WINDOW
    return (
        np.array(ids[:usable], np.uint16).reshape(-1, WINDOW),
        np.array(weights[:usable], np.float16).reshape(-1, WINDOW),
    )


def packed(pieces: Iterable[tuple[list[int], list[float]]], end: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows that begin with the beginning of a piece and hold as many whole pieces as fit."""
    windows: list[tuple[list[int], list[float]]] = []
    ids: list[int] = []
    weights: list[float] = []
    for more_ids, more_weights in pieces:
        if ids and len(ids) + len(more_ids) > WINDOW + 16:
            windows.append((ids, weights))
            ids, weights = [], []
        ids, weights = ids + more_ids, weights + more_weights
    rows = np.full((len(windows), WINDOW), end, np.uint16)
    row_weights = np.zeros((len(windows), WINDOW), np.float16)
    for row, (ids, weights) in enumerate(windows):
        rows[row, : len(ids)] = ids[:WINDOW]
        row_weights[row, : len(weights)] = weights[:WINDOW]
    return rows, row_weights


def prepare(stdlib: Path, site_packages: Path, template: Template, out: Path, seed: int, dialogues: int) -> None:
    """Train the tokenizer, unless `out` has one, and write the windows of every kind to `out`."""
    rng = random.Random(seed)
    words = Words(rng)
    files = list(training_files(stdlib, site_packages))
    rng.shuffle(files)
    snippets = [snippet for file in files for snippet in snippets_in(file.text)]
    print(f"{len(files)} files, {sum(len(f.text) for f in files):,} characters, {len(snippets)} snippets", flush=True)
    texts = {
        "tools": [render(template, tool_use(words)) for _ in range(dialogues)],
        "chat": [render(template, chat(words, snippets)) for _ in range(2 * dialogues)],
        "copy": [render(template, copying(words)) for _ in range(dialogues)],
    }
    path = out / "tokenizer.json"
    if not path.exists():
        sample = [file.text for file in sorted(files, key=lambda f: f.origin != "stdlib")][: len(files) // 2]
        sample += texts["tools"][: dialogues // 8] + texts["chat"][: dialogues // 2]
        train_tokenizer(sample, USED_TOKENS).save(str(path))
    encoder = Encoder(Tokenizer.from_file(str(path)))
    for kind, dialogue_texts in texts.items():
        write(out, kind, *packed((encoder.dialogue(text) for text in dialogue_texts), encoder.end))
    write(out, "fim", *packed((encoder.text(fim(file.text, rng)) for file in files for _ in range(2)), encoder.end))
    write(out, "stdlib", *streamed(encoder.text(file.text) for file in files if file.origin == "stdlib"))
    write(out, "packages", *streamed(encoder.text(file.text) for file in files if file.origin != "stdlib"))


def write(out: Path, kind: str, ids: np.ndarray, weights: np.ndarray) -> None:
    """Write the windows of one kind and say how many there are."""
    np.savez(out / f"{kind}.npz", ids=ids, weights=weights)
    print(
        f"{kind}: {len(ids)} windows, {np.count_nonzero(weights) / weights.size:.1%} of the tokens learnt", flush=True
    )


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Train the tokenizer and prepare the training windows.")
    parser.add_argument("--stdlib", type=Path, default=default_stdlib(), help="standard library to learn from")
    parser.add_argument("--site-packages", type=Path, default=default_site_packages(), help="packages to learn from")
    parser.add_argument("--template", type=Path, required=True, help="the chat template")
    parser.add_argument("--out", type=Path, required=True, help="folder for tokenizer.json and the windows")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dialogues", type=int, default=8000, help="tool conversations; twice as many plain ones")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    template = load_template(arguments.template)
    prepare(arguments.stdlib, arguments.site_packages, template, arguments.out, arguments.seed, arguments.dialogues)


if __name__ == "__main__":
    main()
