"""What a decode step costs beside the model: a real server and real clients, and a model that costs nothing.

    python -m benchmarks.step [--streams 16] [--steps 200] [--prompt-tokens 100] [--threads N] [--out results.json]

Prints, for some ways to draw, milliseconds of CPU time a step: making the batch, sampling, and all that the event loop
does (scheduling, results, text, events to clients, metrics). CPU time, so that other work on the machine disturbs less;
"between" is wall time from one forward pass to the next in the fastest tenth of the steps, and "kernel" that of the
sampling kernel, which is part of it.
"""

import argparse
import asyncio
import json
import multiprocessing
import socket
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
import uvicorn
from torch import Tensor

from benchmarks.writing import write_results
from engine.async_engine import AsyncEngine
from engine.batch import TokenBatch
from engine.client import EngineInfo
from engine.core import CoreLimits, EngineCore
from engine.kernels.choice import choose_kernels
from engine.model.qwen3_next import Qwen3Next
from engine.plan import StepPlan, StepResult, nobody
from engine.runner.machine import num_cores
from engine.runner.runner import Runner
from engine.runner.storage import Storage
from engine.sampling.draw import Draw, Drawn, NoToken
from server.app import create_app
from server.auth import ApiKeys
from server.cli import bundled_model
from server.model import ServedModel, read_files, served_model
from server.settings import Settings

CPU = torch.device("cpu")
VOCAB, NUM_USED_TOKENS = 151_936, 151_669  # the real model's
BLOCK_SIZE = 64
FORWARD_SECONDS = 0.01
WARM_UP_TOKENS = 10
NUM_LIKELY = 60
OWN = {"temperature": 0.7, "top_p": 0.8, "top_k": 20}  # as the model's makers advise
CASES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "temperature 0.7, top-p 0.8, top-k 20": OWN,
    "the same, 5 log-probabilities": {**OWN, "logprobs": True, "top_logprobs": 5},
    "the same, repetition penalty 1.05": {**OWN, "repetition_penalty": 1.05},
    "temperature 1, top-p 0.95": {"temperature": 1, "top_p": 0.95, "top_k": 0},
    "temperature 1": {"temperature": 1, "top_p": 1, "top_k": 0},
}
TOOL = {"type": "function", "function": {"name": "read", "parameters": {"properties": {"path": {"type": "string"}}}}}


class FreeModel:
    """In the place of a model: after a pause it hands out one of a few sets of logits."""

    def __init__(self, num_rows: int, likely_ids: list[int]) -> None:
        self.embedding = torch.empty(0)
        chosen = choose_kernels(CPU, torch.float32, torch.get_num_threads())
        self.kernels = replace(chosen, sample=self._sample)
        self.started = self.ended = 0.0  # CPU time of this thread
        self.wall_started = self.wall_ended = self.kernel_seconds = 0.0
        self._kernel = chosen.sample
        self._sets = [_logits(num_rows, likely_ids, seed) for seed in range(3)]
        self._logits = torch.empty(num_rows, VOCAB)
        self._calls = 0

    def forward(self, batch: TokenBatch, memory: object) -> Tensor:
        """Nothing, after the pause."""
        self.started, self.wall_started = time.thread_time(), time.perf_counter()
        self._calls += 1
        time.sleep(FORWARD_SECONDS)
        return self.embedding

    def logits(self, x: Tensor, rows: Tensor) -> Tensor:
        """Those of so many rows."""
        logits = self._logits[: len(rows)]
        logits.copy_(self._sets[self._calls % len(self._sets)][: len(logits)])
        self.ended, self.wall_ended = time.thread_time(), time.perf_counter()
        return logits

    def _sample(self, logits: Tensor, draws: Sequence[Draw], num_used_tokens: int) -> Sequence[Drawn | NoToken]:
        """The kernel, and how long it takes."""
        started = time.perf_counter()
        drawn = self._kernel(logits, draws, num_used_tokens)
        self.kernel_seconds = time.perf_counter() - started
        return drawn


