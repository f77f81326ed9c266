"""What computing with a quantised file costs in accuracy, ours beside llama.cpp's.

    python -m benchmarks.accuracy [--peer llama.cpp=/path/to/python] [--text FILE] [MODEL.gguf …]

Each file has an exact twin: the same numbers in fp32, through the `gguf` package's own dequantisation. For every token
of a text the command compares the next-token distribution on the file with that on the twin in fp32: mean and 99th
percentile of the Kullback-Leibler divergence, and how often the most likely token is the same. llama.cpp's figures on
the twin itself show how far the two engines agree on what is exact.

Without MODEL it takes Q4_K_M, Q5_K_M, Q6_K and Q8_0 of a slice small enough for a twin (6 GB) in memory.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import gguf
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.files import Files, Slice, default_folder
from benchmarks.subjects import REPOSITORY
from benchmarks.writing import write_results
from engine.loading import load_model
from engine.plan import ScheduledSequence, StateAction, StepPlan
from engine.runner.inputs import token_batch
from engine.runner.machine import num_cores
from engine.runner.storage import Storage
from engine.weights.checkpoint import open_checkpoint
from server.chat.tokenizer import Tokenizer
from server.model import read_files

PRESETS = ("Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0")
BLOCK_SIZE = 64
F32 = gguf.GGMLQuantizationType.F32
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Divergence:
    """From the exact distribution of the next token, over many positions; divergences in nats.

    `standard_error` is that of the mean: differences between engines below it say nothing.
    """

    mean: float
    standard_error: float
    p99: float
    same_token: float

    @classmethod
    def between(cls, exact: Tensor, computed: Tensor) -> "Divergence":
        """Of logits [T, vocabulary] each."""
        per_position = torch.stack([_divergence(p, q) for p, q in zip(exact, computed, strict=True)])
        same = (exact.argmax(-1) == computed.argmax(-1)).double().mean()
        return cls(
            mean=float(per_position.mean()),
            standard_error=float(per_position.std() / len(per_position) ** 0.5),
            p99=float(per_position.quantile(0.99)),
            same_token=float(same),
        )


def _divergence(exact: Tensor, computed: Tensor) -> Tensor:
    """Kullback and Leibler's, of one position, in fp64."""
    p, q = (torch.log_softmax(logits.double(), -1) for logits in (exact, computed))
    return (p.exp() * (p - q)).sum()


def write_twin(source: Path, out: Path) -> None:
    """The same model with every tensor in fp32, tensor by tensor."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(out, "qwen3next")
    for name, entry in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            kind, item_kind = entry.types[0], entry.types[-1] if len(entry.types) > 1 else None
            writer.add_key_value(name, entry.contents(), kind, item_kind)
    for tensor in reader.tensors:
        shape = [int(size) for size in reversed(tensor.shape)]
        writer.add_tensor_info(tensor.name, shape, np.dtype(np.float32), 4 * int(tensor.n_elements), F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in reader.tensors:
        writer.write_tensor_data(gguf.dequantize(tensor.data, tensor.tensor_type))
    writer.close()


def our_logits(model: Path, ids: Sequence[int], dtype: torch.dtype, threads: int) -> Tensor:
    """Logits after every token [T, vocabulary], in one step. With fp32 nothing is rounded to less on the way."""
    torch.set_num_threads(threads)
    checkpoint = open_checkpoint(model)
    config = checkpoint.config
    loaded, _ = load_model(checkpoint, dtype, CPU)
    num_blocks = -(-len(ids) // BLOCK_SIZE)
    storage = Storage.allocate(config, num_blocks, BLOCK_SIZE, 1, dtype, CPU)
    sequence = ScheduledSequence(0, 0, tuple(ids), tuple(range(num_blocks)), 0, StateAction.RESET, None)
    batch = token_batch(StepPlan(1, (sequence,)), BLOCK_SIZE, CPU)
    return loaded.logits(loaded.forward(batch, storage.layers), torch.arange(len(ids)))


def llama_logits(model: Path, ids: Sequence[int], python: str, threads: int) -> Tensor:
    """The same of llama.cpp."""
    with tempfile.TemporaryDirectory() as scratch:
        questions, answers = Path(scratch) / "ids.json", Path(scratch) / "logits.npy"
        questions.write_text(json.dumps(list(ids)))
        command = [python, "-m", "benchmarks.llama", "logits", model, questions, answers, "--threads", threads]
        subprocess.run([str(word) for word in command], check=True, cwd=REPOSITORY)
        return torch.from_numpy(np.load(answers))


def compare(model: Path, ids: Sequence[int], args: argparse.Namespace) -> dict[str, Divergence]:
    """The divergences of one file."""
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        twin = Path(scratch) / "twin.gguf"
        write_twin(model, twin)
        exact = our_logits(twin, ids, torch.float32, args.threads)
        theirs_on_twin = llama_logits(twin, ids, args.python, args.threads)
    return {
        "deltaloop": Divergence.between(exact, our_logits(model, ids, torch.bfloat16, args.threads)),
        "llama.cpp": Divergence.between(exact, llama_logits(model, ids, args.python, args.threads)),
        "llama.cpp on the twin": Divergence.between(exact, theirs_on_twin),
    }


def main() -> None:
    """Compare every file, print a table and write JSON."""
    args = _arguments()
    args.folder.mkdir(parents=True, exist_ok=True)
    files = Files(args.folder, args.python)
    models = args.models or [files.gguf(args.slice, preset) for preset in args.presets]
    results = {}
    for model in models:
        print(f"comparing {model}", file=sys.stderr, flush=True)
        results[str(model)] = compare(model, _token_ids(model, args.text, args.tokens), args)
    table = Table("", "engine", "KL divergence, mean", "99th percentile", "same token")
    for name, engines in results.items():
        for engine, found in engines.items():
            mean = f"{found.mean:.2e} ± {found.standard_error:.0e}"
            table.add_row(Path(name).name, engine, mean, f"{found.p99:.2e}", f"{found.same_token:.1%}")
    Console(width=120).print(table)
    found_by_file = {name: {k: asdict(v) for k, v in engines.items()} for name, engines in results.items()}
    write_results(args.out, {"tokens": args.tokens, "files": found_by_file})


def _token_ids(model: Path, text: Path, num_tokens: int) -> list[int]:
    tokenizer = Tokenizer(read_files(model).tokenizer)
    return tokenizer.encode(text.read_text(), parse_special=False)[:num_tokens]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path, metavar="MODEL.gguf")
    parser.add_argument("--folder", type=Path, default=default_folder(), help="where models and twins are written")
    parser.add_argument("--slice", type=Slice.parse, default=Slice(4, 64), help="layers and experts, as 4x64")
    parser.add_argument("--presets", nargs="+", default=PRESETS)
    parser.add_argument("--peer", default=f"llama.cpp={sys.executable}", help="llama.cpp=PYTHON, where it is installed")
    parser.add_argument("--text", type=Path, default=REPOSITORY / "README.md")
    parser.add_argument("--tokens", type=int, default=384, help="how many of the text's, at most")
    parser.add_argument("--threads", type=int, default=num_cores())
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/accuracy.json"))
    args = parser.parse_args()
    args.python = args.peer.removeprefix("llama.cpp=")
    return args


if __name__ == "__main__":
    main()
