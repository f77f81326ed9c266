"""From conversations and texts to prompt ids. Long ones are encoded in a thread so that the event loop stays free.

Knows the model's template and tokenizer, no dialect.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from server.chat.conversation import Conversation
from server.chat.fim import FillInTheMiddle
from server.chat.history import History, Replay
from server.chat.template import TemplateError
from server.chat.volatile import ToolSpellings, without_billing
from server.errors import InvalidRequest
from server.model import ServedModel

T = TypeVar("T")

_FRAME = 20  # characters that take as long to render as what stands around a message, a call or a prompt
_THREAD_CHARACTERS = 64 * 1024


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model is to read.

    `boundaries` are the lengths of its prefixes that end with a message. `num_replayed` of its answers are in the
    tokens that were generated.
    """

    ids: tuple[int, ...]
    boundaries: tuple[int, ...] = ()
    num_replayed: int = 0


class PromptEncoder:
    """Encodes prompts for one model."""

    def __init__(self, model: ServedModel, history: History | None = None) -> None:
        """Without a history everything is encoded as it stands."""
        self._model = model
        self._history = history
        self._tools = ToolSpellings()

    async def chat(self, conversation: Conversation, salt: str = "") -> Prompt:
        """The prompt of a conversation; answers remembered under another salt are not known to it.

        Raises:
            InvalidRequest: the model has no chat template, or its template refuses the conversation.
        """
        size = sum(len(message.content) + _FRAME for message in conversation.messages)
        calls = (call for message in conversation.messages for call in message.tool_calls)
        size += sum(len(str(call.arguments)) + _FRAME for call in calls)
        size += sum(len(str(tool.spec)) for tool in conversation.tools)
        return await in_thread_if_long(lambda: self._render(conversation, salt), size)

    async def raw(self, prompts: Sequence[str | tuple[int, ...]]) -> tuple[Prompt, ...]:
        """Raw prompts, in which control tokens may be written out (fill-in-the-middle needs that).

        Encoded together: many short texts would hold up the event loop as much as one long one.
        """
        size = sum(len(prompt) + _FRAME for prompt in prompts)
        return await in_thread_if_long(lambda: tuple(Prompt(self._ids(prompt)) for prompt in prompts), size)

    async def plain(self, text: str) -> tuple[int, ...]:
        """The ids of a text in which control tokens are text."""
        return await in_thread_if_long(
            lambda: tuple(self._model.tokenizer.encode(text, parse_special=False)), len(text)
        )

    async def fill(
        self,
        prefix: str,
        suffix: str,
        line: str | None = None,
        files: Sequence[tuple[str, str]] = (),
        param: str = "suffix",
    ) -> Prompt:
        """The prompt that asks for what stands between two texts, the first of which is the prefix with the line.

        Without a line it is the prefix's last one. Other files (name, text) come before it. They and the prefix end at
        boundaries: what stands before the line is read once, whatever is typed. `param` is what the body calls the
        second text.
        Raises:
            InvalidRequest: the model has no marks for that.
        """
        fim = self._marks(param)
        if files and not fim.takes_files:
            raise _no_marks("This model fills no gap beside other files: its vocabulary has no marks for these.", param)
        size = len(prefix) + len(suffix) + len(line or "") + sum(len(name) + len(text) for name, text in files)
        ids, ends = await in_thread_if_long(lambda: fim.prompt_ids(prefix, suffix, line, files), size)
        return Prompt(tuple(ids), tuple(ends))

    async def fill_each(self, prefixes: Sequence[str], suffix: str) -> tuple[Prompt, ...]:
        """As `fill`, for several texts before the same other one."""
        fim = self._marks("suffix")
        size = sum(len(prefix) + len(suffix) + _FRAME for prefix in prefixes)
        filled = await in_thread_if_long(lambda: [fim.prompt_ids(prefix, suffix) for prefix in prefixes], size)
        return tuple(Prompt(tuple(ids), tuple(ends)) for ids, ends in filled)

    def _marks(self, param: str) -> FillInTheMiddle:
        if self._model.fim is None:
            raise _no_marks("This model does not fill in the middle: its vocabulary has no marks for that.", param)
        return self._model.fim

    async def decode(self, ids: tuple[int, ...]) -> str:
        """The text of token ids, control tokens included."""
        return await in_thread_if_long(lambda: self._model.tokenizer.decode(ids, skip_special_tokens=False), len(ids))

    def _ids(self, prompt: str | tuple[int, ...]) -> tuple[int, ...]:
        return tuple(self._model.tokenizer.encode(prompt, parse_special=True)) if isinstance(prompt, str) else prompt

    def _render(self, conversation: Conversation, salt: str) -> Prompt:
        template, tokenizer = self._model.template, self._model.tokenizer
        if template is None:
            raise InvalidRequest(
                "This model has no chat template: use /v1/completions.", param="messages", code="no_chat_template"
            )
        conversation = without_billing(conversation)
        if self._history is not None:
            conversation = replace(conversation, tools=self._tools.first(salt, conversation.tools))
        try:
            rendered = template.render(conversation, special_tokens=tokenizer.special_tokens)
        except TemplateError as error:
            raise InvalidRequest(f"{error}.", param="messages") from error
        ends = [end for _, end in rendered.control_spans]
        messages, num_unfinished = conversation.messages, int(conversation.continue_final_message)
        opening = rendered.text[ends[-1] :] if ends else ""
        if num_unfinished:
            opening = opening.removesuffix(messages[-1].content)
        num_openings = sum(rendered.text.startswith(opening, end) for end in ends)
        num_answers = sum(message.role == "assistant" for message in messages) - num_unfinished
        # Where the next answer begins, all others began. A template that writes them in another way has no replay.
        if self._history is None or num_openings != num_answers + 1:
            ids, boundaries = tokenizer.encode_prompt(rendered)
            return Prompt(tuple(ids), tuple(boundaries))
        replay = Replay(
            self._history,
            salt,
            messages[: len(messages) - num_unfinished],
            tokenizer.encode(opening, parse_special=False),
        )

        def known(text: str, before: Sequence[int]) -> Sequence[int] | None:
            return replay.next_answer(before) if text.startswith(opening) else None

        ids, boundaries = tokenizer.encode_prompt(rendered, known)
        return Prompt(tuple(ids), tuple(boundaries), replay.num_replayed)


def _no_marks(message: str, param: str) -> InvalidRequest:
    return InvalidRequest(message, param=param, code="no_fill_in_the_middle")


async def in_thread_if_long(work: Callable[[], T], num_characters: int) -> T:
    """Work that takes as long as encoding so many characters: for few of them a thread would cost more."""
    return await asyncio.to_thread(work) if num_characters > _THREAD_CHARACTERS else work()
