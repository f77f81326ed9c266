"""deltaloop as a subject: the whole engine, scheduler included, as the server drives it."""

import asyncio
import atexit
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.subjects import Generated, add_to
from engine import EngineConfig, load_engine
from engine.types import GenerationRequest, SamplingParams

MAX_STREAMS = 16


class Deltaloop:
    """Our engine with its defaults, but for `max_inter_token_gap` in seconds where that is given."""

    def __init__(self, model: Path, threads: int, max_inter_token_gap: float | None = None) -> None:
        gap = EngineConfig(model).max_inter_token_gap_seconds if max_inter_token_gap is None else max_inter_token_gap
        config = EngineConfig(model, max_num_seqs=MAX_STREAMS, threads=threads, max_inter_token_gap_seconds=gap)
        self._engine = load_engine(config)
        for _ in self._engine.spare_work or ():  # a server does this while nobody asks
            pass
        self._loop = asyncio.new_event_loop()
        self._loop.run_until_complete(self._engine.start())
        atexit.register(lambda: self._loop.run_until_complete(self._engine.close()))

    def generate(self, prompts: Sequence[Sequence[int]], num_tokens: int) -> Generated:
        """See `Subject`."""
        return self._loop.run_until_complete(self._generate(prompts, num_tokens))

    async def _generate(self, prompts: Sequence[Sequence[int]], num_tokens: int) -> Generated:
        generated = Generated.empty(len(prompts))
        sampling = SamplingParams(max_tokens=num_tokens, temperature=0.0, ignore_eos=True)
        started = time.perf_counter()

        async def follow(stream: int, ids: Sequence[int]) -> None:
            async for output in self._engine.submit(GenerationRequest(f"stream-{stream}", tuple(ids), sampling)):
                if output.error is not None:
                    raise RuntimeError(output.error)
                for token_id in output.token_ids:
                    add_to(generated, stream, token_id, time.perf_counter() - started)

        await asyncio.gather(*(follow(stream, ids) for stream, ids in enumerate(prompts)))
        return generated
