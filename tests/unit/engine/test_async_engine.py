"""The asyncio loop around the core: streams, aborts, limits, draining, failures."""

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest

from engine.async_engine import AsyncEngine
from engine.client import StepStats, TokenStream
from engine.core import CoreLimits, EngineCore
from engine.errors import ContextOverflow, InvariantViolation, Overloaded, RequestError
from engine.plan import StepPlan
from engine.types import FinishReason, GenerationRequest, SamplingParams, TokenOutput
from tests.support.engine_runs import SEED, engine_info, expected, fixed_length, limits, prompt
from tests.support.hash_model import HashModel, Hook, fail_on_token, no_hook, sleep_seconds


def run_async(test: Coroutine[object, object, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 60))


@asynccontextmanager
async def engine_of(
    sizes: CoreLimits | None = None,
    *,
    before_step: Hook = no_hook,
    max_num_queued_reqs: int = 1024,
    max_num_queued_tokens: int | None = None,
    spare_work: Iterator[int] | None = None,
    start: bool = True,
) -> AsyncIterator[AsyncEngine]:
    sizes = sizes or limits()
    info = engine_info(sizes)
    model = HashModel(sizes.num_blocks, sizes.block_size, sizes.num_slots, before_step=before_step)
    core = EngineCore(sizes, seed=SEED)
    engine = AsyncEngine(core, model, info, max_num_queued_reqs, max_num_queued_tokens, spare_work)
    if start:
        await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


def a_request(
    start: int,
    num_tokens: int = 6,
    sampling: SamplingParams | None = None,
    request_id: str | None = None,
    choice: int = 0,
) -> GenerationRequest:
    name = f"request-{start}" if request_id is None else request_id
    return GenerationRequest(name, prompt(num_tokens, start), sampling or fixed_length(10), choice)


async def collect(stream: TokenStream) -> tuple[tuple[int, ...], FinishReason | None]:
    outputs = [output async for output in stream]
    assert all(o.finish_reason is None for o in outputs[:-1])
    return tuple(t for o in outputs for t in o.token_ids), outputs[-1].finish_reason if outputs else None


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  what is awaited happens in the worker thread or in the engine's own task
        await asyncio.sleep(0.001)


async def until_idle(engine: AsyncEngine) -> None:
    await until(lambda: not engine.stats().num_running and not engine.stats().num_waiting)


def assert_all_free(engine: AsyncEngine) -> None:
    stats = engine.stats()
    assert (stats.num_running, stats.num_waiting, stats.num_slots_used) == (0, 0, 0)
    assert stats.num_blocks_free == engine.info.num_blocks
    assert stats.kv_cache_usage == 0.0
    assert not engine._streams
    assert not engine._sequences


@dataclass
class Gate:
    """Holds every step until it is opened, and counts them."""

    opened: threading.Event = field(default_factory=threading.Event)
    num_steps: int = 0

    def __call__(self, plan: StepPlan) -> None:
        self.num_steps += 1
        assert self.opened.wait(30)

    async def reached(self, num_steps: int) -> None:
        await until(lambda: self.num_steps >= num_steps)


# --- streams --------------------------------------------------------------------------------------------------------


def test_sixteen_streams_at_once_equal_sixteen_alone() -> None:
    requests = [a_request(i, 3 + 5 * i, SamplingParams(max_tokens=30, seed=i)) for i in range(16)]

    async def test() -> None:
        async with engine_of(limits(num_slots=6, num_blocks=40, max_num_batched_tokens=32)) as engine:
            together = await asyncio.gather(*(collect(engine.submit(r)) for r in requests))
            alone = [await collect(engine.submit(r)) for r in requests]
            assert together == alone == [expected(r) for r in requests]
            assert_all_free(engine)

    run_async(test())


def test_requests_submitted_before_the_start_wait_for_it() -> None:
    async def test() -> None:
        async with engine_of(start=False) as engine:
            stream = engine.submit(a_request(1))
            await engine.start()
            assert await collect(stream) == expected(a_request(1))

    run_async(test())


