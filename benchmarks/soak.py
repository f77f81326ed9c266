"""Conversations that grow, branch, are abandoned and come back, on an engine with little room that is killed at random.

    python -m benchmarks.soak [--turns 2000] [--trees 50] [--at-once 4] [--kills 40] [--model PATH] [--out results.json]

Every answer is compared with that of an engine that keeps nothing. An engine is a process of its own, which holds its
bookkeeping against its invariants after every step; the tokens travel over pipes. Exit code 1: something was wrong.
"""

import argparse
import asyncio
import contextlib
import json
import random
import resource
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.writing import write_results
from engine import EngineConfig, load_engine
from engine.async_engine import AsyncEngine
from engine.types import GenerationRequest, SamplingParams
from server.cli import bundled_model

MESSAGE_TOKENS, ANSWER_TOKENS = (5, 300), (1, 24)
MAX_MODEL_LEN = 4096
MEMORY_BYTES, KEPT_BYTES, DISK_BYTES = 64 << 20, 24 << 20, 96 << 20
VOCAB_SIZE = 1000  # of the prompts
KILL_SECONDS = (0.3, 6.0)


# --- an engine in a process of its own ------------------------------------------------------------------------------


def serve(model: Path, folder: Path | None) -> None:
    """Answer the requests on standard input, line by line, as they come."""
    config = EngineConfig(model, threads=1, max_model_len=MAX_MODEL_LEN, kv_cache_memory_bytes=MEMORY_BYTES)
    kept = 0 if folder is None else KEPT_BYTES
    engine = load_engine(replace(config, cache_ram_bytes=kept, cache_dir=folder, cache_disk_bytes=DISK_BYTES))
    asyncio.run(_serve(engine))


