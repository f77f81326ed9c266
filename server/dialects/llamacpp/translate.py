"""From a request of the dialect to what the server works with: prompt, sampling, stops, the form of the answer.

Knows the schema, nothing of HTTP.
"""

from collections.abc import Iterator, Mapping
from itertools import groupby, islice
from typing import Any

from engine.types import MAX_LOGIT_BIAS, SamplingParams
from server.chat.answer_form import FormKind, TextForm
from server.chat.model_files import GenerationDefaults
from server.chat.tokenizer import Tokenizer
from server.choice import OutputOptions
from server.dialects.llamacpp.schema import AnswerFields
from server.errors import InvalidRequest
from server.parameters import MAX_BIASES, MAX_STOP_CHARACTERS
from server.sampling import sampling_params


def prompt_parts(prompt: Any) -> tuple[str | tuple[int, ...], ...]:
    """One prompt: text, token ids, or a list of both. Control tokens may be written out.

    Raises:
        InvalidRequest: it is none of these, or several prompts, which llama.cpp answers with a list.
    """
    parts = prompt if isinstance(prompt, list) else [prompt]
    if len(parts) > 1 and not any(_is_id(part) for part in parts):
        raise InvalidRequest("prompt is a list of several prompts: send each by itself.", param="prompt")
    for part in parts:
        if not isinstance(part, str) and not _is_id(part):
            raise InvalidRequest(
                "prompt must be text, token ids, or a list of both that is one prompt.", param="prompt"
            )
    return tuple(piece for are_ids, group in groupby(parts, _is_id) for piece in ([tuple(group)] if are_ids else group))


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def sampling_of(
    body: AnswerFields, defaults: GenerationDefaults, tokenizer: Tokenizer, usual: int | None = None
) -> SamplingParams:
    """How to draw; 0 tokens mean that the prompt is only read. `usual` is how many there may be where the body does not
    say. Raises `InvalidRequest`."""
    limits = (body.n_predict, body.max_tokens, usual)
    return sampling_params(
        defaults,
        max_tokens=next((limit for limit in limits if limit is not None), None),
        temperature=body.temperature,
        top_k=body.top_k,
        top_p=body.top_p,
        min_p=body.min_p,
        repetition_penalty=body.repeat_penalty,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        seed=None if body.seed is None or body.seed < 0 else body.seed,
        ignore_eos=body.ignore_eos,
        logit_bias=_bounded(_logit_bias(body.logit_bias, tokenizer)),
    )


def _bounded(biases: Iterator[tuple[int, float]]) -> dict[int, float]:
    """Asked one by one, so that no more are encoded than are taken."""
    taken = list(islice(biases, MAX_BIASES + 1))
    if len(taken) > MAX_BIASES:
        raise _too_many_biases()
    return dict(taken)


def _logit_bias(bias: Any, tokenizer: Tokenizer) -> Iterator[tuple[int, float]]:
    """Pairs or an object, of ids or texts; a text stands for each of its tokens, false for never.

    JSON's objects have texts for keys: digits are an id there, and a text where pairs could have had the number.
    """
    if isinstance(bias, Mapping):
        pairs: Any = [(int(name) if _is_written_id(name) else name, value) for name, value in bias.items()]
    else:
        pairs = () if bias is None else bias
    if not isinstance(pairs, list | tuple):
        raise _no_bias()
    if len(pairs) > MAX_BIASES:
        raise _too_many_biases()
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise _no_bias()
        token, value = pair
        if not isinstance(token, str) and not _is_id(token):
            raise _no_bias()
        if isinstance(token, str) and len(token) > MAX_STOP_CHARACTERS:
            raise InvalidRequest(
                f"logit_bias must have texts of at most {MAX_STOP_CHARACTERS} characters.", param="logit_bias"
            )
        ids = tokenizer.encode(token, parse_special=True) if isinstance(token, str) else [token]
        yield from ((token_id, _strength(value)) for token_id in ids)


def _is_written_id(name: str) -> bool:
    return name.isascii() and name.isdigit() and len(name) < 10


def _strength(value: Any) -> float:
    if value is False:
        return -MAX_LOGIT_BIAS
    try:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _no_bias()
        return float(value)
    except OverflowError:  # a whole number with hundreds of digits
        raise _no_bias() from None


def _too_many_biases() -> InvalidRequest:
    return InvalidRequest(f"logit_bias must be of at most {MAX_BIASES} tokens.", param="logit_bias")


def _no_bias() -> InvalidRequest:
    return InvalidRequest(
        "logit_bias must be pairs of a token, as id or text, and a number or false.", param="logit_bias"
    )


def output_of(body: AnswerFields, stop_token_ids: tuple[int, ...] = ()) -> OutputOptions:
    """What becomes of the tokens."""
    limit = body.t_max_predict_ms
    return OutputOptions(
        stops=tuple(stop for stop in body.stop if stop),
        stop_token_ids=stop_token_ids,
        min_indent=body.n_indent,
        max_seconds=limit / 1000 if limit is not None and limit > 0 else None,
    )


def text_form(body: AnswerFields) -> TextForm | None:
    """The form that the answer must have; None for any. The schema {} is any JSON, an empty grammar none.

    Raises:
        InvalidRequest: it is said twice.
    """
    said: tuple[tuple[FormKind, Any], ...] = (("grammar", body.grammar), ("json_schema", body.json_schema))
    forms = [TextForm(kind, value, kind) for kind, value in said if value is not None and value != ""]
    if len(forms) > 1:
        raise InvalidRequest("grammar and json_schema both say what the answer must be: give one.", param="grammar")
    return forms[0] if forms else None
