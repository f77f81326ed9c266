"""The whole thing: the command, the bundled model, real sockets, the official client."""

import asyncio
import random
import signal
import time
from collections.abc import Iterator

import httpx
import pytest
from openai import APIStatusError, AsyncOpenAI, OpenAI

from tests.support.daemon import Daemon, running_daemon

MODEL = "qwen3-coder-nano"
QUESTION = {"role": "user", "content": "Write a Python function that adds two numbers."}


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with running_daemon() as running:
        yield running


def _client(daemon: Daemon) -> OpenAI:
    return OpenAI(base_url=f"{daemon.url}/v1", api_key="x", max_retries=0)


def test_chat_streams_the_text_that_the_whole_answer_has(daemon: Daemon) -> None:
    with _client(daemon) as client:
        whole = client.chat.completions.create(model=MODEL, messages=[QUESTION], temperature=0, max_tokens=60)
        stream = client.chat.completions.create(
            model=MODEL,
            messages=[QUESTION],
            temperature=0,
            max_tokens=60,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert "def " in text
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason == "stop"
    usage = chunks[-1].usage
    assert usage is not None
    assert whole.usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (whole.usage.prompt_tokens, whole.usage.completion_tokens)
    cached = usage.prompt_tokens_details
    assert cached is not None
    assert cached.cached_tokens is not None
    assert usage.prompt_tokens - 40 < cached.cached_tokens < usage.prompt_tokens
    assert len(chunks) > 8


def test_completions_stream_and_continue_code(daemon: Daemon) -> None:
    fields = {
        "model": MODEL,
        "prompt": "import os\n\ndef read(path):\n    with open(",
        "max_tokens": 24,
        "temperature": 0,
    }
    with _client(daemon) as client:
        whole = client.completions.create(**fields)
        text = "".join(chunk.choices[0].text for chunk in client.completions.create(**fields, stream=True))
    assert text == whole.choices[0].text
    assert "path" in text


def test_an_answer_scores_in_a_prompt_what_it_scored_when_it_was_drawn(daemon: Daemon) -> None:
    fields = {"model": MODEL, "echo": True, "logprobs": 1, "temperature": 0}
    prompt = "import os\n\ndef read(path):\n    with open("
    with _client(daemon) as client:
        told = client.completions.create(prompt=prompt, max_tokens=12, **fields)
        ids = httpx.post(f"{daemon.url}/tokenize", json={"prompt": told.choices[0].text}).json()["tokens"]
        scored = client.completions.create(prompt=[ids, ids[:3]], max_tokens=0, **fields)
    drawn, whole, beginning = (choice.logprobs for choice in (*told.choices, *scored.choices))
    assert drawn is not None
    assert whole is not None
    assert beginning is not None
    assert whole.token_logprobs == drawn.token_logprobs
    assert whole.text_offset == drawn.text_offset
    assert beginning.token_logprobs == (whole.token_logprobs or [])[:3]
    greedy = [max(top.values()) for top in (whole.top_logprobs or [])[-12:]]
    assert greedy == (whole.token_logprobs or [])[-12:]
    assert scored.usage is not None
    assert (scored.usage.prompt_tokens, scored.usage.completion_tokens) == (len(ids) + 3, 0)


def test_models_tells_the_context(daemon: Daemon) -> None:
    with _client(daemon) as client:
        model = client.models.retrieve(MODEL)
    assert model.id == MODEL
    assert (model.model_extra or {})["max_model_len"] >= 131_072


def test_sixteen_streams_at_once_get_what_each_gets_alone(daemon: Daemon) -> None:
    prompts = [f"def function_{i}(values, key={i}):\n    " for i in range(16)]

    async def text(client: AsyncOpenAI, i: int) -> str:
        stream = await client.completions.create(
            model=MODEL, prompt=prompts[i], max_tokens=80, seed=i, stream=True, extra_body={"ignore_eos": True}
        )
        return "".join([chunk.choices[0].text async for chunk in stream])

    async def everything() -> tuple[list[str], list[str], float]:
        async with AsyncOpenAI(base_url=f"{daemon.url}/v1", api_key="x") as client:
            alone = [await text(client, i) for i in range(16)]
            together = asyncio.gather(*(text(client, i) for i in range(16)))
            most = 0.0
            while not together.done():
                most = max(most, await asyncio.to_thread(daemon.metric, "vllm:num_requests_running"))
                await asyncio.sleep(0.02)
            return alone, await together, most

    alone, together, most = asyncio.run(everything())
    assert together == alone
    assert most == 16


@pytest.mark.parametrize("num_requests", [150, pytest.param(1000, marks=pytest.mark.slow)])
def test_random_requests_a_tenth_of_them_cancelled_leave_nothing_behind(daemon: Daemon, num_requests: int) -> None:
    rng = random.Random(5)

    async def one(client: httpx.AsyncClient, i: int) -> int:
        prompt = [rng.randrange(3000) for _ in range(rng.randint(1, 60))]
        body = {"prompt": prompt, "max_tokens": rng.randint(1, 12), "stream": bool(i % 2), "seed": i}
        request = client.post("/v1/completions", json=body)
        if rng.random() < 0.1:
            try:
                await asyncio.wait_for(request, rng.random() * 0.2)
            except TimeoutError:
                return 0
        return (await request).status_code

    async def everything() -> list[int]:
        limits = httpx.Limits(max_connections=24)
        async with httpx.AsyncClient(base_url=daemon.url, timeout=120, limits=limits) as client:
            return await asyncio.gather(*(one(client, i) for i in range(num_requests)))

    codes = asyncio.run(everything())
    assert set(codes) <= {0, 200}
    daemon.wait_until_idle()


def test_sigterm_under_load_finishes_what_runs_and_exits_with_zero() -> None:
    async def load(daemon: Daemon) -> tuple[list[str], int]:
        async with AsyncOpenAI(base_url=f"{daemon.url}/v1", api_key="x", max_retries=0) as client:

            async def one(i: int) -> str:
                whole = await client.completions.create(
                    model=MODEL, prompt=f"x = {i}", max_tokens=300, seed=i, extra_body={"ignore_eos": True}
                )
                return str(whole.choices[0].finish_reason)

            tasks = [asyncio.create_task(one(i)) for i in range(8)]
            await asyncio.to_thread(daemon.wait_until_running, 8)
            daemon.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.3)  # of the seconds that the answers take
            with pytest.raises(APIStatusError) as refused:
                await one(9)
            assert refused.value.status_code == 503
            return await asyncio.gather(*tasks), await asyncio.to_thread(daemon.process.wait, 60)

    with running_daemon() as daemon:
        started = time.monotonic()
        reasons, code = asyncio.run(load(daemon))
    assert set(reasons) <= {"stop", "length"}
    assert code == 0
    assert time.monotonic() - started < 60
