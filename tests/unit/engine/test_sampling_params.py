"""Every parameter out of its range is refused, and the error names it."""

import math
import pickle

import pytest

from engine.errors import RequestError
from engine.types import GenerationRequest, RepetitionDetection, SamplingParams

NAN, INF = math.nan, math.inf
OUT_OF_RANGE = {
    "max_tokens": (-1,),
    "temperature": (-0.01, 100.1, NAN, INF, -INF),
    "top_k": (-1,),
    "top_p": (0.0, -0.5, 1.01, NAN, INF),
    "min_p": (-0.01, 1.01, NAN),
    "presence_penalty": (-2.01, 2.01, NAN, INF),
    "frequency_penalty": (-2.01, 2.01, NAN, -INF),
    "repetition_penalty": (0.0, -1.0, NAN, INF),
    "logit_bias": ({3: 100.5}, {3: -100.5}, {1: 0.0, 2: NAN}, {1: INF}),
    "seed": (-(2**63) - 1, 2**64),
    "logprobs": (-1,),
    "prompt_logprobs": (-1,),
    "min_tokens": (-1,),
    "allowed_token_ids": ((),),
}
AT_THE_EDGE = {
    "max_tokens": (0, 1, None),
    "temperature": (0.0, 100.0),
    "top_k": (0, 1),
    "top_p": (1.0, 1e-9),
    "min_p": (0.0, 1.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "repetition_penalty": (1e-9, 50.0),
    "logit_bias": ({}, {3: 100.0}, {3: -100.0}),
    "seed": (-(2**63), 2**64 - 1, 0, None),
    "logprobs": (0, 20, None),
    "prompt_logprobs": (0, 20, None),
    "min_tokens": (0, 10**6),
    "allowed_token_ids": ((1,), None),
}


@pytest.mark.parametrize(("param", "value"), [(p, v) for p, values in OUT_OF_RANGE.items() for v in values])
def test_out_of_range_is_refused_by_name(param: str, value: object) -> None:
    with pytest.raises(RequestError) as caught:
        SamplingParams(**{param: value})  # type: ignore[arg-type]
    assert caught.value.param == param
    assert caught.value.message.startswith(f"{param} is ")


@pytest.mark.parametrize(("param", "value"), [(p, v) for p, values in AT_THE_EDGE.items() for v in values])
def test_the_edges_are_allowed(param: str, value: object) -> None:
    assert getattr(SamplingParams(**{param: value}), param) == value  # type: ignore[arg-type]


def test_min_tokens_above_max_tokens_is_refused() -> None:
    with pytest.raises(RequestError, match="at most max_tokens, 4") as caught:
        SamplingParams(max_tokens=4, min_tokens=5)
    assert caught.value.param == "min_tokens"
    SamplingParams(max_tokens=4, min_tokens=4)


@pytest.mark.parametrize(
    ("member", "value"),
    [
        *(("max_pattern_size", value) for value in (0, -1, 1025)),
        *(("min_pattern_size", value) for value in (0, -1, 9)),
        *(("min_count", value) for value in (1, 0, -1)),
        ("min_repeated_tokens", -1),
    ],
)
def test_out_of_range_of_repetition_detection_is_refused_by_name(member: str, value: int) -> None:
    with pytest.raises(RequestError) as caught:
        RepetitionDetection(**{"max_pattern_size": 8, member: value})
    assert caught.value.param == f"repetition_detection.{member}"
    assert caught.value.message.startswith(f"repetition_detection.{member} is {value}, but must be ")


def test_the_edges_of_repetition_detection_are_allowed() -> None:
    RepetitionDetection(1024, 1024, 2, 0)
    RepetitionDetection(1, 1, 10**9, 10**9)


def test_every_parameter_with_a_range_is_tried() -> None:
    free = {"stop_token_ids", "ignore_eos", "repetition_detection"}
    assert set(OUT_OF_RANGE) == set(AT_THE_EDGE) == set(SamplingParams.__dataclass_fields__) - free


def test_a_request_can_be_pickled() -> None:
    request = GenerationRequest("r", (1, 2), SamplingParams(logit_bias={1: 2.0}))
    assert pickle.loads(pickle.dumps(request)) == request
