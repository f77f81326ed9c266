"""Writes the answer to a completion or an infill, as a stream of events or as one object.

Knows events and JSON, no HTTP.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
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
    """Encodes one answer. `settings` are what it was drawn with, as the last event repeats them."""

    def __init__(self, model: str, body: AnswerFields, settings: Mapping[str, Any]) -> None:
        self._model = model
        self._body = body
        self._settings = settings

    async def stream(self, generation: Generation) -> AsyncGenerator[bytes, None]:
        """Events: pieces of text, and last what it took, without text."""
        has_line = False
        async for news in generation:
            event = unbroken(news)
            if isinstance(event, TextDelta):
                has_line = has_line or "\n" in event.text
                yield data_event(to_json(self._piece(event.text, event.token_ids, generation)))
            elif isinstance(event, ChoiceFinished):
                yield data_event(to_json(self._whole("", (), event, generation, has_line)))

    async def collect(self, generation: Generation) -> dict[str, Any]:
        """The whole answer."""
        ids: list[int] = []
        texts: list[str] = []
        whole: dict[str, Any] = {}
        async for news in generation:
            event = unbroken(news)
            if isinstance(event, TextDelta):
                texts.append(event.text)
                ids += event.token_ids
            elif isinstance(event, ChoiceFinished):
                text = "".join(texts)
                whole = self._whole(text, ids, event, generation, "\n" in text)
        return whole

    def life_sign(self, generation: Generation) -> bytes:
        """A comment; where the client asked for it, how far the reading of the prompt is."""
        report = progress_of(generation) if self._body.return_progress else None
        if report is None:
            return COMMENT
        return data_event(to_json({**self._piece("", (), generation), "prompt_progress": report}))

    def failure(self, error: ApiError) -> bytes:
        """A failure inside a stream."""
        return data_event(to_json(error_body(error)))

    def _piece(self, text: str, ids: Sequence[int], generation: Generation) -> dict[str, Any]:
        counts = generation.counts()
        return {
            "index": 0,
            "content": text,
            "tokens": list(ids) if self._body.return_tokens or self._body.stream else [],
            "stop": False,
            "id_slot": -1,
            "tokens_predicted": counts.num_generated_tokens,
            "tokens_evaluated": counts.num_prompt_tokens,
        }

    def _whole(
        self, text: str, ids: Sequence[int], end: ChoiceFinished, generation: Generation, has_line: bool
    ) -> dict[str, Any]:
        """All of the last event, or those of its members that were asked for."""
        counts, stop_type = generation.counts(), _stop_type(end)
        is_full = counts.num_prompt_tokens + counts.num_generated_tokens >= self._settings["n_ctx"]
        whole = {
            **self._piece(text, ids, generation),
            "stop": True,
            "model": self._model,
            "generation_settings": self._settings,
            "has_new_line": has_line,
            "truncated": stop_type == "limit" and is_full,
            "stop_type": stop_type,
            "stopping_word": end.stop if isinstance(end.stop, str) else "",
            "tokens_cached": counts.num_cached_tokens,
            "timings": timings_of(generation),
        }
        return _chosen(whole, self._body.response_fields) if self._body.response_fields else whole


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
