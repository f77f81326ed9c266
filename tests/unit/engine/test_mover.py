"""States that are written and read while the engine runs: by threads, through restarts, with disks that fail."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest

from engine import mover
from engine.async_engine import AsyncEngine
from engine.cache import lower_tier
from engine.client import LowerTierStats
from engine.core import EngineCore
from engine.filing import Transfer
from engine.types import CacheTier, FinishReason, GenerationRequest, TokenOutput
from tests.support.engine_runs import SEED, engine_info, expected, fixed_length, limits, prompt
from tests.support.hash_files import HashFiles
from tests.support.hash_model import HashModel

SIZES = limits(num_blocks=200, num_checkpoints=10, max_disk_bytes=10**6, max_model_len=400)
INFO = engine_info(SIZES)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lower_tier, "SETTLE_SECONDS", 0.01)
    monkeypatch.setattr(mover, "AFTER_TROUBLE_SECONDS", 0.05)


def a_model() -> HashModel:
    return HashModel(SIZES.num_blocks, SIZES.block_size, SIZES.num_slots, SIZES.num_checkpoints)


@dataclass
class SlowFiles(HashFiles):
    """Reads and writes go on only while their gates are open, or fail with an error."""

    error: Exception | None = None
    num_errors: int = 0
    reading: threading.Event = field(default_factory=threading.Event)
    writing: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.reading.set()
        self.writing.set()

    def read(self, transfer: Transfer) -> None:
        self.reading.wait()
        self._fail()
        super().read(transfer)

    def write(self, transfer: Transfer) -> None:
        self._fail()
        super().write(transfer)
        self.writing.wait()

    def _fail(self) -> None:
        if self.error is not None:
            self.num_errors += 1
            raise self.error

    def close(self) -> None:
        """What waits goes on, and ends."""
        self.reading.set()
        self.writing.set()


@asynccontextmanager
async def engine_over(files: HashFiles) -> AsyncIterator[AsyncEngine]:
    """A new process over the same disk."""
    files.model = a_model()
    core = EngineCore(SIZES, seed=SEED)
    core.lower[CacheTier.DISK].know(files.known())
    engine = AsyncEngine(core, files.model, INFO, files={CacheTier.DISK: files})
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


async def answer(engine: AsyncEngine, tokens: tuple[int, ...]) -> tuple[tuple[int, ...], TokenOutput]:
    request = GenerationRequest("request", tokens, fixed_length(10))
    outputs = [output async for output in engine.submit(request)]
    ids = tuple(t for output in outputs for t in output.token_ids)
    assert (ids, outputs[-1].finish_reason) == expected(request, SIZES.max_model_len)
    return ids, outputs[-1]


def tier(output: TokenOutput) -> CacheTier | None:
    assert output.cache is not None
    return output.cache.tier


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  what is awaited happens in a thread or in the engine's own tasks
        await asyncio.sleep(0.001)


def run_async(test: Coroutine[object, object, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 60))


FIRST = prompt(60, 1)


async def left_on_disk(files: HashFiles) -> tuple[int, ...]:
    """What a process that has ended left there: FIRST and its answer, which is returned."""
    async with engine_over(files) as engine:
        ids, _ = await answer(engine, FIRST)
        await until(lambda: engine.stats().disk.num_states == 1)
    return ids


def test_a_conversation_outlives_its_process() -> None:
    files = HashFiles(a_model())

    async def test() -> None:
        async with engine_over(files) as engine:
            ids, _ = await answer(engine, FIRST)
            await until(lambda: engine.stats().disk.num_states == 1 and engine.stats().disk.lag_seconds == 0)
            assert engine.stats().disk.num_bytes > 1000
        async with engine_over(files) as engine:
            _, output = await answer(engine, (*FIRST, *ids, 1, 2))
            assert tier(output) is CacheTier.DISK
            assert output.cache is not None
            assert output.cache.num_cached_tokens == 69
            assert output.cache.restore_seconds > 0

    run_async(test())


def test_what_is_not_yet_written_is_written_when_the_engine_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lower_tier, "SETTLE_SECONDS", 1000.0)
    files = HashFiles(a_model())

    async def test() -> None:
        async with engine_over(files) as engine:
            await answer(engine, FIRST)
            assert engine.stats().disk.lag_seconds > 0
        assert len(files.states) == 1

    run_async(test())


def test_closing_waits_a_moment_for_a_slow_disk_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mover, "FLUSH_SECONDS", 0.05)
    files = SlowFiles(a_model())
    files.writing.clear()

    async def test() -> None:
        async with engine_over(files) as engine:
            await answer(engine, FIRST)

    run_async(test())
    assert files.states == {}


def test_closing_does_not_wait_for_a_disk_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mover, "FLUSH_SECONDS", 0.05)
    files = SlowFiles(a_model())

    async def test() -> None:
        ids = await left_on_disk(files)
        files.reading.clear()
        async with engine_over(files) as engine:
            stream = engine.submit(GenerationRequest("request", (*FIRST, *ids, 1), fixed_length(10)))
            await asyncio.sleep(0.05)
        assert [output.finish_reason async for output in stream] == [FinishReason.ABORT]

    run_async(test())


@pytest.mark.parametrize("error", [RuntimeError("a fault"), MemoryError(), OSError(24, "Too many open files")])
def test_a_read_that_fails_in_any_way_costs_time_and_nothing_else(error: Exception) -> None:
    files = SlowFiles(a_model())

    async def test() -> None:
        ids = await left_on_disk(files)
        files.error = error
        async with engine_over(files) as engine:
            _, output = await answer(engine, (*FIRST, *ids, 1, 2))
            assert tier(output) is None
            engine.forget_kept_states(lambda salt: True)
            assert engine.stats().num_blocks_free == SIZES.num_blocks
            engine._core.scheduler.check()

    run_async(test())


def test_a_write_that_fails_in_any_way_is_tried_again() -> None:
    files = SlowFiles(a_model(), error=RuntimeError("a fault"))

    async def test() -> None:
        async with engine_over(files) as engine:
            await answer(engine, FIRST)
            await until(lambda: files.num_errors > 1)
            files.error = None
            await until(lambda: engine.stats().disk.num_states == 1)

    run_async(test())


def test_closing_ends_though_every_write_fails() -> None:
    files = SlowFiles(a_model(), error=RuntimeError("a fault"))

    async def test() -> None:
        async with engine_over(files) as engine:
            await answer(engine, FIRST)

    run_async(test())


def test_what_is_forgotten_is_gone_when_the_engine_closes() -> None:
    files = SlowFiles(a_model())

    async def test() -> None:
        async with engine_over(files) as engine:
            await answer(engine, FIRST)
            await until(lambda: engine.stats().disk.num_states == 1)
            files.writing.clear()
            await answer(engine, prompt(50, 9))
            await asyncio.sleep(0.05)
            engine.forget_kept_states(lambda salt: True)
            await until(lambda: not files.states)  # though something is being written
            files.writing.set()
        assert (files.states, files.blocks) == ({}, {})

    run_async(test())


def test_nobody_waits_for_a_load_that_nobody_wants() -> None:
    files = SlowFiles(a_model())

    async def test() -> None:
        ids = await left_on_disk(files)
        files.reading.clear()
        async with engine_over(files) as engine:
            stream = engine.submit(GenerationRequest("request", (*FIRST, *ids, 1), fixed_length(10)))
            await asyncio.sleep(0.05)
            await stream.aclose()
            assert await asyncio.wait_for(engine.drain(30), 1)
            files.reading.set()

    run_async(test())


def test_who_waits_too_long_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mover, "MOST_LOAD_SECONDS", 0.05)
    files = SlowFiles(a_model())

    async def test() -> None:
        ids = await left_on_disk(files)
        files.reading.clear()
        async with engine_over(files) as engine:
            _, output = await answer(engine, (*FIRST, *ids, 1, 2))
            assert tier(output) is None
            files.reading.set()
            await until(lambda: len(engine._core.scheduler.cache._arriving) == 0)
            engine._core.scheduler.check()
            await answer(engine, (*FIRST, *ids, 3, 4))

    run_async(test())


def test_a_full_disk_is_told_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    files = HashFiles(a_model(), is_full=True)

    async def test() -> None:
        async with engine_over(files) as engine:
            ids, _ = await answer(engine, FIRST)
            await until(lambda: "could not be written" in caplog.text)
            files.is_full = False
            await until(lambda: engine.stats().disk.num_states == 1)
            await answer(engine, (*FIRST, *ids, 1, 2))

    with caplog.at_level(logging.WARNING):
        run_async(test())
    assert len(caplog.records) < 4


def test_a_damaged_file_costs_time_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    files = HashFiles(a_model())

    async def test() -> None:
        ids = await left_on_disk(files)
        files.damaged.update(files.blocks)
        async with engine_over(files) as engine:
            _, output = await answer(engine, (*FIRST, *ids, 1, 2))
            assert tier(output) is None

    with caplog.at_level(logging.WARNING):
        run_async(test())
    assert len(caplog.records) == 1


def test_others_go_on_while_one_waits_for_the_disk() -> None:
    files = SlowFiles(a_model())

    async def test() -> None:
        ids = await left_on_disk(files)
        files.reading.clear()
        async with engine_over(files) as engine:
            waiting = asyncio.create_task(answer(engine, (*FIRST, *ids, 1, 2)))
            await answer(engine, prompt(50, 9))
            assert not waiting.done()
            draining = asyncio.create_task(engine.drain(30))
            await asyncio.sleep(0.05)
            assert not draining.done()  # somebody still waits for an answer
            files.reading.set()
            assert tier((await waiting)[1]) is CacheTier.DISK
            assert await draining

    run_async(test())


def test_what_is_kept_is_listed_by_tier_and_forgotten() -> None:
    files = HashFiles(a_model())

    async def test() -> None:
        async with engine_over(files) as engine:
            await answer(engine, FIRST)
            await until(lambda: engine.stats().disk.num_states == 1)
            assert {state.tier for state in engine.kept_states()} == {CacheTier.MEMORY}
            num_kept = len(engine.kept_states())
            assert engine.forget_kept_states(lambda salt: True, [CacheTier.MEMORY]) == num_kept - 1
            assert [state.tier for state in engine.kept_states()] == [CacheTier.DISK]
            assert engine.forget_kept_states(lambda salt: True) == 1
            assert engine.kept_states() == []
            await until(lambda: not files.states and not files.blocks)

    run_async(test())


def test_without_a_disk_there_are_no_disk_figures() -> None:
    async def test() -> None:
        core = EngineCore(replace(SIZES, max_disk_bytes=0), seed=SEED)
        engine = AsyncEngine(core, a_model(), INFO)
        await engine.start()
        await answer(engine, FIRST)
        stats = engine.stats()
        assert stats.disk == LowerTierStats()
        assert stats.kept_memory_bytes >= 1000
        await engine.close()

    run_async(test())
