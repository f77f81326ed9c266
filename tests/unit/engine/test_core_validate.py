"""What a core refuses before it queues it."""

import pytest

from engine.core import EngineCore
from engine.errors import ContextOverflow, LoadError, RequestError
from engine.types import GenerationRequest, SamplingParams
from tests.support.engine_runs import limits, prompt
from tests.support.hash_model import VOCAB_SIZE


def validate(prompt_ids: tuple[int, ...], sampling: SamplingParams | None = None) -> None:
    core = EngineCore(limits(max_model_len=32))
    core.validate(GenerationRequest("r", prompt_ids, sampling or SamplingParams()))


def test_an_empty_prompt() -> None:
    with pytest.raises(RequestError) as caught:
        validate(())
    assert caught.value.param == "prompt"


@pytest.mark.parametrize("num_tokens", [32, 33, 1000])
def test_a_prompt_that_leaves_no_room(num_tokens: int) -> None:
    with pytest.raises(ContextOverflow) as caught:
        validate(prompt(num_tokens))
    assert (caught.value.num_prompt_tokens, caught.value.max_model_len) == (num_tokens, 32)
    assert str(num_tokens) in caught.value.message


def test_a_prompt_that_leaves_room_for_one_token() -> None:
    validate(prompt(31))


@pytest.mark.parametrize("token_id", [-1, VOCAB_SIZE, 10**9])
@pytest.mark.parametrize("param", ["prompt", "stop_token_ids", "logit_bias", "allowed_token_ids"])
def test_ids_outside_the_vocabulary(param: str, token_id: int) -> None:
    sampling = {
        "prompt": SamplingParams(),
        "stop_token_ids": SamplingParams(stop_token_ids=(1, token_id)),
        "logit_bias": SamplingParams(logit_bias={1: 0.0, token_id: 1.0}),
        "allowed_token_ids": SamplingParams(allowed_token_ids=(token_id, 1)),
    }[param]
    with pytest.raises(RequestError, match="outside the vocabulary") as caught:
        validate((1, token_id) if param == "prompt" else (1,), sampling)
    assert caught.value.param == param


def test_the_last_id_of_the_vocabulary_is_allowed() -> None:
    last = VOCAB_SIZE - 1
    validate((last,), SamplingParams(stop_token_ids=(last,), logit_bias={last: 1.0}, allowed_token_ids=(0, last)))


@pytest.mark.parametrize("param", ["logprobs", "prompt_logprobs"])
def test_more_logprobs_than_tokens(param: str) -> None:
    validate((1,), SamplingParams(**{param: VOCAB_SIZE}))  # type: ignore[arg-type]
    with pytest.raises(RequestError) as caught:
        validate((1,), SamplingParams(**{param: VOCAB_SIZE + 1}))  # type: ignore[arg-type]
    assert caught.value.param == param


def test_a_cache_that_cannot_hold_one_full_context_is_refused() -> None:
    limits(num_blocks=8, block_size=4, max_model_len=33)
    with pytest.raises(LoadError, match="holds 32 tokens and the context 34"):
        limits(num_blocks=8, block_size=4, max_model_len=34)


def test_seeds_are_drawn_when_nobody_gives_one_and_kept_when_somebody_does() -> None:
    core = EngineCore(limits())
    request = GenerationRequest("r", (1,))
    assert core.add(request).seed != core.add(request).seed
    assert core.add(GenerationRequest("r", (1,), SamplingParams(seed=-1))).seed == 2**64 - 1
    seeded = EngineCore(limits(), seed=7)
    assert seeded.add(request).seed == seeded.add(request).seed == 7