def test_a_stream_brings_its_tokens_one_by_one_and_then_ends() -> None:
    async def test() -> None:
        async with engine_of() as engine:
            stream = engine.submit(a_request(1))
            outputs = [output async for output in stream]
            assert [len(o.token_ids) for o in outputs] == [1] * 10
            assert outputs[-1].finish_reason is FinishReason.LENGTH
            assert outputs[-1].times is not None
            with pytest.raises(StopAsyncIteration):
                await stream.__anext__()

    run_async(test())


def test_the_engine_sleeps_and_wakes() -> None:
    async def test() -> None:
        async with engine_of() as engine:
            for i in range(3):
                assert await collect(engine.submit(a_request(i))) == expected(a_request(i))
                await asyncio.sleep(0.01)

    run_async(test())


def test_the_event_loop_serves_while_a_step_runs() -> None:
    async def test() -> None:
        gate = Gate()
        async with engine_of(before_step=gate) as engine:
            stream = engine.submit(a_request(1))
            await gate.reached(1)
            await asyncio.wait_for(asyncio.sleep(0.01), 1)
            assert engine.health().alive
            gate.opened.set()
            await collect(stream)

    run_async(test())


def test_a_request_that_cannot_be_served_is_refused_at_once() -> None:
    async def test() -> None:
        async with engine_of() as engine:
            with pytest.raises(ContextOverflow):
                engine.submit(a_request(1, 500))
            with pytest.raises(RequestError):
                engine.submit(GenerationRequest("r", ()))
            assert_all_free(engine)

    run_async(test())


# --- closing and aborting -------------------------------------------------------------------------------------------


def test_closing_a_stream_aborts_within_one_step() -> None:
    async def test() -> None:
        gate = Gate()
        async with engine_of(before_step=gate) as engine:
            stream = engine.submit(a_request(1, sampling=fixed_length(100)))
            await gate.reached(1)
            await stream.aclose()
            assert engine.stats().num_running == 1, "a sequence in flight is not freed"
            gate.opened.set()
            await until_idle(engine)
            assert gate.num_steps == 1
            assert_all_free(engine)

    run_async(test())


def test_closing_a_stream_that_was_never_awaited() -> None:
    async def test() -> None:
        gate = Gate()
        async with engine_of(before_step=gate) as engine:
            stream = engine.submit(a_request(1))
            await stream.aclose()
            await stream.aclose()
            assert_all_free(engine)
            await asyncio.sleep(0.01)
            assert gate.num_steps == 0
            assert await collect(stream) == ((), None)

    run_async(test())


def test_closing_wakes_whoever_awaits_the_stream() -> None:
    async def test() -> None:
        gate = Gate()
        async with engine_of(before_step=gate) as engine:
            stream = engine.submit(a_request(1))
            reader = asyncio.create_task(collect(stream))
            await gate.reached(1)
            await stream.aclose()
            assert await asyncio.wait_for(reader, 1) == ((), None)
            gate.opened.set()

    run_async(test())


def test_cancelling_the_reader_aborts() -> None:
    async def test() -> None:
        async with engine_of(before_step=sleep_seconds(0.002)) as engine:
            reader = asyncio.create_task(collect(engine.submit(a_request(1, sampling=fixed_length(100)))))
            await asyncio.sleep(0.02)
            assert engine.stats().num_running == 1
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader
            await until_idle(engine)
            assert_all_free(engine)

    run_async(test())


def test_a_stream_nobody_reads_leaves_nothing_behind() -> None:
    async def test() -> None:
        async with engine_of() as engine:
            engine.submit(a_request(1))
            await until_idle(engine)
            assert_all_free(engine)

    run_async(test())


