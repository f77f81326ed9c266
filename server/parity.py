"""Whether the promise holds here: one prompt in several ways, each compared with the prompt alone, bit by bit.

Works over `EngineClient`, on the user's own machine and model. Salts keep apart what must not start from each other.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from engine.client import EngineClient
from engine.types import CacheTier, GenerationRequest, SamplingParams, TokenLogprobs

HOST, DISK = CacheTier.HOST, CacheTier.DISK
NUM_TOKENS = 24
NUM_LOGPROBS = 5
NUM_OTHERS = 3
MOST_LAG_SECONDS, POLL_SECONDS = 60.0, 0.1
OTHERS_TOKENS = 100_000  # as many as there is room for: they are ended when they are no longer needed


@dataclass(frozen=True, slots=True)
class Finding:
    """One way of computing: how much of the prompt was read before, and whether the answer is the same."""

    way: str
    num_prompt_tokens: int
    num_cached_tokens: int
    same_tokens: bool
    same_logprobs: bool


@dataclass
class _Answer:
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    num_cached_tokens: int = 0
    tier: CacheTier | None = None


async def check_parity(engine: EngineClient, prompt_ids: tuple[int, ...], boundaries: tuple[int, ...]) -> list[Finding]:
    """Compute a prompt and its continuation: alone, again, from cache, among others, in chunks beside a stream; from
    lower tiers where there are any."""
    checker = _Checker(engine)
    first = GenerationRequest("parity", prompt_ids, _sampling(NUM_TOKENS), boundaries=boundaries)
    alone = await checker.answer(first, "alone")
    following = (*prompt_ids, *alone.token_ids, *prompt_ids[: len(prompt_ids) // 2])
    second = replace(first, prompt_ids=following, boundaries=(*boundaries, len(prompt_ids)))
    second_alone = await checker.answer(second, "second alone")
    findings = [
        _compare("alone, a second time", first, await checker.answer(first, "again"), alone),
        _compare("from the cache", first, await checker.answer(first, "alone"), alone),
        _compare("a next turn from the cache", second, await checker.answer(second, "alone"), second_alone),
    ]
    async with checker.company(prompt_ids, NUM_OTHERS):
        findings.append(_compare("among others", first, await checker.answer(first, "among"), alone))
        findings.append(
            _compare("a next turn among others", second, await checker.answer(second, "among"), second_alone)
        )
    stats = engine.stats()
    for tier in [tier for tier, below in ((HOST, stats.host), (DISK, stats.disk)) if below.max_bytes]:
        await checker.leave_only(tier)
        findings.append(_compare(f"from {tier}", first, await checker.answer(first, "alone"), alone, tier))
        await checker.leave_only(tier)
        found = await checker.answer(second, "alone")
        findings.append(_compare(f"a next turn from {tier}", second, found, second_alone, tier))
    answers = await asyncio.gather(*(checker.answer(first, "at once") for _ in range(NUM_OTHERS)))
    ways = [f"{number} of {NUM_OTHERS} at once" for number in range(1, NUM_OTHERS + 1)]
    return findings + [_compare(way, first, answer, alone) for way, answer in zip(ways, answers, strict=True)]


def _sampling(num_tokens: int) -> SamplingParams:
    return SamplingParams(max_tokens=num_tokens, seed=1, logprobs=NUM_LOGPROBS, ignore_eos=True)


def _compare(
    way: str, request: GenerationRequest, found: _Answer, expected: _Answer, tier: CacheTier | None = None
) -> Finding:
    """`tier` is where it was to come from."""
    if tier is not None and found.tier is not tier:
        way = way.replace(f"from {tier}", f"not in {tier}")
    return Finding(
        way,
        len(request.prompt_ids),
        found.num_cached_tokens,
        found.token_ids == expected.token_ids,
        found.logprobs == expected.logprobs,
    )


class _Checker:
    def __init__(self, engine: EngineClient) -> None:
        self._engine = engine

    async def answer(self, request: GenerationRequest, salt: str) -> _Answer:
        answer = _Answer()
        async for output in self._engine.submit(replace(request, cache_salt=f"parity/{salt}")):
            if output.error is not None:
                raise RuntimeError(output.error)
            answer.token_ids += output.token_ids
            answer.logprobs += output.logprobs
            answer.num_cached_tokens = output.cache.num_cached_tokens if output.cache else 0
            answer.tier = output.cache.tier if output.cache else None
        return answer

    async def leave_only(self, tier: CacheTier) -> None:
        """What was kept is in this tier from now on, and nowhere nearer."""
        for _ in range(int(MOST_LAG_SECONDS / POLL_SECONDS)):
            await asyncio.sleep(POLL_SECONDS)
            stats = self._engine.stats()
            if not stats.host.lag_seconds and not stats.disk.lag_seconds:
                break
        nearer = [CacheTier.MEMORY] if tier is HOST else [CacheTier.MEMORY, HOST]
        self._engine.forget_kept_states(lambda salt: True, nearer)

    @asynccontextmanager
    async def company(self, prompt_ids: tuple[int, ...], num_others: int) -> AsyncIterator[None]:
        """Meanwhile others stream: steps have several sequences, and prompts are read in short chunks."""
        room = self._engine.info.max_model_len - len(prompt_ids)
        sampling = SamplingParams(max_tokens=min(OTHERS_TOKENS, room), ignore_eos=True, temperature=1.0)
        streams = []
        for i in range(num_others):
            others_ids = prompt_ids[i + 1 :] or prompt_ids
            streams.append(self._engine.submit(GenerationRequest(f"company {i}", others_ids, sampling, choice=i)))
        try:
            for stream in streams:
                await anext(stream)  # it streams from now on
            yield
        finally:
            for stream in streams:
                await stream.aclose()
