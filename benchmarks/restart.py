"""A conversation that goes on after the daemon was killed: how long its next turn waits, and why.

    python -m benchmarks.restart [MODEL] [--prompt-tokens 20000] [--new-tokens 50] [--out results.json]

Starts the daemon with a cache folder, has it read a long prompt, kills it, and starts it again: once with the files in
the system's page cache, once without. Beside the time to the next turn's first token stand the time that the state took
to come back, its bytes, and what reading just these bytes from disk took.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from benchmarks.starting import read_into_page_cache, wait_until_ready
from benchmarks.writing import write_results

PORT = 18439
URL = f"http://127.0.0.1:{PORT}"
ANSWER_SECONDS = 3600.0


@contextmanager
def _daemon(args: argparse.Namespace, folder: str) -> Iterator[None]:
    """A daemon that is killed at the end."""
    model = [args.model] if args.model else []
    command = [sys.executable, "-m", "server", "serve", *model, "--port", str(PORT), "--cache-dir", folder]
    daemon = subprocess.Popen([*command, *args.options.split()], stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=URL) as client:
            wait_until_ready(daemon, client)
        httpx.post(f"{URL}/v1/completions", json={"prompt": [5, 6], "max_tokens": 2}, timeout=ANSWER_SECONDS)  # warm
        yield
    finally:
        daemon.kill()
        daemon.wait()


def _metric(name: str) -> float:
    found = re.search(rf"^{name}\{{[^}}]*\}} (\S+)$", httpx.get(f"{URL}/metrics").text, re.MULTILINE)
    return float(found.group(1)) if found else 0.0


def _first_token(prompt: list[int]) -> tuple[float, int]:
    """Seconds, and tokens that were not read again."""
    started = time.perf_counter()
    body = {"prompt": prompt, "max_tokens": 1, "ignore_eos": True, "seed": 1}
    answer = httpx.post(f"{URL}/v1/completions", json=body, timeout=ANSWER_SECONDS)
    answer.raise_for_status()
    return time.perf_counter() - started, answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]


def _read(folder: str, keep_cached: bool) -> tuple[int, float]:
    """Bytes of all files, and seconds to read them once; with `keep_cached` off the system forgets them."""
    paths = [path for path in Path(folder).rglob("*") if path.is_file()]
    os.sync()
    for path in paths:
        _forget(path)
    started = time.perf_counter()
    num_bytes = read_into_page_cache(*paths)
    seconds = time.perf_counter() - started
    for path in paths if not keep_cached else ():
        _forget(path)
    return num_bytes, seconds


def _forget(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)


def _run(args: argparse.Namespace, folder: str) -> dict[str, Any]:
    rng = random.Random(args.seed)
    prompt = [rng.randrange(1000, 100_000 if args.model else 2000) for _ in range(args.prompt_tokens)]
    later = prompt + [rng.randrange(1000, 2000) for _ in range(args.new_tokens)]
    with _daemon(args, folder):
        cold, _ = _first_token(prompt)
        while _metric("deltaloop:disk_lag_seconds"):
            time.sleep(0.1)
    results: dict[str, Any] = {"cold_seconds": cold}
    for name, keep_cached in (("cached", True), ("uncached", False)):
        num_bytes, read_seconds = _read(folder, keep_cached)
        with _daemon(args, folder):
            if not keep_cached:
                _read(folder, keep_cached)
            seconds, num_cached = _first_token(later)
            again, _ = _first_token([*later[:-1], 5])
            results[name] = {
                "seconds": seconds,
                "from_memory_seconds": again,
                "restore_seconds": _metric("deltaloop:restore_seconds_sum"),
                "num_cached_tokens": num_cached,
                "bytes": num_bytes,
                "read_seconds": read_seconds,
            }
    return results


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="a model folder or GGUF file; the bundled one by default")
    parser.add_argument("--prompt-tokens", type=int, default=20_000)
    parser.add_argument("--new-tokens", type=int, default=50)
    parser.add_argument("--options", default="", help="more options for the daemon, in one string")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/restart.json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="deltaloop-restart-") as folder:
        results = _run(args, folder)
    write_results(args.out, {"model": args.model, **results})
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