def test_abort_ends_all_choices_of_a_request_and_no_other() -> None:
    async def test() -> None:
        async with engine_of(limits(num_slots=2), before_step=sleep_seconds(0.001)) as engine:
            choices = [
                engine.submit(a_request(1, sampling=fixed_length(100), request_id="a", choice=i)) for i in range(3)
            ]
            other = engine.submit(a_request(2))
            first = await choices[0].__anext__()
            assert len(first.token_ids) == 1
            assert engine.abort("a")
            answers = await asyncio.gather(*(collect(stream) for stream in choices))
            assert [reason for _, reason in answers] == [FinishReason.ABORT] * 3
            assert not engine.abort("a")
            assert await collect(other) == expected(a_request(2))
            assert_all_free(engine)

    run_async(test())


def test_abort_of_an_unknown_request() -> None:
    async def test() -> None:
        async with engine_of() as engine:
            assert not engine.abort("nobody")

    run_async(test())


def test_a_thousand_requests_a_tenth_of_them_cancelled() -> None:
    chance = random.Random(3)
    requests = [
        a_request(i, chance.randint(1, 60), SamplingParams(max_tokens=chance.randint(1, 12), min_tokens=1))
        for i in range(1000)
    ]
    cancelled = set(chance.sample(range(1000), 100))

    async def client(engine: AsyncEngine, i: int) -> None:
        await asyncio.sleep(chance.random() * 0.5)
        reader = asyncio.create_task(collect(engine.submit(requests[i])))
        if i in cancelled:
            await asyncio.sleep(chance.random() * 0.3)
            reader.cancel()
        try:
            assert await reader == expected(requests[i])
        except asyncio.CancelledError:
            assert i in cancelled

    async def test() -> None:
        sizes = limits(num_slots=16, num_blocks=100, max_num_batched_tokens=256, max_model_len=96)
        async with engine_of(sizes) as engine:
            await asyncio.gather(*(client(engine, i) for i in range(1000)))
            await until_idle(engine)
            assert_all_free(engine)
            assert engine.health().alive

    run_async(test())


# --- limits ---------------------------------------------------------------------------------------------------------


def test_overloaded_by_requests() -> None:
    async def test() -> None:
        gate = Gate()
        async with engine_of(limits(num_slots=1), before_step=gate, max_num_queued_reqs=3) as engine:
            streams = [engine.submit(a_request(0))]
            await gate.reached(1)
            streams += [engine.submit(a_request(i)) for i in range(1, 4)]
            with pytest.raises(Overloaded) as caught:
                engine.submit(a_request(4))
            assert caught.value.reason == "max_num_queued_reqs"
            assert 1.0 <= caught.value.retry_after_seconds <= 10.0
            gate.opened.set()
            assert [(await collect(s))[1] for s in streams] == [FinishReason.LENGTH] * 4
            assert await collect(engine.submit(a_request(4))) == expected(a_request(4))

    run_async(test())


def test_overloaded_by_tokens() -> None:
    async def test() -> None:
        gate = Gate()
        async with engine_of(limits(num_slots=1), before_step=gate, max_num_queued_tokens=50) as engine:
            engine.submit(a_request(0))
            await gate.reached(1)
            engine.submit(a_request(1, 60))  # alone in the line it may be longer than the bound
            with pytest.raises(Overloaded) as caught:
                engine.submit(a_request(2, 1))
            assert caught.value.reason == "max_num_queued_tokens"
            assert engine.stats().num_waiting_tokens == 60
            assert engine.abort("request-1")
            engine.submit(a_request(3, 20))
            engine.submit(a_request(4, 30))
            with pytest.raises(Overloaded):
                engine.submit(a_request(5, 1))
            gate.opened.set()

    run_async(test())


def test_a_key_that_has_enough_fills_its_own_line_only() -> None:
    async def test() -> None:
        gate = Gate()
        places = limits(num_slots=4, max_running_per_key=1)
        async with engine_of(places, before_step=gate, max_num_queued_reqs=2) as engine:
            busy = [replace(a_request(i), owner="busy") for i in range(4)]
            engine.submit(busy[0])
            await gate.reached(1)
            for request in busy[1:3]:
                engine.submit(request)
            with pytest.raises(Overloaded):
                engine.submit(busy[3])
            others = [replace(a_request(i), owner=f"another-{i}") for i in range(5, 8)]
            streams = [engine.submit(request) for request in others]  # on the slots that are free
            gate.opened.set()
            assert [await collect(stream) for stream in streams] == [expected(request) for request in others]

    run_async(test())


