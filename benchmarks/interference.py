"""What a long prompt costs those who are already reading: gaps between a running stream's tokens, over real HTTP.

    python -m benchmarks.interference [MODEL] [--prompt-tokens 20000] [--out results.json]

Starts the daemon with the model (the bundled one by default), lets one stream run, sends a long prompt beside it, and
prints the stream's gaps without and with it, and the long prompt's time to its first token.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx

from benchmarks.starting import wait_until_ready
from benchmarks.writing import write_results

PORT = 18437
URL = f"http://127.0.0.1:{PORT}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="a model folder")
    parser.add_argument("--prompt-tokens", type=int, default=20_000)
    parser.add_argument("--max-inter-token-gap", type=float, default=0.25, help="the daemon's setting, seconds")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/interference.json"))
    return parser.parse_args()


def _start(args: argparse.Namespace) -> subprocess.Popen[bytes]:
    model = [args.model] if args.model else []
    gap = ["--max-inter-token-gap", str(args.max_inter_token_gap)]
    command = [sys.executable, "-m", "server", "serve", *model, "--port", str(PORT), *gap]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


async def _stream(client: httpx.AsyncClient, prompt: list[int], num_tokens: int, moments: list[float]) -> None:
    """Generate, noting in `moments` when each chunk arrived."""
    body = {"prompt": prompt, "max_tokens": num_tokens, "stream": True, "ignore_eos": True, "seed": 1}
    async with client.stream("POST", f"{URL}/v1/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            moments += [time.perf_counter()] if line.startswith("data: {") else []


async def _measure(num_prompt_tokens: int) -> dict[str, Any]:
    short = [10 + i for i in range(20)]
    long = [10 + i % 1000 for i in range(num_prompt_tokens)]
    running: list[float] = []
    first: list[float] = []
    async with httpx.AsyncClient(timeout=None) as client:
        await _stream(client, short, 50, [])
        reader = asyncio.create_task(_stream(client, short, 100_000, running))
        await asyncio.sleep(5.0)
        sent = time.perf_counter()
        await _stream(client, long, 1, first)
        reader.cancel()
        await asyncio.wait([reader])
    return {
        "prompt_tokens": num_prompt_tokens,
        "time_to_first_token_seconds": first[0] - sent,
        "gaps_alone": _gaps([m for m in running if m < sent]),
        "gaps_beside_the_prompt": _gaps([m for m in running if sent <= m <= first[0]]),
    }


def _gaps(moments: list[float]) -> dict[str, float]:
    gaps = sorted(b - a for a, b in pairwise(moments))
    return {
        "median_seconds": statistics.median(gaps),
        "p99_seconds": gaps[int(0.99 * (len(gaps) - 1))],
        "max_seconds": gaps[-1],
    }


def main() -> None:
    """Run the daemon, measure, print and write the results."""
    args = _arguments()
    daemon = _start(args)
    try:
        with httpx.Client(base_url=URL) as client:
            wait_until_ready(daemon, client)
        results = asyncio.run(_measure(args.prompt_tokens))
    finally:
        daemon.terminate()
        daemon.wait()
    results = {"max_inter_token_gap_seconds": args.max_inter_token_gap, **results}
    print(json.dumps(results, indent=1))
    write_results(args.out, results)


if __name__ == "__main__":
    main()
