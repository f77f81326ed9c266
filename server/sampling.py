"""How to draw an answer: what a request says, else what the model's own configuration says.

The same for every dialect, whatever it calls its parameters.
"""

from typing import Any, TypeVar

from engine.types import SamplingParams
from server.chat.model_files import GenerationDefaults

OFF = 0
_LEAST_TOP_P = 1e-9

N = TypeVar("N", int, float)


def sampling_params(
    defaults: GenerationDefaults,
    *,
    max_tokens: int | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    **others: Any,
) -> SamplingParams:
    """None is what a request does not say; `max_tokens` is a ceiling, and -1, or any other negative one, is none.

    Likewise a negative `top_k` keeps all; a `top_p` of 0 keeps the likeliest alone. `others` are further members of
    `SamplingParams`.
    Raises:
        RequestError: a value out of range, by its name there.
    """
    limits = (None if max_tokens is None or max_tokens < 0 else max_tokens, defaults.max_new_tokens)
    return SamplingParams(
        max_tokens=min((limit for limit in limits if limit is not None), default=None),
        temperature=first_given(temperature, defaults.temperature),
        top_k=max(OFF, first_given(top_k, defaults.top_k)),
        top_p=first_given(top_p, defaults.top_p) or _LEAST_TOP_P,
        min_p=first_given(min_p, defaults.min_p),
        repetition_penalty=first_given(repetition_penalty, defaults.repetition_penalty),
        **others,
    )


def first_given(*values: N | None) -> N:
    """The first that was given; the last always is."""
    return next(value for value in values if value is not None)
