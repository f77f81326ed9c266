"""What taking states costs: while a prompt is read, and when one must go for every one that comes.

    python -m benchmarks.checkpoints [MODEL] [--prompt-tokens 4096] [--pairs 4] [--out results.json]

Random prompts are read in pairs, the first without boundaries and the second with one every 256 tokens, once by an
engine that keeps states in memory alone and once by one that writes them to disk too. The time that making room takes
needs no model: the cache is asked for a slot for one more state, while there is room and when 512 are kept.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.pairs import FIRST_ID, LAST_ID
from benchmarks.writing import write_results
from engine import EngineConfig, load_engine
from engine.async_engine import AsyncEngine
from engine.cache.manager import CacheManager
from engine.cache.prefix import Lineage
from engine.runner.machine import num_cores
from engine.types import GenerationRequest, SamplingParams
from server.cli import bundled_model

BOUNDARY_TOKENS = 256  # from one boundary to the next
MEMORY_BYTES, KEPT_BYTES = 3 << 30, 1 << 30
NUM_KEPT, NUM_SLOTS, NUM_BLOCKS, BLOCK_SIZE = 512, 16, 20_000, 64  # of the cache that makes room
NUM_SEQUENCES, SEQUENCE_TOKENS = 300, 1000


async def measure_reading(args: argparse.Namespace, folder: Path | None) -> dict[str, Any]:
    """Tokens a second of prompts without boundaries and with them, and the ratio of each pair."""
    config = EngineConfig(
        args.model or bundled_model(),
        threads=args.threads,
        max_model_len=args.prompt_tokens + 1,
        kv_cache_memory_bytes=MEMORY_BYTES,
        cache_ram_bytes=KEPT_BYTES,
        cache_dir=folder,
    )
    engine = load_engine(config)
    for _ in engine.spare_work or ():  # a server does this while nobody asks
        pass
    await engine.start()
    rng = random.Random(args.seed)
    boundaries = tuple(range(BOUNDARY_TOKENS, args.prompt_tokens, BOUNDARY_TOKENS))
    await _rate(engine, rng, args.prompt_tokens, ())  # warm
    without, taken, ratios = [], [], []
    for _ in range(args.pairs):
        without.append(await _rate(engine, rng, args.prompt_tokens, ()))
        taken.append(await _rate(engine, rng, args.prompt_tokens, boundaries))
        ratios.append(taken[-1] / without[-1])
        print(f"{without[-1]:.1f} {taken[-1]:.1f} {ratios[-1]:.3f}", file=sys.stderr, flush=True)
    stats = engine.stats()
    await engine.close()
    return {
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "tokens_per_second_without": without,
        "tokens_per_second_with": taken,
        "num_states": stats.num_checkpoints_kept,
        "num_states_on_disk": stats.disk.num_states,
        "disk_bytes": stats.disk.num_bytes,
    }


async def _rate(engine: AsyncEngine, rng: random.Random, num_tokens: int, boundaries: tuple[int, ...]) -> float:
    """Tokens a second of a prompt of its own, begun when there is nothing left to write."""
    while engine.stats().disk.lag_seconds:  # noqa: ASYNC110  what is awaited happens in the engine's own tasks
        await asyncio.sleep(0.05)
    last_id = min(LAST_ID, engine.info.vocab_size - 1)
    prompt = tuple(rng.randint(FIRST_ID, last_id) for _ in range(num_tokens))
    request = GenerationRequest("r", prompt, SamplingParams(max_tokens=1, ignore_eos=True), boundaries=boundaries)
    started = time.perf_counter()
    async for output in engine.submit(request):
        if output.error is not None:
            raise RuntimeError(output.error)
    return num_tokens / (time.perf_counter() - started)


def measure_room(seed: int) -> dict[str, Any]:
    """Seconds until the cache has a slot for one more state, with room and without; making room is the difference."""
    cache = CacheManager(NUM_BLOCKS, BLOCK_SIZE, NUM_SLOTS, NUM_KEPT)
    rng = random.Random(seed)
    with_room: list[float] = []
    full: list[float] = []
    while len(full) < NUM_SEQUENCES:
        lineage = Lineage([rng.randrange(LAST_ID) for _ in range(SEQUENCE_TOKENS)], BLOCK_SIZE)
        allocation = cache.admit(lineage, 0)
        assert allocation is not None
        seconds = full if cache.num_checkpoints_kept == NUM_KEPT else with_room
        started = time.perf_counter()
        slot = cache.reserve(allocation, lineage, SEQUENCE_TOKENS // 2)
        seconds.append(time.perf_counter() - started)
        assert slot is not None
        cache.commit(allocation, lineage)
        cache.retire(allocation, lineage, SEQUENCE_TOKENS, is_answer=True)
    return {
        "num_states": NUM_KEPT,
        "mean_seconds": statistics.mean(full) - statistics.mean(with_room),
        "with_room_seconds": statistics.mean(with_room),
        "full_seconds": statistics.mean(full),
        "full_longest_seconds": max(full),
    }


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, help="a model folder or GGUF file; the bundled one by default")
    parser.add_argument("--prompt-tokens", type=int, default=4096)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--threads", type=int, default=num_cores())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/checkpoints.json"))
    args = parser.parse_args()
    making_room = measure_room(args.seed)
    in_memory = asyncio.run(measure_reading(args, None))
    with tempfile.TemporaryDirectory(prefix="deltaloop-checkpoints-") as folder:
        on_disk = asyncio.run(measure_reading(args, Path(folder)))
    results = {"in_memory": in_memory, "on_disk": on_disk, "making_room": making_room}
    print(json.dumps(results, indent=1))
    write_results(args.out, {"model": args.model, "prompt_tokens": args.prompt_tokens, **results})


if __name__ == "__main__":
    main()