def test_interactive_requests_wait_for_each_other_only() -> None:
    async def test() -> None:
        gate = Gate()
        async with engine_of(limits(num_slots=1), before_step=gate, max_num_queued_reqs=2) as engine:
            engine.submit(a_request(0))
            await gate.reached(1)
            for i in range(1, 3):
                engine.submit(a_request(i))
            for i in range(3, 5):
                engine.submit(replace(a_request(i), interactive=True))
            for i, is_interactive in ((5, False), (6, True)):
                with pytest.raises(Overloaded):
                    engine.submit(replace(a_request(i), interactive=is_interactive))
            gate.opened.set()

    run_async(test())


def test_the_token_limit_of_the_line_does_not_hold_while_slots_are_free() -> None:
    async def test() -> None:
        gate = Gate()
        async with engine_of(limits(num_slots=3), before_step=gate, max_num_queued_tokens=50) as engine:
            for i in range(3):
                engine.submit(a_request(i, 40))
            engine.submit(a_request(3, 40))  # nothing that has to wait is before it
            with pytest.raises(Overloaded):
                engine.submit(a_request(4, 40))
            gate.opened.set()

    run_async(test())


def test_requests_aborted_in_the_line_do_not_shorten_the_expected_wait() -> None:
    async def test() -> None:
        gate = Gate()
        async with engine_of(limits(num_slots=1), before_step=gate) as engine:
            engine.submit(a_request(0))
            await gate.reached(1)
            before = engine._expected_wait()
            for i in range(1, 50):
                await engine.submit(a_request(i)).aclose()
            assert engine._expected_wait() == before
            gate.opened.set()

    run_async(test())


# --- draining and closing -------------------------------------------------------------------------------------------


def test_drain_finishes_what_runs_and_refuses_what_comes() -> None:
    async def test() -> None:
        async with engine_of(limits(num_slots=2), before_step=sleep_seconds(0.001)) as engine:
            readers = [asyncio.create_task(collect(engine.submit(a_request(i)))) for i in range(5)]
            await asyncio.sleep(0.005)
            draining = asyncio.create_task(engine.drain(20))
            await asyncio.sleep(0)
            with pytest.raises(Overloaded) as caught:
                engine.submit(a_request(9))
            assert caught.value.reason == "draining"
            assert (engine.health().alive, engine.health().accepting) == (True, False)
            assert await draining
            assert [await r for r in readers] == [expected(a_request(i)) for i in range(5)]

    run_async(test())


def test_drain_aborts_what_is_left_after_the_timeout() -> None:
    async def test() -> None:
        async with engine_of(limits(num_slots=1), before_step=sleep_seconds(0.01)) as engine:
            readers = [
                asyncio.create_task(collect(engine.submit(a_request(i, sampling=fixed_length(100))))) for i in range(2)
            ]
            assert not await engine.drain(0.05)
            answers = [await r for r in readers]
            assert [reason for _, reason in answers] == [FinishReason.ABORT] * 2
            whole, _ = expected(a_request(0, sampling=fixed_length(100)))
            assert answers[0][0] == whole[: len(answers[0][0])]
            assert_all_free(engine)

    run_async(test())


@pytest.mark.parametrize("timeout_seconds", [0.0, 1.0])
def test_draining_an_idle_engine_succeeds_at_once(timeout_seconds: float) -> None:
    async def test() -> None:
        async with engine_of() as engine:
            await collect(engine.submit(a_request(1)))
            await asyncio.sleep(0.01)
            assert await engine.drain(timeout_seconds)

    run_async(test())