async def _serve(engine: AsyncEngine) -> None:
    engine.add_step_listener(lambda step: engine._core.scheduler.check())
    await engine.start()
    reader = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    tasks = set()
    while line := await reader.readline():
        task = asyncio.create_task(_answer(engine, json.loads(line)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await engine.close()


async def _answer(engine: AsyncEngine, asked: dict[str, Any]) -> None:
    sampling = SamplingParams(max_tokens=asked["max_tokens"], seed=asked["seed"], temperature=1.0, ignore_eos=True)
    request = GenerationRequest("r", tuple(asked["ids"]), sampling, boundaries=tuple(asked["boundaries"]))
    ids: list[int] = []
    report = None
    stream = engine.submit(request)
    async for output in stream:
        ids += output.token_ids
        report = output.cache or report
        if asked["leave_after"] is not None and len(ids) >= asked["leave_after"]:
            break
    await stream.aclose()
    tier = report.tier if report else None
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    told = {"number": asked["number"], "ids": ids, "tier": tier, "cached": report.num_cached_tokens if report else 0}
    stats = engine.stats()
    told |= {"peak_bytes": peak_bytes, "disk_bytes": stats.disk.num_bytes}
    print(json.dumps(told), flush=True)


class Engine:
    """The parent's end of one: asks, and starts it anew when it was killed."""

    def __init__(self, model: Path, folder: Path | None) -> None:
        self._arguments = ["--model", str(model), "--serve", str(folder) if folder else "-"]
        self._asked: dict[int, tuple[bytes, asyncio.Future[dict[str, Any]]]] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self.complaints: list[str] = []

    async def start(self) -> None:
        command = [sys.executable, "-m", "benchmarks.soak", *self._arguments]
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, stderr=pipe, limit=1 << 24
        )
        self._reading = asyncio.create_task(self._read(self._process))
        for line, _ in self._asked.values():
            self._write(line)

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        errors = asyncio.create_task(process.stderr.read())
        while line := await process.stdout.readline():
            if line.endswith(b"\n"):  # not cut off by a kill
                told = json.loads(line)
                _, future = self._asked.pop(told["number"])
                future.set_result(told)
        self.complaints += [
            line for line in (await errors).decode().splitlines() if '"error"' in line or "Traceback" in line
        ]

    def _write(self, line: bytes) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(line)

    async def ask(self, asked: dict[str, Any]) -> dict[str, Any]:
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        line = json.dumps(asked).encode() + b"\n"
        self._asked[asked["number"]] = line, future
        self._write(line)
        return await future

    async def kill(self) -> None:
        assert self._process is not None
        assert self._reading is not None
        self._process.kill()
        await self._process.wait()
        await self._reading


# --- conversations --------------------------------------------------------------------------------------------------


@dataclass
class Tree:
    """Conversations that begin alike: each node is what was said so far, with the ends of its messages."""

    nodes: list[tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=lambda: [((), ())])

    def turn(self, rng: random.Random) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Mostly the latest conversation goes on; sometimes an earlier one, from where it was."""
        tokens, boundaries = self.nodes[-1] if rng.random() < 0.7 else rng.choice(self.nodes)
        for _ in range(rng.randint(1, 3)):
            tokens += tuple(rng.randrange(VOCAB_SIZE) for _ in range(rng.randint(*MESSAGE_TOKENS)))
            boundaries += (len(tokens),)
        return tokens, boundaries


@dataclass
class Count:
    """What came of it."""

    num_turns: int = 0
    num_wrong: int = 0
    num_kills: int = 0
    num_left: int = 0
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    from_memory: int = 0
    from_disk: int = 0
    most_disk_bytes: int = 0
    peak_bytes: int = 0
    peak_bytes_without: int = 0
    seconds: float = 0.0


async def _soak(args: argparse.Namespace, folder: Path) -> tuple[Count, list[str]]:
    rng, count, started = random.Random(args.seed), Count(), time.monotonic()
    trees = [Tree() for _ in range(args.trees)]
    engine, cold = Engine(args.model, folder), Engine(args.model, None)
    await asyncio.gather(engine.start(), cold.start())
    busy: set[int] = set()

    async def client() -> None:
        while count.num_turns < args.turns:
            number = rng.choice([i for i in range(len(trees)) if i not in busy])
            busy.add(number)
            await _turn(trees[number], rng, engine, cold, count)
            busy.discard(number)

    async def killer() -> None:
        while count.num_kills < args.kills:
            await asyncio.sleep(rng.uniform(*KILL_SECONDS) * args.turns / 2000 * 2)
            await engine.kill()
            count.num_kills += 1
            await engine.start()

    killing = asyncio.create_task(killer())
    await asyncio.gather(*(client() for _ in range(args.at_once)))
    killing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await killing
    await asyncio.gather(engine.kill(), cold.kill())
    count.seconds = time.monotonic() - started
    return count, engine.complaints


async def _turn(tree: Tree, rng: random.Random, engine: Engine, cold: Engine, count: Count) -> None:
    tokens, boundaries = tree.turn(rng)
    if len(tokens) > MAX_MODEL_LEN - ANSWER_TOKENS[1] - 1:
        tree.nodes = [((), ())]
        return
    count.num_turns += 1
    num_tokens = rng.randint(*ANSWER_TOKENS)
    asked = {
        "number": count.num_turns,
        "ids": tokens,
        "boundaries": boundaries,
        "seed": rng.randrange(1000),
        "max_tokens": num_tokens,
        "leave_after": rng.choice([None, None, None, rng.randint(0, num_tokens)]),
    }
    found, expected = await asyncio.gather(engine.ask(asked), cold.ask(asked | {"leave_after": None}))
    ids, right = tuple(found["ids"]), tuple(expected["ids"])
    count.num_left += len(ids) < num_tokens
    if ids != right[: len(ids)] or (asked["leave_after"] is None and ids != right):
        count.num_wrong += 1
        print(f"turn {asked['number']}: {ids} instead of {right}, {found['cached']} from {found['tier']}", flush=True)
    count.num_prompt_tokens += len(tokens)
    count.num_cached_tokens += found["cached"]
    count.from_memory += found["tier"] == "memory"
    count.from_disk += found["tier"] == "disk"
    count.most_disk_bytes = max(count.most_disk_bytes, found["disk_bytes"])
    count.peak_bytes = max(count.peak_bytes, found["peak_bytes"])
    count.peak_bytes_without = max(count.peak_bytes_without, expected["peak_bytes"])
    tree.nodes.append((tokens + right, (*boundaries, len(tokens) + len(right))))


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=2000)
    parser.add_argument("--trees", type=int, default=50)
    parser.add_argument("--at-once", type=int, default=4)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", type=Path, default=bundled_model())
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/soak.json"))
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.model, None if args.serve == "-" else Path(args.serve))
        return 0
    with tempfile.TemporaryDirectory(prefix="deltaloop-soak-") as folder:
        count, complaints = asyncio.run(_soak(args, Path(folder)))
    result = asdict(count) | {"complaints": complaints}
    write_results(args.out, result)
    print(json.dumps(result, indent=1))
    return 1 if count.num_wrong or complaints or count.most_disk_bytes > DISK_BYTES else 0


if __name__ == "__main__":
    sys.exit(main())