def _logits(num_rows: int, likely_ids: list[int], seed: int) -> Tensor:
    """Rows as a model makes them: a few likely tokens far above the rest."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(num_rows, VOCAB, generator=generator) * 2.0
    for row in logits:
        chosen = torch.randperm(len(likely_ids), generator=generator)[:NUM_LIKELY]
        row[torch.tensor(likely_ids)[chosen]] = 20.0 - 0.35 * torch.arange(NUM_LIKELY)
    return logits


@dataclass
class Meter:
    """An executor around the runner that notes, for steps in which all streams decode, where the time went."""

    runner: Runner
    model: FreeModel
    num_streams: int
    inputs: list[float] = field(default_factory=list)
    sampling: list[float] = field(default_factory=list)
    loop: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)
    kernel: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._loop_clock = time.pthread_getcpuclockid(threading.main_thread().ident or 0)
        self._loop_before: float | None = None

    def execute(self, plan: StepPlan, on_begun: Callable[[], object] = nobody) -> StepResult:
        """See `engine.plan.Executor`."""
        loop, before, ended = time.clock_gettime(self._loop_clock), self._loop_before, self.model.wall_ended
        started = time.thread_time()
        result = self.runner.execute(plan, on_begun)
        decoding = [s for s in plan.sequences if s.sample is not None and s.sample.position >= WARM_UP_TOKENS]
        self._loop_before = loop if len(decoding) == self.num_streams else None
        if self._loop_before is not None and before is not None:
            self.inputs.append(self.model.started - started)
            self.sampling.append(time.thread_time() - self.model.ended)
            self.loop.append(loop - before)
            self.between.append(self.model.wall_started - ended)
            self.kernel.append(self.model.kernel_seconds)
        return result

    def take(self) -> dict[str, float]:
        """Milliseconds a step since the last call."""
        parts = {"inputs": self.inputs, "sampling": self.sampling, "event loop": self.loop}
        means = {name: 1e3 * statistics.mean(seconds) for name, seconds in parts.items()}
        walls = {"between": self.between, "kernel": self.kernel}
        fastest = {name: 1e3 * statistics.quantiles(seconds, n=10)[0] for name, seconds in walls.items()}
        steps = float(len(self.loop))
        for seconds in (*parts.values(), *walls.values()):
            seconds.clear()
        return {**means, "together": sum(means.values()), **fastest, "steps": steps}


def _read_streams(port: int, bodies: list[dict[str, Any]]) -> None:
    """The clients' process."""

    async def read(body: dict[str, Any]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        content = json.dumps(body).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n"
        writer.write(f"{head}Content-Type: application/json\r\nConnection: close\r\n\r\n".encode() + content)
        answer = await reader.read()
        if not answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"):
            raise RuntimeError(answer[-500:].decode())
        writer.close()

    async def read_all() -> None:
        await asyncio.gather(*map(read, bodies))

    asyncio.run(read_all())


async def _serve(args: argparse.Namespace, model: ServedModel) -> dict[str, Any]:
    tokenizer = model.tokenizer
    words = [i for i in range(tokenizer.max_id) if tokenizer.token_bytes(i) and not tokenizer.is_added(i)]
    free = FreeModel(args.streams, words)
    runner = Runner(cast(Qwen3Next, free), Storage(()), BLOCK_SIZE, NUM_USED_TOKENS)
    meter = Meter(runner, free, args.streams)
    limits = _limits(args)
    info = EngineInfo(limits.max_model_len, VOCAB, (), args.streams, limits.num_blocks, BLOCK_SIZE, 1, 1, "cpu", "")
    engine = AsyncEngine(EngineCore(limits, seed=0), meter, info)
    app = create_app(engine, Settings(), model, ApiKeys(()))
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", access_log=False, log_config=None))
    listener = socket.create_server(("127.0.0.1", 0))
    await engine.start()
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    results = {}
    for name, params in CASES.items():
        results[name] = await _measure(args, meter, listener.getsockname()[1], params)
        print(f"{name:40}" + "".join(f"{value:11.2f}" for value in results[name].values()), flush=True)
    server.should_exit = True
    await serving
    await engine.close()
    return results


def _limits(args: argparse.Namespace) -> CoreLimits:
    longest = 2 * args.prompt_tokens + args.steps + 1000
    return CoreLimits(
        max_model_len=longest,
        vocab_size=VOCAB,
        eos_token_ids=(),
        num_blocks=args.streams * (longest // BLOCK_SIZE + 2),
        block_size=BLOCK_SIZE,
        num_slots=args.streams,
        max_num_batched_tokens=args.streams * longest,  # all begin to decode at once
        max_inter_token_gap_seconds=3600.0,
    )


async def _measure(args: argparse.Namespace, meter: Meter, port: int, params: dict[str, Any]) -> dict[str, float]:
    messages = [{"role": "user", "content": "hello " * args.prompt_tokens}]
    body = {"messages": messages, "tools": [TOOL], "stream": True, "max_tokens": args.steps, **params}
    bodies = [{**body, "seed": seed} for seed in range(args.streams)]
    clients = multiprocessing.get_context("spawn").Process(target=_read_streams, args=(port, bodies))
    clients.start()
    await asyncio.to_thread(clients.join)
    if clients.exitcode:
        raise SystemExit("the clients failed")
    return meter.take()


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--prompt-tokens", type=int, default=100)
    parser.add_argument("--threads", type=int, default=num_cores())
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/step.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = served_model(read_files(bundled_model()), ("free",))
    columns = ("inputs", "sampling", "event loop", "together", "between", "kernel", "steps")
    print(f"{'ms a step':40}" + "".join(f"{name:>11}" for name in columns))
    with asyncio.Runner(loop_factory=uvicorn.Config(_serve).get_loop_factory()) as loop:
        results = loop.run(_serve(args, model))
    write_results(args.out, {"streams": args.streams, "threads": args.threads, **results})


if __name__ == "__main__":
    main()
