"""The engines that are measured, each with the same two questions: how fast is a prompt read, how fast are tokens made.

Each runs in a process of its own, so that the memory of one is gone when the next loads.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch


class Subject(Protocol):
    """One engine with the model loaded."""

    def prefill(self, ids: list[int]) -> float:
        """Seconds from a prompt's start to its first token."""
        ...

    def decode(self, num_streams: int, num_tokens: int) -> float:
        """Seconds a token that every one of `num_streams` makes at once, first tokens left out."""
        ...


class Deltaloop:
    """Our engine with its scheduler, as the server drives it."""

    def __init__(self, folder: Path) -> None:
        from engine import EngineConfig, load_engine

        self._loop = asyncio.new_event_loop()
        config = EngineConfig(
            folder, dtype="bfloat16", max_num_seqs=16, max_model_len=8192, max_inter_token_gap_seconds=60.0
        )
        self._engine = load_engine(config)
        self._loop.run_until_complete(self._engine.start())

    def prefill(self, ids: list[int]) -> float:
        started = time.perf_counter()
        self._loop.run_until_complete(self._generate(ids, 1))
        return time.perf_counter() - started

    def decode(self, num_streams: int, num_tokens: int) -> float:
        async def everyone() -> float:
            prompts = [[100 + i] * 8 for i in range(num_streams)]
            spans = await asyncio.gather(*(self._generate(ids, num_tokens + 1) for ids in prompts))
            return max(last for _, last in spans) - max(first for first, _ in spans)

        return self._loop.run_until_complete(everyone()) / num_tokens

    async def _generate(self, ids: list[int], num_tokens: int) -> tuple[float, float]:
        """Moments of the first and the last token."""
        from engine.types import GenerationRequest, SamplingParams

        sampling = SamplingParams(max_tokens=num_tokens, temperature=0.0, ignore_eos=True)
        moments = []
        async for output in self._engine.submit(GenerationRequest("bench", tuple(ids), sampling)):
            moments.extend([time.perf_counter()] * len(output.token_ids))
        return moments[0], moments[-1]


class Transformers:
    """The reference implementation in bf16, with its own cache."""

    def __init__(self, folder: Path) -> None:
        from transformers import Qwen3NextForCausalLM

        self._model = Qwen3NextForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()

    @torch.inference_mode()
    def prefill(self, ids: list[int]) -> float:
        started = time.perf_counter()
        self._model(torch.tensor([ids]), logits_to_keep=1).logits.argmax(-1)
        return time.perf_counter() - started

    @torch.inference_mode()
    def decode(self, num_streams: int, num_tokens: int) -> float:
        ids = torch.tensor([[100 + i] * 8 for i in range(num_streams)])
        out = self._model(ids, use_cache=True, logits_to_keep=1)
        started = time.perf_counter()
        for _ in range(num_tokens):
            token = out.logits[:, -1:].argmax(-1)
            out = self._model(token, past_key_values=out.past_key_values, use_cache=True)
        return (time.perf_counter() - started) / num_tokens


SUBJECTS: dict[str, Callable[[Path], Subject]] = {"deltaloop": Deltaloop, "transformers": Transformers}


def measure(subject: Subject, prompts: list[int], streams: list[int], num_tokens: int, repeats: int) -> dict[str, Any]:
    """Tokens a second, every repeat, after one warm-up each."""
    results: dict[str, Any] = {}
    for length in prompts:
        ids = [(7 * i) % 5000 + 100 for i in range(length)]
        seconds = [subject.prefill(ids) for _ in range(repeats + 1)][1:]
        results[f"prefill {length}"] = [length / s for s in seconds]
    for num in streams:
        seconds = [subject.decode(num, num_tokens) for _ in range(repeats + 1)][1:]
        results[f"decode {num}"] = [num / s for s in seconds]
    return results


def main() -> None:
    """Child process: a JSON request as the only argument, results as the last line of output."""
    request = json.loads(sys.argv[1])
    torch.set_num_threads(request["threads"])
    subject = SUBJECTS[request["subject"]](Path(request["folder"]))
    results = measure(subject, request["prompts"], request["streams"], request["num_tokens"], request["repeats"])
    print(json.dumps(results), flush=True)


if __name__ == "__main__":
    main()
