"""What the two kinds of completions share when answers are written: identity, usage, JSON, errors in a stream.

Knows events and JSON, no HTTP.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from server.dialects.openai.schema import GenerationFields, StreamOptions
from server.errors import ApiError
from server.generation import Generation
from server.json_text import to_json
from server.sse import COMMENT, data_event
from server.timings import progress_of, timings_of

DONE = data_event(b"[DONE]")


@dataclass(frozen=True, slots=True)
class Identity:
    """What every object of one answer repeats."""

    id: str
    model: str
    created: int


def usage_of(generation: Generation, with_cache_report: bool = False) -> dict[str, Any]:
    """The usage object, every member always there but the report, which is for those who ask."""
    counts = generation.counts()
    report = {"cache_report": generation.cache_reports()} if with_cache_report else {}
    return {
        "prompt_tokens": counts.num_prompt_tokens,
        "completion_tokens": counts.num_generated_tokens,
        "total_tokens": counts.num_prompt_tokens + counts.num_generated_tokens,
        "prompt_tokens_details": {"cached_tokens": counts.num_cached_tokens},
        **report,
    }


class Chunks:
    """Makes the events of one stream."""

    def __init__(self, identity: Identity, kind: str, body: GenerationFields) -> None:
        head = {"id": identity.id, "object": kind, "created": identity.created, "model": identity.model}
        self._head = to_json(head).removesuffix(b"}") + b',"choices":['  # what every chunk begins with
        self._options = body.stream_options or StreamOptions()
        self._with_report = body.cache_report
        self._with_progress = body.return_progress

    def choice(self, generation: Generation, choice: Mapping[str, Any]) -> bytes:
        """A chunk with one choice in it."""
        return self.encoded_choice(generation, to_json(choice))

    def encoded_choice(self, generation: Generation, choice: bytes) -> bytes:
        """A chunk with one choice in it, given as JSON."""
        usage = self._usage(generation) if self._options.continuous_usage_stats else b""
        return self._chunk(choice, usage)

    def last(self, generation: Generation, choice: Mapping[str, Any]) -> bytes:
        """The chunk that a choice ends with, and what the request took so far, as llama.cpp tells it."""
        usage = self._usage(generation) if self._options.continuous_usage_stats else b""
        return self._chunk(to_json(choice), usage + b',"timings":' + to_json(timings_of(generation)))

    def end(self, generation: Generation) -> bytes:
        """What follows the last choice: the usage when asked for, and the end mark."""
        return (self._chunk(b"", self._usage(generation)) if self._options.include_usage else b"") + DONE

    def life_sign(self, generation: Generation) -> bytes:
        """A comment; where the client asked for it, how far the reading of the prompt is, as llama.cpp has it."""
        report = progress_of(generation) if self._with_progress else None
        return COMMENT if report is None else self._chunk(b"", b',"prompt_progress":' + to_json(report))

    def failure(self, error: ApiError) -> bytes:
        """A failure inside a stream."""
        return data_event(to_json(error.body()))

    def _usage(self, generation: Generation) -> bytes:
        return b',"usage":' + to_json(usage_of(generation, self._with_report))

    def _chunk(self, choices: bytes, more: bytes) -> bytes:
        return data_event(self._head + choices + b"]" + more + b"}")