@pytest.mark.parametrize("start", [False, True])
def test_close_ends_every_stream(start: bool) -> None:
    async def test() -> None:
        async with engine_of(before_step=sleep_seconds(0.002), start=start) as engine:
            streams = [engine.submit(a_request(i, sampling=fixed_length(100))) for i in range(6)]
            await asyncio.sleep(0.01)
            await engine.close()
            ends = [(await collect(s))[1] for s in streams]
            assert set(ends) <= {FinishReason.ABORT, FinishReason.ERROR}
            assert not engine.health().alive
            with pytest.raises(Overloaded):
                engine.submit(a_request(9))

    run_async(test())


# --- failures -------------------------------------------------------------------------------------------------------


def violate_on_step(step: int) -> Hook:
    def hook(plan: StepPlan) -> None:
        if plan.step == step:
            raise InvariantViolation("a block has two owners")

    return hook


def test_a_violation_stops_the_engine_and_ends_every_stream() -> None:
    async def test() -> None:
        async with engine_of(limits(num_slots=2), before_step=violate_on_step(3)) as engine:
            streams = [engine.submit(a_request(i)) for i in range(5)]
            ends = [[o async for o in s][-1] for s in streams]
            assert {o.finish_reason for o in ends} == {FinishReason.ERROR}
            assert all("its log has the details" in (o.error or "") for o in ends)
            health = engine.health()
            assert (health.alive, health.accepting) == (False, False)
            assert "two owners" not in (health.reason or "the details stay in the log")
            with pytest.raises(Overloaded) as caught:
                engine.submit(a_request(9))
            assert caught.value.reason == "failed"
            assert not engine.abort("request-1")

    run_async(test())


def test_a_violation_while_draining_ends_the_drain() -> None:
    async def test() -> None:
        async with engine_of(before_step=violate_on_step(5)) as engine:
            reader = asyncio.create_task(collect(engine.submit(a_request(1))))
            await asyncio.sleep(0)
            assert not await asyncio.wait_for(engine.drain(30), 5)
            assert (await reader)[1] is FinishReason.ERROR

    run_async(test())


def test_a_failed_step_ends_the_culprit_only() -> None:
    async def test() -> None:
        async with engine_of(before_step=fail_on_token(63)) as engine:
            params = fixed_length(12, allowed_token_ids=tuple(range(63)))
            good = [GenerationRequest("good", tuple(t % 63 for t in prompt(9, i)), params) for i in range(3)]
            streams = [engine.submit(r) for r in good]
            bad = engine.submit(GenerationRequest("bad", (1, 63, 2), params))
            outputs = [o async for o in bad]
            assert outputs[-1].finish_reason is FinishReason.ERROR
            assert outputs[-1].error == "the computation failed: ExecutorError"
            assert [await collect(s) for s in streams] == [expected(r) for r in good]
            assert engine.health().alive
            await until_idle(engine)
            assert_all_free(engine)

    run_async(test())


def test_health_before_the_start_and_in_a_step_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        gate = Gate()
        async with engine_of(before_step=gate, start=False) as engine:
            assert not engine.health().alive
            await engine.start()
            assert engine.health().alive
            stream = engine.submit(a_request(1))
            await gate.reached(1)
            monkeypatch.setattr("engine.async_engine.STALL_SECONDS", 0.0)
            await asyncio.sleep(0.001)
            assert not engine.health().alive
            assert "a step has been running" in (engine.health().reason or "")
            monkeypatch.undo()
            gate.opened.set()
            await collect(stream)
            assert engine.health().alive

    run_async(test())


# --- listeners ------------------------------------------------------------------------------------------------------


def test_what_listeners_hear_adds_up() -> None:
    async def test() -> None:
        async with engine_of(limits(num_slots=8, num_blocks=400, max_num_batched_tokens=32)) as engine:
            steps: list[StepStats] = []
            engine.add_step_listener(steps.append)
            requests = [a_request(i, 5 + 7 * i, fixed_length(3 + i)) for i in range(10)]
            await asyncio.gather(*(collect(engine.submit(r)) for r in requests))
            num_prompt, num_generated = sum(len(r.prompt_ids) for r in requests), sum(3 + i for i in range(10))
            assert sum(s.num_prompt_tokens for s in steps) == num_prompt
            assert sum(s.num_generated_tokens for s in steps) == num_generated
            assert sum(s.num_tokens for s in steps) == num_prompt + num_generated - len(requests)
            assert max(s.num_tokens for s in steps) <= 32
            assert all(s.seconds > 0 for s in steps)
            assert sum(s.num_preemptions for s in steps) == 0

    run_async(test())


