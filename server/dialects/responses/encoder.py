"""Writes a response, as a stream of events or as one object.

Knows events and JSON, no HTTP.
"""

from collections.abc import AsyncGenerator, Iterable
from typing import Any

from server.answering import unbroken
from server.chat.events import ChoiceFinished
from server.dialects.responses.ledger import Entry, Ledger
from server.dialects.responses.output import Output, Step
from server.dialects.responses.response import ResponseObject
from server.errors import ApiError
from server.generation import Generation
from server.json_text import to_json
from server.sse import data_event
from server.timings import progress_of


class ResponseEncoder:
    """Encodes one response, and sees to it that it is known while it is written, and kept after that."""

    def __init__(self, response: ResponseObject, output: Output, entry: Entry, ledger: Ledger) -> None:
        self._response = response
        self._output = output
        self._entry = entry
        self._ledger = ledger
        self._num_events = 0

    async def stream(self, generation: Generation) -> AsyncGenerator[bytes, None]:
        """Events in OpenAI's order; the last one carries the whole response, and is sent when that is kept."""
        with self._ledger.running(self._entry, self._as_of_now, generation.abort):
            yield self._lifecycle("created") + self._lifecycle("in_progress")
            async for news in generation:
                event = unbroken(news)
                if steps := self._told(self._output.add(event)):
                    yield steps
                if isinstance(event, ChoiceFinished):
                    response = self._finish(event, generation)
                    yield self._event(response["status"], {"response": response})

    async def collect(self, generation: Generation) -> dict[str, Any]:
        """The whole response."""
        with self._ledger.running(self._entry, self._as_of_now, generation.abort):
            async for news in generation:
                event = unbroken(news)
                for _ in self._output.add(event):
                    pass
                if isinstance(event, ChoiceFinished):
                    return self._finish(event, generation)
        raise AssertionError("every choice has an end")

    def life_sign(self, generation: Generation) -> bytes:
        """Once more that it is being worked on: Codex counts events and nothing else. While the prompt is read it says
        how far that is."""
        report = progress_of(generation)
        told = {} if report is None else {"prompt_progress": report}
        return self._event("in_progress", {"response": self._response.as_of_now(), **told})

    def failure(self, error: ApiError) -> bytes:
        """The last event of a stream that breaks off."""
        response = self._response.as_of_now("failed", self._output.so_far("incomplete"), error.message)
        return self._event("failed", {"response": response})

    def _finish(self, event: ChoiceFinished, generation: Generation) -> dict[str, Any]:
        is_whole = all(item["status"] == "completed" for item in self._output.items)  # a stop string may cut a call off
        is_complete = is_whole and event.finished_as in ("stop", "tool_calls")
        response = self._response.finished(self._output.items, generation.counts(), is_complete)
        self._ledger.keep(self._entry, response)
        return response

    def _as_of_now(self, status: str) -> dict[str, Any]:
        of_last = "in_progress" if status == "in_progress" else "incomplete"
        return self._response.as_of_now(status, self._output.so_far(of_last))

    def _lifecycle(self, kind: str) -> bytes:
        return self._event(kind, {"response": self._response.as_of_now()})

    def _told(self, steps: Iterable[Step]) -> bytes:
        return b"".join([self._event(kind, members) for kind, members in steps])

    def _event(self, kind: str, members: dict[str, Any]) -> bytes:
        number, self._num_events = self._num_events, self._num_events + 1
        name = f"response.{kind}"
        return data_event(to_json({"type": name, "sequence_number": number, **members}), name)
