"""A conversation to the model's prompt text, through the Jinja template that comes with the model.

Lives here: how templates are run, and who wrote what: a control token counts only where the template itself wrote it.
It may not know HTTP, dialects or token ids.
"""

import json
import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from server.chat.conversation import Conversation, Message, Tool

_NAMES_WE_SET = frozenset({"messages", "tools", "bos_token", "eos_token"})


class TemplateError(Exception):
    """The conversation cannot be written as a prompt. The message is a sentence for the client."""


@dataclass(frozen=True, slots=True)
class RenderedPrompt:
    """A prompt as text.

    `control_spans` are the (start, end) of the control tokens that the template wrote, in order. All the rest is plain
    text, even where the client wrote something that looks like a control token.
    """

    text: str
    control_spans: tuple[tuple[int, int], ...] = ()

    def pieces(self) -> Iterator[tuple[str, bool]]:
        """The text cut at its control tokens: (piece, whether it is one). No piece is empty."""
        end = 0
        for start, stop in self.control_spans:
            if end < start:
                yield self.text[end:start], False
            yield self.text[start:stop], True
            end = stop
        if end < len(self.text):
            yield self.text[end:], False


class ChatTemplate:
    """A model's chat template, compiled once.

    Every control token in the template's source is replaced by a *mark*: a text with 128 random bits, drawn for this
    object, that no client can guess. The rendered text's marks are what the template wrote, and nothing else can pass
    for one: not a message, a tool's schema or an argument, nor a client's text and the template's beside it that only
    together spell a control token. Client text is never touched, whatever characters it holds. The price: a template
    must write each control token whole, as those of this model family do, and not put it together from parts.
    """

    def __init__(self, source: str, bos_token: str | None = None, eos_token: str | None = None) -> None:
        """`source` is Jinja. Raises `TemplateError` when it is not."""
        self.source = source
        self._tokens = {"bos_token": bos_token or "", "eos_token": eos_token or ""}
        self._environment = _environment()
        self._nonce = secrets.token_hex(16)
        self._end_mark = f"\ue000{self._nonce}:end\ue001"
        self._mark_pattern = re.compile(f"\ue000{self._nonce}:([0-9]+)\ue001")
        self._compiled: dict[tuple[str, ...], jinja2.Template] = {}
        self._compile(())  # a broken template fails here, at load

    def render(self, conversation: Conversation, special_tokens: Iterable[str] = ()) -> RenderedPrompt:
        """The prompt of `conversation`, with `special_tokens` the texts that are control tokens.

        It ends where the assistant's turn begins, or right after the last message's content with
        `continue_final_message`. Raises `TemplateError`.
        """
        specials = tuple(special_tokens)
        template = self._compile(specials)
        names = self._names(conversation, specials)
        try:
            marked = template.render(names)
        except Exception as error:  # a template can fail in any way Python can
            reason = self._mark_pattern.sub(lambda found: specials[int(found[1])], str(error))
            reason = reason.rstrip(".") or type(error).__name__
            raise TemplateError(f"the chat template refused the messages: {reason}") from error
        if conversation.continue_final_message:
            marked = self._cut_at_end_mark(marked)
        return self._read_marks(marked, specials)

    def _names(self, conversation: Conversation, specials: tuple[str, ...]) -> dict[str, Any]:
        """What the template sees."""
        reserved = sorted(_NAMES_WE_SET.intersection(conversation.template_kwargs))
        if reserved:
            raise TemplateError(f"chat_template_kwargs may not set {reserved[0]}")
        messages = [_message_names(message) for message in conversation.messages]
        names: dict[str, Any] = {"add_generation_prompt": True, **conversation.template_kwargs}
        if conversation.continue_final_message:
            _check_can_continue(conversation.messages)
            messages[-1]["content"] += self._end_mark
            names["add_generation_prompt"] = False
        return {
            **names,
            **{name: self._marked(token, specials) for name, token in self._tokens.items()},
            "messages": messages,
            "tools": [_tool_names(tool) for tool in conversation.tools] or None,
        }

    def _compile(self, specials: tuple[str, ...]) -> jinja2.Template:
        template = self._compiled.get(specials)
        if template is None:
            try:
                template = self._environment.from_string(self._marked(self.source, specials))
            except jinja2.TemplateError as error:
                raise TemplateError(f"the model's chat template is not valid Jinja: {error}") from error
            self._compiled[specials] = template
        return template

    def _marked(self, text: str, specials: tuple[str, ...]) -> str:
        """`text` with each control token in it replaced by its mark; the longest where several begin together."""
        if not specials:
            return text
        index_of = {token: index for index, token in enumerate(specials)}
        pattern = "|".join(re.escape(token) for token in sorted(specials, key=len, reverse=True))
        return re.sub(pattern, lambda found: f"\ue000{self._nonce}:{index_of[found[0]]}\ue001", text)

    def _cut_at_end_mark(self, marked: str) -> str:
        end = marked.rfind(self._end_mark)
        if end < 0:
            raise TemplateError("the last message cannot be continued: the chat template does not print its content")
        return marked[:end].replace(self._end_mark, "")

    def _read_marks(self, marked: str, specials: tuple[str, ...]) -> RenderedPrompt:
        parts: list[str] = []
        spans: list[tuple[int, int]] = []
        length = end = 0
        for found in self._mark_pattern.finditer(marked):
            plain, token = marked[end : found.start()], specials[int(found[1])]
            parts += (plain, token)
            length += len(plain) + len(token)
            spans.append((length - len(token), length))
            end = found.end()
        parts.append(marked[end:])
        return RenderedPrompt("".join(parts), tuple(spans))


def _check_can_continue(messages: tuple[Message, ...]) -> None:
    if not messages or messages[-1].role != "assistant":
        raise TemplateError("continue_final_message needs the assistant's message as the last one")
    if messages[-1].tool_calls:
        raise TemplateError("continue_final_message cannot go on after tool calls: their results must come next")


def _message_names(message: Message) -> dict[str, Any]:
    """A message in the shape that templates are written for: the Chat Completions one, with parsed arguments."""
    names: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        names["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": dict(call.arguments)}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        names["tool_call_id"] = message.tool_call_id
    return names


def _tool_names(tool: Tool) -> dict[str, Any]:
    return {"type": "function", "function": dict(tool.spec)}


def _environment() -> ImmutableSandboxedEnvironment:
    """The Jinja dialect that chat templates are written for, in a sandbox: a model's folder is not code to trust."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes for HTML, which models were not trained on."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)
