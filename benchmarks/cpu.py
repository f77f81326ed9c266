"""Prefill and decode speed on a slice of the real model, beside transformers, one after the other in one run.

    python -m benchmarks.cpu [--folder SLICE] [--layers 8 --experts 128] [--out results.json]

Without --folder a random-weight slice with the real dimensions is made first (8 layers × 128 experts: 8.3 GB in
bf16). Prints tokens a second (median), the share of what the machine's measured bandwidth or matrix rate allows,
and the ratio to transformers.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.limits import matmul_rate, read_bandwidth
from engine.model.config import ModelConfig, read_model_config


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="a slice that exists already")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--experts", type=int, default=128)
    parser.add_argument("--prompts", type=int, nargs="*", default=[512, 2048], help="prompt lengths, tokens")
    parser.add_argument("--streams", type=int, nargs="*", default=[1, 4, 16], help="streams decoded at once")
    parser.add_argument("--tokens", type=int, default=24, help="tokens decoded by each stream")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--subjects", nargs="*", default=["deltaloop", "transformers"])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/cpu.json"))
    return parser.parse_args()


def active_parameters(config: ModelConfig) -> int:
    """Weights one token reads, lm_head included, the embedding's single row left out."""
    hidden = config.hidden_size
    query = config.num_attention_heads * config.head_dim
    attention = hidden * (3 * query + 2 * config.num_key_value_heads * config.head_dim)
    value = config.linear_num_value_heads * config.linear_value_head_dim
    delta = hidden * (config.conv_dim + 2 * value + 2 * config.linear_num_value_heads)
    expert = 3 * hidden * config.moe_intermediate_size
    shared = 3 * hidden * config.shared_expert_intermediate_size
    moe = config.num_experts_per_tok * expert + shared + hidden * config.num_experts
    mixers = config.num_full_attention_layers * attention + config.num_linear_attention_layers * delta
    return mixers + config.num_layers * moe + hidden * config.vocab_size


def limit_tokens_per_second(name: str, config: ModelConfig, bandwidth: float, rate: float) -> float | None:
    """The most this machine allows: bytes for one stream's decoding, operations for a prompt; None in between."""
    kind, amount = name.split()
    if kind == "prefill":
        head = config.hidden_size * config.vocab_size
        return rate / (2 * (active_parameters(config) - head))
    state = 2 * 4 * config.num_linear_attention_layers * config.linear_num_value_heads
    state *= config.linear_key_head_dim * config.linear_value_head_dim
    return bandwidth / (2 * active_parameters(config) + state) if amount == "1" else None


def _run(subject: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    request = {
        "subject": subject,
        "folder": str(folder),
        "prompts": args.prompts,
        "streams": args.streams,
        "num_tokens": args.tokens,
        "repeats": args.repeats,
        "threads": args.threads,
    }
    command = [sys.executable, "-m", "benchmarks.subjects", json.dumps(request)]
    quiet = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, env=os.environ | quiet)
    results: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return results


def _report(results: dict[str, dict[str, list[float]]], limits: dict[str, float | None]) -> Table:
    table = Table("tokens/s", *results, "limit", "share of limit", "ratio to transformers")
    for name, limit in limits.items():
        medians = {subject: statistics.median(values[name]) for subject, values in results.items()}
        ours, theirs = medians.get("deltaloop"), medians.get("transformers")
        table.add_row(
            name,
            *(f"{m:.1f}" for m in medians.values()),
            f"{limit:.1f}" if limit else "",
            f"{ours / limit:.0%}" if ours and limit else "",
            f"{ours / theirs:.2f}" if ours and theirs else "",
        )
    return table


def main() -> None:
    """Make the slice if needed, measure the machine, then each subject, and print and write the results."""
    args = _arguments()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch)
        if args.folder is None:
            size = ["--layers", str(args.layers), "--experts", str(args.experts)]
            subprocess.run([sys.executable, "-m", "benchmarks.make_slice", str(folder), *size], check=True)
        config = read_model_config(folder)
        torch.set_num_threads(args.threads)
        bandwidth, rate = read_bandwidth(), matmul_rate(torch.bfloat16)
        results = {subject: _run(subject, folder, args) for subject in args.subjects}
    names = next(iter(results.values()))
    limits = {name: limit_tokens_per_second(name, config, bandwidth, rate) for name in names}
    Console().print(f"{bandwidth / 1e9:.1f} GB/s read, {rate / 1e9:.0f} GFLOP/s bf16, {args.threads} threads")
    Console().print(_report(results, limits))
    machine = {"processor": platform.processor(), "threads": args.threads, "bandwidth": bandwidth, "matmul_rate": rate}
    slice_size = {"layers": config.num_layers, "experts": config.num_experts}
    report = {
        "date": datetime.now(UTC).isoformat(),
        "machine": machine,
        "slice": slice_size,
        "tokens_per_second": results,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report | {"limits": limits}, indent=1))


if __name__ == "__main__":
    main()
