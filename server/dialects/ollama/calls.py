"""Tool calls in one piece: Ollama's clients want the arguments of each as an object.

Knows the events of an answer, nothing of how it is sent.
"""

from typing import Any

from server.answering import AnswerEvent
from server.chat.events import ChoiceFinished, ToolCallArguments, ToolCallStarted
from server.json_text import object_of


class CallCollector:
    """Feed it every event of an answer; at the end it has the calls.

    All of them go out together: clients that number calls themselves do so within one piece of the answer.
    """

    def __init__(self) -> None:
        self._calls: list[tuple[ToolCallStarted, list[str]]] = []

    def feed(self, event: AnswerEvent) -> None:
        """Take what belongs to a call."""
        if isinstance(event, ToolCallStarted):
            self._calls.append((event, []))
        elif isinstance(event, ToolCallArguments):
            self._calls[-1][1].append(event.fragment)

    def whole(self, end: ChoiceFinished) -> list[dict[str, Any]]:
        """The calls of an answer that ended so. Half a call must not look like a whole one, and is left out."""
        is_cut = end.finished_as != "tool_calls"
        last = len(self._calls) - 1
        found = [_whole(call, "".join(texts), is_cut and i == last) for i, (call, texts) in enumerate(self._calls)]
        return [call for call in found if call is not None]


def _whole(call: ToolCallStarted, text: str, is_cut: bool) -> dict[str, Any] | None:
    """A whole call whose arguments are no object has them as text."""
    arguments = object_of(text)
    if arguments is None and is_cut:
        return None
    given = {"arguments": text} if arguments is None else arguments
    return {"id": call.id, "function": {"index": call.index, "name": call.name, "arguments": given}}
