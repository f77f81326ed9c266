"""llama.cpp, through the low-level interface of llama-cpp-python: a subject to measure, and the quantiser of its files.

    python -m benchmarks.llama quantise SOURCE.gguf PRESET OUT.gguf
    python -m benchmarks.llama logits MODEL.gguf IDS.json OUT.npy [--threads 2]

Runs in whatever environment has llama-cpp-python, so it imports nothing else but numpy.
"""

import argparse
import importlib
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.subjects import Generated, add_to

BATCH_TOKENS = 2048  # n_batch, llama.cpp's default: the most one call takes
ROUND = 256  # contexts are multiples of it


class Row(NamedTuple):
    """One token of a batch: where it stands in which stream, and whether the next token is wanted."""

    token_id: int
    position: int
    stream: int
    wanted: bool


class LlamaCpp:
    """A model file in llama.cpp, mapped, with flash attention as it chooses and its other defaults.

    It computes `ubatch` tokens at once. With `repack` it rearranges weights for this processor where it can, as it does
    unless told otherwise; without, it computes with all of them as they lie in the file.
    """

    def __init__(self, model: Path, threads: int, ubatch: int = 512, repack: bool = True) -> None:
        self._lib = _library()
        self._threads, self._ubatch = threads, ubatch
        params = self._lib.llama_model_default_params()
        params.use_extra_bufts = repack
        self._model = self._lib.llama_model_load_from_file(str(model).encode(), params)
        if not self._model:
            raise SystemExit(f"llama.cpp cannot load {model}")
        self._vocab_size = self._lib.llama_vocab_n_tokens(self._lib.llama_model_get_vocab(self._model))
        self._batch = self._lib.llama_batch_init(BATCH_TOKENS, 0, 1)
        self._context: Any = None
        self._sizes = (0, 0)

    def generate(self, prompts: Sequence[Sequence[int]], num_tokens: int) -> Generated:
        """See `Subject`: all streams in one batch a step, as llama-batched-bench does it; the next token greedily."""
        self._open(len(prompts), max(map(len, prompts)) + num_tokens)
        generated = Generated.empty(len(prompts))
        started = time.perf_counter()
        rows = [
            Row(token_id, position, stream, position == len(ids) - 1)
            for stream, ids in enumerate(prompts)
            for position, token_id in enumerate(ids)
        ]
        for step in range(num_tokens):
            sampled = self._compute(rows)
            now = time.perf_counter() - started
            rows = []
            for stream, logits in enumerate(sampled):
                token_id = int(logits.argmax())
                add_to(generated, stream, token_id, now)
                rows.append(Row(token_id, len(prompts[stream]) + step, stream, True))
        return generated

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """The logits after every one of these tokens, fp32 [T, vocabulary]."""
        self._open(1, len(ids))
        return np.stack(self._compute([Row(token_id, i, 0, True) for i, token_id in enumerate(ids)]))

    def _open(self, num_streams: int, stream_tokens: int) -> None:
        """An empty context of just this size: a larger one could cost llama.cpp time."""
        tokens = -(-stream_tokens // ROUND) * ROUND
        if self._sizes == (num_streams, tokens):
            self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), True)
            return
        if self._context is not None:
            self._lib.llama_free(self._context)
        params = self._lib.llama_context_default_params()
        params.n_ctx, params.n_seq_max = num_streams * tokens, num_streams
        params.n_batch, params.n_ubatch = BATCH_TOKENS, self._ubatch
        params.n_threads = params.n_threads_batch = self._threads
        self._context = self._lib.llama_init_from_model(self._model, params)
        if not self._context:
            raise SystemExit(f"llama.cpp has no room for {num_streams} streams of {tokens} tokens")
        self._sizes = (num_streams, tokens)

    def _compute(self, rows: Sequence[Row]) -> list[NDArray[np.float32]]:
        """Logits of the wanted rows, in their order."""
        found = []
        for start in range(0, len(rows), BATCH_TOKENS):
            chunk = rows[start : start + BATCH_TOKENS]
            self._fill(chunk)
            if code := self._lib.llama_decode(self._context, self._batch):
                raise SystemExit(f"llama_decode failed with code {code}")
            found += [self._logits_of(i) for i, row in enumerate(chunk) if row.wanted]
        return found

    def _fill(self, rows: Sequence[Row]) -> None:
        batch = self._batch
        batch.n_tokens = len(rows)
        for i, row in enumerate(rows):
            batch.token[i], batch.pos[i] = row.token_id, row.position
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, row.stream
            batch.logits[i] = row.wanted

    def _logits_of(self, row: int) -> NDArray[np.float32]:
        """A copy: the next call overwrites llama.cpp's own."""
        found = self._lib.llama_get_logits_ith(self._context, row)
        return np.ctypeslib.as_array(found, (self._vocab_size,)).copy()


def quantise(source: Path, preset: str, out: Path) -> None:
    """Write `source` in a preset such as Q4_K_M, with llama.cpp's own choice of a type for each tensor."""
    lib = _library()
    params = lib.llama_model_quantize_default_params()
    params.ftype = getattr(lib, f"LLAMA_FTYPE_MOSTLY_{preset}")
    if lib.llama_model_quantize(str(source).encode(), str(out).encode(), params):
        raise SystemExit(f"llama_model_quantize failed for {preset}")


def _library() -> Any:
    logging.getLogger("llama-cpp-python").setLevel(logging.ERROR)  # before it loads anything it could report
    return importlib.import_module("llama_cpp.llama_cpp")


def main() -> None:
    """Quantise a file, or write a model's logits for the token ids in a JSON list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    quantising = commands.add_parser("quantise")
    quantising.add_argument("source", type=Path)
    quantising.add_argument("preset")
    quantising.add_argument("out", type=Path)
    computing = commands.add_parser("logits")
    computing.add_argument("model", type=Path)
    computing.add_argument("ids", type=Path)
    computing.add_argument("out", type=Path)
    computing.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    if args.command == "quantise":
        quantise(args.source, args.preset, args.out)
    else:
        np.save(args.out, LlamaCpp(args.model, args.threads).logits(json.loads(args.ids.read_text())))


if __name__ == "__main__":
    main()
