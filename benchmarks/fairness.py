"""What an editor's completions wait while agents' long prompts are read, and what that costs these, over real HTTP.

    python -m benchmarks.fairness [MODEL] [--prompt-tokens 20000] [--long 1,3] [--short-tokens 200] [--max-num-seqs 4]
        [--checkout FOLDER] [--out results.json]

Starts the daemon (the bundled model by default), has long prompts read alone, and then again while short completions
come one after the other, each a moment after the one before was answered. No prompt begins like another. Prints how
long the completions' first tokens took with nothing beside them and beside the long prompts, and how long these took.
`--checkout` runs the daemon of another working tree, to compare with.
"""

import argparse
import asyncio
import itertools
import json
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from benchmarks.starting import wait_until_ready
from benchmarks.subjects import REPOSITORY
from benchmarks.writing import write_results

PORT = 18438
URL = f"http://127.0.0.1:{PORT}"
FIRST_ID, LAST_ID = 10, 1000
ANSWER_TOKENS = 16  # of a completion
PAUSE_SECONDS = (0.2, 1.0)  # between an answer and the next completion, drawn evenly
NUM_ALONE = 8


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="a model folder or GGUF file")
    parser.add_argument("--prompt-tokens", type=int, default=20_000, help="of each long prompt")
    parser.add_argument("--long", default="1,3", help="how many long prompts at once, one measurement each")
    parser.add_argument("--short-tokens", type=int, default=200, help="of a completion's prompt")
    parser.add_argument("--max-num-seqs", type=int, default=4, help="the daemon's setting")
    parser.add_argument("--checkout", type=Path, default=REPOSITORY, help="working tree of the daemon to measure")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/fairness.json"))
    return parser.parse_args()


def _start(args: argparse.Namespace) -> subprocess.Popen[bytes]:
    model = [str(Path(args.model).resolve())] if args.model else []
    options = ["--port", str(PORT), "--max-num-seqs", str(args.max_num_seqs)]
    command = [sys.executable, "-m", "server", "serve", *model, *options]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=args.checkout)


class _Measurement:
    """Requests whose prompts are drawn from one seed."""

    def __init__(self, client: httpx.AsyncClient, args: argparse.Namespace) -> None:
        self._client = client
        self._args = args
        self._rng = random.Random(args.seed)

    async def first_token_seconds(self, num_prompt_tokens: int, num_tokens: int) -> float:
        """Of one request, whose whole answer is taken."""
        prompt = [self._rng.randint(FIRST_ID, LAST_ID) for _ in range(num_prompt_tokens)]
        body = {"prompt": prompt, "max_tokens": num_tokens, "stream": True, "ignore_eos": True}
        sent, first = time.perf_counter(), None
        async with self._client.stream("POST", f"{URL}/v1/completions", json=body) as response:
            response.raise_for_status()
            async for line in response.aiter_lines():
                if first is None and line.startswith("data: {"):
                    first = time.perf_counter() - sent
        assert first is not None
        return first

    async def completion(self) -> float:
        return await self.first_token_seconds(self._args.short_tokens, ANSWER_TOKENS)

    async def long_prompts(self, count: int) -> list[float]:
        """All sent at once; when each had its first token."""
        prompts = (self.first_token_seconds(self._args.prompt_tokens, 1) for _ in range(count))
        return sorted(await asyncio.gather(*prompts))

    async def beside(self, count: int) -> dict[str, Any]:
        """Completions while so many long prompts are read; those that were sent while some still were."""
        undisturbed = await self.long_prompts(count)
        reading = asyncio.create_task(self.long_prompts(count))
        waits: list[float] = []
        while True:
            await asyncio.sleep(self._rng.uniform(*PAUSE_SECONDS))
            if waits and reading.done():
                break
            waits.append(await self.completion())
        return {
            "num_long_prompts": count,
            "num_completions": len(waits),
            "completion_first_token_seconds": _summary(waits),
            "long_first_token_seconds_undisturbed": undisturbed,
            "long_first_token_seconds": await reading,
        }


def _summary(seconds: list[float]) -> dict[str, float]:
    return {"first": seconds[0], "median": statistics.median(seconds), "longest": max(seconds)}


async def _measure(args: argparse.Namespace) -> dict[str, Any]:
    async with httpx.AsyncClient(timeout=None) as client:
        measurement = _Measurement(client, args)
        await measurement.long_prompts(1)  # warm
        alone = [await measurement.completion() for _ in itertools.repeat(None, NUM_ALONE)]
        beside = [await measurement.beside(int(count)) for count in args.long.split(",")]
    return {"completion_first_token_seconds_alone": _summary(alone), "beside_long_prompts": beside}


def main() -> None:
    """Run the daemon, measure, print and write the results."""
    args = _arguments()
    daemon = _start(args)
    try:
        with httpx.Client(base_url=URL) as client:
            wait_until_ready(daemon, client)
        results = asyncio.run(_measure(args))
    finally:
        daemon.terminate()
        daemon.wait()
    sizes = {name: getattr(args, name) for name in ("prompt_tokens", "short_tokens", "max_num_seqs")}
    results = {**sizes, **results}
    print(json.dumps(results, indent=1))
    write_results(args.out, results)


if __name__ == "__main__":
    main()
