"""Writes the answers to a completion or an infill, as a stream of events or as one object each.

Knows events and JSON, no HTTP.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.types import SamplingParams
from server.answering import unbroken
from server.chat.events import ChoiceFinished, TextDelta
from server.dialects.llamacpp.errors import error_body
from server.dialects.llamacpp.schema import AnswerFields
from server.errors import ApiError
from server.generation import Generation
from server.json_text import to_json
from server.sse import COMMENT, data_event
from server.timings import progress_of, timings_of


class CompletionEncoder:
    """Encodes all answers to one request. `settings` are what they were drawn with, as each last event repeats them."""

    def __init__(self, model: str, body: AnswerFields, settings: Mapping[str, Any]) -> None:
        self._model = model
        self._body = body
        self._settings = settings
        self._answers = [_Answer(index) for index in range(body.n_cmpl)]

    async def stream(self, generation: Generation) -> AsyncGenerator[bytes, None]:
        """Events: pieces of text, and last of each answer what it took, without text."""
        async for news in generation:
            event = unbroken(news)
            if isinstance(event, TextDelta):
                answer = self._answers[event.choice]
                answer.add(event)
                yield data_event(to_json(self._piece(answer, event.text, event.token_ids, generation)))
            elif isinstance(event, ChoiceFinished):
                yield data_event(to_json(self._whole(self._answers[event.choice], event, generation)))

    async def collect(self, generation: Generation) -> dict[str, Any] | list[dict[str, Any]]:
        """The whole answer, or a list of several."""
        wholes: dict[int, dict[str, Any]] = {}
        async for news in generation:
            event = unbroken(news)
            if isinstance(event, TextDelta):
                self._answers[event.choice].add(event)
            elif isinstance(event, ChoiceFinished):
                wholes[event.choice] = self._whole(self._answers[event.choice], event, generation)
        return wholes[0] if len(wholes) == 1 else [whole for _, whole in sorted(wholes.items())]

    def life_sign(self, generation: Generation) -> bytes:
        """A comment; where the client asked for it, how far the reading of the prompt is."""
        report = progress_of(generation) if self._body.return_progress else None
        if report is None:
            return COMMENT
        piece = self._piece(self._answers[0], "", (), generation)
        return data_event(to_json({**piece, "prompt_progress": report}))

    def failure(self, error: ApiError) -> bytes:
        """A failure inside a stream."""
        return data_event(to_json(error_body(error)))

    def _piece(self, answer: "_Answer", text: str, ids: Sequence[int], generation: Generation) -> dict[str, Any]:
        return {
            "index": answer.index,
            "content": text,
            "tokens": list(ids) if self._body.return_tokens or self._body.stream else [],
            "stop": False,
            "id_slot": -1,
            "tokens_predicted": len(answer.ids),
            "tokens_evaluated": generation.counts().num_prompt_tokens,
        }

    def _whole(self, answer: "_Answer", end: ChoiceFinished, generation: Generation) -> dict[str, Any]:
        """All of the last event, or those of its members that were asked for. A stream's has no text."""
        stop_type, text = _stop_type(end), "".join(answer.texts)
        is_full = end.num_prompt_tokens + end.num_generated_tokens >= self._settings["n_ctx"]
        shown, ids = ("", ()) if self._body.stream else (text, answer.ids)
        whole = {
            **self._piece(answer, shown, ids, generation),
            "stop": True,
            "tokens_predicted": end.num_generated_tokens,
            "model": self._model,
            "generation_settings": self._settings,
            "has_new_line": "\n" in text,
            "truncated": stop_type == "limit" and is_full,
            "stop_type": stop_type,
            "stopping_word": end.stop if isinstance(end.stop, str) else "",
            "tokens_cached": end.num_cached_tokens,
            "timings": timings_of(generation),
        }
        return _chosen(whole, self._body.response_fields) if self._body.response_fields else whole


@dataclass(slots=True)
class _Answer:
    """One of the answers, as far as it has come."""

    index: int
    texts: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)

    def add(self, delta: TextDelta) -> None:
        self.texts.append(delta.text)
        self.ids += delta.token_ids


def settings_of(sampling: SamplingParams, context: int, body: AnswerFields) -> dict[str, Any]:
    """What an answer is drawn with, by llama.cpp's names."""
    return {
        "n_ctx": context,
        "n_predict": -1 if sampling.max_tokens is None else sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "repeat_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "seed": -1 if sampling.seed is None else sampling.seed,
        "ignore_eos": sampling.ignore_eos,
        "stop": list(body.stop),
        "stream": body.stream,
    }


def _stop_type(end: ChoiceFinished) -> str:
    if end.finished_as != "stop":
        return "limit"
    return "word" if isinstance(end.stop, str) else "eos"


def _chosen(whole: dict[str, Any], paths: Sequence[str]) -> dict[str, Any]:
    """Members by their paths, as `timings/prompt_n`; what there is not is left out."""
    found: dict[str, Any] = {}
    for path in paths:
        value: Any = whole
        for name in path.split("/"):
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            found[path] = value
    return found
