"""The items of an answer, put together from its events, and what a stream tells of each step.

Lives here: messages, calls of functions, calls of tools of free text. It may not know the response around them.
"""

import uuid
from collections.abc import Iterator
from typing import Any, Protocol

from server.answering import AnswerEvent
from server.chat.events import ChoiceFinished, TextDelta, TokenText, ToolCallArguments, ToolCallStarted
from server.dialects.responses.custom_input import CustomInput, is_complete
from server.dialects.responses.offer import Called, Offer
from server.logprobs import told_tokens

Step = tuple[str, dict[str, Any]]  # a kind of event, and its members


class _Open(Protocol):
    """An item that is being written."""

    def opening(self) -> Iterator[Step]:
        """What begins it."""
        ...

    def feed(self, event: TextDelta | ToolCallArguments) -> Iterator[Step]:
        """More of it."""
        ...

    def closing(self) -> Iterator[Step]:
        """What ends it."""
        ...

    def item(self, status: str) -> dict[str, Any]:
        """As it is now."""
        ...

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing at its end."""
        ...


class Output:
    """The items of one answer. Feed it every event; it gives what a stream tells."""

    def __init__(self, offer: Offer, with_logprobs: bool) -> None:
        self.items: list[dict[str, Any]] = []
        self._offer = offer
        self._with_logprobs = with_logprobs
        self._open: _Open | None = None

    def so_far(self, status: str) -> list[dict[str, Any]]:
        """All items; the one that is being written has this status."""
        return [*self.items, *([self._open.item(status)] if self._open else [])]

    def add(self, event: AnswerEvent) -> Iterator[Step]:
        """What the event brings. An answer of nothing is a message of nothing."""
        match event:
            case TextDelta():
                if not isinstance(self._open, _Message):
                    yield from self._begin(_Message(self._with_logprobs))
                yield from self._feed(event)
            case ToolCallStarted():
                yield from self._begin(_call(event, self._offer.called(event.name)))
            case ToolCallArguments():
                yield from self._feed(event)
            case ChoiceFinished():
                if self._open is None and not self.items:
                    yield from self._begin(_Message(self._with_logprobs))
                yield from self._end(self._is_cut(event))

    def _is_cut(self, event: ChoiceFinished) -> bool:
        """Whether the last item ends where it should not. A stop string may end an answer, and cut off a call."""
        cut_by_stop = event.finished_as == "stop" and self._open is not None and not self._open.is_whole
        return cut_by_stop or event.finished_as not in ("stop", "tool_calls")

    def _begin(self, item: _Open) -> Iterator[Step]:
        yield from self._end(is_cut=False)
        self._open = item
        yield from self._told(item.opening())

    def _feed(self, event: TextDelta | ToolCallArguments) -> Iterator[Step]:
        assert self._open is not None
        yield from self._told(self._open.feed(event))

    def _end(self, is_cut: bool) -> Iterator[Step]:
        """A call that is cut off is never told to be done: there are clients that would carry it out."""
        item, self._open = self._open, None
        if item is None:
            return
        status = "incomplete" if is_cut else "completed"
        if not is_cut or item.is_whole:
            yield from self._told(item.closing())
            yield from self._told([("output_item.done", {"item": item.item(status)})])
        self.items.append(item.item(status))

    def _told(self, steps: "Iterator[Step] | list[Step]") -> Iterator[Step]:
        for kind, members in steps:
            yield kind, {"output_index": len(self.items), **members}


class _Message:
    """Text."""

    def __init__(self, with_logprobs: bool) -> None:
        self._id = f"msg_{uuid.uuid4().hex}"
        self._with_logprobs = with_logprobs
        self._texts: list[str] = []
        self._tokens: list[TokenText] = []
        self._place = {"item_id": self._id, "content_index": 0}
        self.is_whole = True

    def opening(self) -> Iterator[Step]:
        yield "output_item.added", {"item": {**self._head("in_progress"), "content": []}}
        yield "content_part.added", {**self._place, "part": _text_part("", [])}

    def feed(self, event: TextDelta | ToolCallArguments) -> Iterator[Step]:
        assert isinstance(event, TextDelta)
        self._texts.append(event.text)
        self._tokens += event.logprobs
        logprobs = told_tokens(event.logprobs) if self._with_logprobs else []
        yield "output_text.delta", {**self._place, "delta": event.text, "logprobs": logprobs}

    def closing(self) -> Iterator[Step]:
        part = self._part()
        yield "output_text.done", {**self._place, "text": part["text"], "logprobs": part["logprobs"]}
        yield "content_part.done", {**self._place, "part": part}

    def item(self, status: str) -> dict[str, Any]:
        return {**self._head(status), "content": [self._part()]}

    def _head(self, status: str) -> dict[str, Any]:
        return {"id": self._id, "type": "message", "status": status, "role": "assistant"}

    def _part(self) -> dict[str, Any]:
        return _text_part("".join(self._texts), told_tokens(self._tokens) if self._with_logprobs else [])


def _text_part(text: str, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def _call(event: ToolCallStarted, called: Called) -> _Open:
    return _CustomCall(event.id, called) if called.is_custom else _FunctionCall(event.id, called)


class _FunctionCall:
    """A call of a function."""

    def __init__(self, call_id: str, called: Called) -> None:
        self._id = f"fc_{uuid.uuid4().hex}"
        self._members = _members(call_id, called)
        self._fragments: list[str] = []

    def opening(self) -> Iterator[Step]:
        yield "output_item.added", {"item": self.item("in_progress")}

    def feed(self, event: TextDelta | ToolCallArguments) -> Iterator[Step]:
        assert isinstance(event, ToolCallArguments)
        self._fragments.append(event.fragment)
        yield "function_call_arguments.delta", {"item_id": self._id, "delta": event.fragment}

    def closing(self) -> Iterator[Step]:
        yield "function_call_arguments.done", {"item_id": self._id, "arguments": self._arguments}

    @property
    def is_whole(self) -> bool:
        return is_complete(self._arguments)

    def item(self, status: str) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "function_call",
            "status": status,
            "arguments": self._arguments,
            **self._members,
        }

    @property
    def _arguments(self) -> str:
        return "".join(self._fragments)


class _CustomCall:
    """A call of a tool of free text."""

    def __init__(self, call_id: str, called: Called) -> None:
        self._id = f"ctc_{uuid.uuid4().hex}"
        self._members = _members(call_id, called)
        self._input = CustomInput()
        self._texts: list[str] = []

    def opening(self) -> Iterator[Step]:
        yield "output_item.added", {"item": self.item("in_progress")}

    def feed(self, event: TextDelta | ToolCallArguments) -> Iterator[Step]:
        assert isinstance(event, ToolCallArguments)
        yield from self._more(self._input.feed(event.fragment))

    def closing(self) -> Iterator[Step]:
        yield from self._more(self._input.finish())
        yield "custom_tool_call_input.done", {"item_id": self._id, "input": "".join(self._texts)}

    def _more(self, text: str) -> Iterator[Step]:
        if text:
            self._texts.append(text)
            yield "custom_tool_call_input.delta", {"item_id": self._id, "delta": text}

    @property
    def is_whole(self) -> bool:
        return self._input.is_whole

    def item(self, status: str) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "custom_tool_call",
            "status": status,
            "input": "".join(self._texts),
            **self._members,
        }


def _members(call_id: str, called: Called) -> dict[str, Any]:
    """A namespace has its member only where there is one: some clients look whether it is there."""
    space = {} if called.namespace is None else {"namespace": called.namespace}
    return {"call_id": call_id, "name": called.name, **space}