def test_listeners_hear_of_preemptions() -> None:
    async def test() -> None:
        async with engine_of(limits(num_blocks=9, max_model_len=30)) as engine:
            steps: list[StepStats] = []
            engine.add_step_listener(steps.append)
            requests = [a_request(i, 7, fixed_length(20)) for i in range(3)]
            outputs: list[list[TokenOutput]] = await asyncio.gather(*(_outputs(engine, r) for r in requests))
            told = sum(o[-1].num_preemptions for o in outputs)
            assert told > 0
            assert sum(s.num_preemptions for s in steps) == told

    run_async(test())


async def _outputs(engine: AsyncEngine, request: GenerationRequest) -> list[TokenOutput]:
    return [output async for output in engine.submit(request)]


def test_a_listener_that_fails_does_not_stop_the_engine() -> None:
    def listener(stats: StepStats) -> None:
        raise ValueError("a bug in the metrics")

    async def test() -> None:
        async with engine_of() as engine:
            engine.add_step_listener(listener)
            assert await collect(engine.submit(a_request(1))) == expected(a_request(1))

    run_async(test())


# --- spare work -----------------------------------------------------------------------------------------------------


def test_spare_work_is_done_while_nobody_asks() -> None:
    async def test() -> None:
        async with engine_of(spare_work=iter(range(5))) as engine:
            await until(lambda: engine.spare_work is None)
            assert await collect(engine.submit(a_request(1))) == expected(a_request(1))

    run_async(test())


def test_a_request_waits_for_one_piece_of_spare_work_at_most() -> None:
    at_work, opened = threading.Event(), threading.Event()
    pieces: list[int] = []
    seen: list[int] = []

    def slowly() -> Iterator[int]:
        for piece in range(3):
            at_work.set()
            assert opened.wait(30)
            pieces.append(piece)
            yield piece

    async def test() -> None:
        async with engine_of(before_step=lambda plan: seen.append(len(pieces)), spare_work=slowly()) as engine:
            await until(at_work.is_set)
            stream = engine.submit(a_request(1))
            opened.set()
            assert await collect(stream) == expected(a_request(1))
            assert seen[0] == 1
            await until(lambda: engine.spare_work is None)

    run_async(test())


def test_spare_work_goes_on_between_steps_that_only_read_prompts() -> None:
    request = a_request(1, num_tokens=40)
    pieces: list[int] = []
    seen: list[tuple[bool, int]] = []  # of each step: whether it goes on with an answer, and the pieces done before it

    def work() -> Iterator[int]:
        for piece in range(100):
            pieces.append(piece)
            yield piece

    def note(plan: StepPlan) -> None:
        seen.append((plan.num_continued > 0, len(pieces)))

    async def test() -> None:
        sizes = limits(max_num_batched_tokens=8)
        async with engine_of(sizes, before_step=note, spare_work=work(), start=False) as engine:
            stream = engine.submit(request)
            await engine.start()
            assert await collect(stream) == expected(request)

    run_async(test())
    reading = [done for answers, done in seen if not answers]
    assert reading == list(range(len(reading)))
    assert len(reading) >= 5
    assert {done for answers, done in seen if answers} == {len(reading)}


def test_spare_work_that_fails_disturbs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise RuntimeError("no more")

    async def test() -> None:
        async with engine_of(spare_work=failing()) as engine:
            await until(lambda: engine.spare_work is None)
            assert engine.health().alive
            assert await collect(engine.submit(a_request(1))) == expected(a_request(1))

    run_async(test())
    assert "the rest of it is left undone" in caplog.text
