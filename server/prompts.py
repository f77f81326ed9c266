"""From conversations and texts to prompt ids. Long ones are encoded in a thread so that the event loop stays free.

Knows the model's template and tokenizer, no dialect.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from server.chat.conversation import Conversation
from server.chat.template import TemplateError
from server.errors import InvalidRequest
from server.model import ServedModel

T = TypeVar("T")

THREAD_CHARACTERS = 64 * 1024


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model is to read. `boundaries` are the lengths of its prefixes that end with a message."""

    ids: tuple[int, ...]
    boundaries: tuple[int, ...] = ()


class PromptEncoder:
    """Encodes prompts for one model."""

    def __init__(self, model: ServedModel) -> None:
        self._model = model

    async def chat(self, conversation: Conversation) -> Prompt:
        """The prompt of a conversation.

        Raises:
            InvalidRequest: the model has no chat template, or its template refuses the conversation.
        """
        size = sum(len(message.content) for message in conversation.messages)
        size += sum(len(str(call.arguments)) for message in conversation.messages for call in message.tool_calls)
        size += sum(len(str(tool.spec)) for tool in conversation.tools)
        return await _run(lambda: self._render(conversation), size)

    async def raw(self, prompts: Sequence[str | tuple[int, ...]]) -> tuple[Prompt, ...]:
        """Raw prompts, in which control tokens may be written out (fill-in-the-middle needs that).

        Encoded together: many short texts would hold up the event loop as much as one long one.
        """
        size = sum(len(prompt) for prompt in prompts if isinstance(prompt, str))
        return await _run(lambda: tuple(Prompt(self._ids(prompt)) for prompt in prompts), size)

    async def decode(self, ids: tuple[int, ...]) -> str:
        """The text of token ids, control tokens included."""
        return await _run(lambda: self._model.tokenizer.decode(ids, skip_special_tokens=False), len(ids))

    def _ids(self, prompt: str | tuple[int, ...]) -> tuple[int, ...]:
        return tuple(self._model.tokenizer.encode(prompt, parse_special=True)) if isinstance(prompt, str) else prompt

    def _render(self, conversation: Conversation) -> Prompt:
        template, tokenizer = self._model.template, self._model.tokenizer
        if template is None:
            raise InvalidRequest(
                "This model has no chat template: use /v1/completions.", param="messages", code="no_chat_template"
            )
        try:
            rendered = template.render(conversation, special_tokens=tokenizer.special_tokens)
        except TemplateError as error:
            raise InvalidRequest(f"{error}.", param="messages") from error
        ids, boundaries = tokenizer.encode_prompt(rendered)
        return Prompt(tuple(ids), tuple(boundaries))


async def _run(work: Callable[[], T], num_characters: int) -> T:
    """A thread costs more than encoding a short text does."""
    return await asyncio.to_thread(work) if num_characters > THREAD_CHARACTERS else work()
