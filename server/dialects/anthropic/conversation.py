"""From the dialect's messages to a `Conversation`: blocks of many kinds, made flat text, calls and results.

Knows the schema and the conversation, nothing of tokens or sampling.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from server.absent import num_left_out, unreadable_part, unseen
from server.chat.conversation import Conversation, Message, Tool, ToolCall
from server.dialects.anthropic.blocks import Block, blocks_of, headed, id_of, name_of, string_of
from server.dialects.anthropic.schema import MessageBody, PromptFields
from server.dialects.anthropic.tools import Offer, announced, announced_again, defined_tool, withdrawn
from server.errors import InvalidRequest
from server.service import WarnOnce
from server.validation import shorten

# What other models thought, or the maker's own servers did: it says nothing to this one.
_LEFT_OUT = frozenset(
    {
        "thinking",
        "redacted_thinking",
        "server_tool_use",
        "mcp_tool_use",
        "mcp_tool_result",
        "mcp_tool_listing",
        "fallback",
    }
)
_FAILED = "The tool failed and said nothing."
_SERVERS_RESULT = "_tool_result"


class ConversationReader:
    """Reads the messages of one request, and notes which of its tools they tell of on the way."""

    def __init__(self, offer: Offer, warnings: WarnOnce) -> None:
        self._offer = offer
        self._warnings = warnings
        self._told_of: dict[str, Tool] = {}

    @property
    def told_of(self) -> tuple[Tool, ...]:
        """The tools that the messages told of, in their order."""
        return tuple(self._told_of.values())

    def read(self, body: PromptFields) -> Conversation:
        """Everything the prompt is made of. An assistant's message at the end is one to go on with.

        Raises:
            InvalidRequest: names the message or block that cannot be rendered.
        """
        system = self._text_of(body.system, "system")
        messages = [Message("system", system)] if system else []
        num_without = num_left_out(body.messages, _has_result)
        for index, message in enumerate(body.messages):
            messages += self._messages(message, f"messages[{index}]", leaves_out=index < num_without)
        is_unfinished = body.messages[-1].role == "assistant"
        return Conversation(tuple(messages), self._offer.tools, continue_final_message=is_unfinished)

    def _messages(self, message: MessageBody, path: str, leaves_out: bool) -> Iterator[Message]:
        """One message as the model knows them: results are messages of their own, and come before the text beside
        them. A system message may hold nothing but settings."""
        texts: list[str] = []
        calls: list[ToolCall] = []
        num_results = 0
        for place, block in blocks_of(message.content, f"{path}.content"):
            match block.get("type"):
                case "tool_use" if message.role == "assistant":
                    calls.append(_call(block, place))
                case "tool_result" if message.role == "user":
                    num_results += 1
                    text = self._text_of(block.get("content"), f"{place}.content", leaves_out=True)
                    if not text and block.get("is_error") is True:
                        text = _FAILED
                    yield Message("tool", text, (), id_of(block, "tool_use_id"))
                case _:
                    texts.append(self._text(block, place, leaves_out))
        text = "".join(texts) if message.role == "assistant" else _apart(texts)
        if text or not (num_results or message.role == "system"):
            yield Message(message.role, text, tuple(calls))

    def _text_of(self, content: Any, path: str, leaves_out: bool = False) -> str:
        return _apart(self._text(block, place, leaves_out) for place, block in blocks_of(content, path))

    def _text(self, block: Block, path: str, leaves_out: bool) -> str:
        """What a block says, as text; with `leaves_out` a sentence takes a picture's place."""
        kind = block.get("type")
        match kind:
            case "text":
                return string_of(block, "text", path)
            case "tool_reference":
                return self._reference(string_of(block, "tool_name", path))
            case "tool_addition":
                return self._addition(block.get("tool"), f"{path}.tool")
            case "tool_removal":
                return withdrawn(_referred(block.get("tool"), f"{path}.tool"))
            case "compaction":
                return string_of(block, "content", path) if block.get("content") is not None else ""
            case "search_result":
                return headed(
                    block, ("title", "source"), self._text_of(block.get("content"), f"{path}.content", leaves_out)
                )
            case "document":
                return headed(
                    block, ("title", "context"), self._document(block.get("source"), f"{path}.source", leaves_out)
                )
            case "tool_use" | "tool_result":
                raise InvalidRequest(f"{path} is a {kind}, which has no place here.", param=f"{path}.type")
        if isinstance(kind, str) and (kind in _LEFT_OUT or kind.endswith(_SERVERS_RESULT)):
            return ""
        if leaves_out and (sentence := unseen(kind)):
            return sentence
        raise unreadable_part(kind, path)

    def _document(self, source: Any, path: str, leaves_out: bool) -> str:
        kind = source.get("type") if isinstance(source, dict) else None
        if kind == "text":
            return string_of(source, "data", path)
        if kind == "content":
            return self._text_of(source.get("content"), f"{path}.content", leaves_out)
        if leaves_out and (sentence := unseen("document")):
            return sentence
        raise unreadable_part(kind, path)

    def _reference(self, name: str) -> str:
        """A tool that was found: what it is, unless the prompt begins with it."""
        tool = self._offer.deferred.get(name)
        return name if tool is None else self._tell(tool)

    def _addition(self, tool: Any, path: str) -> str:
        """A tool that comes with a message, by name or whole."""
        if isinstance(tool, dict) and tool.get("type") == "tool_definition":
            defined = defined_tool(tool.get("definition"), f"{path}.definition", self._warnings)
            return "" if defined is None else self._tell(defined)
        name = _referred(tool, path)
        known = self._offer.deferred.get(name)
        return announced_again(name) if known is None else self._tell(known)

    def _tell(self, tool: Tool) -> str:
        self._told_of[tool.name] = tool
        return announced(tool)


def _has_result(message: MessageBody) -> bool:
    blocks = message.content if isinstance(message.content, list) else []
    return any(isinstance(block, dict) and block.get("type") == "tool_result" for block in blocks)


def _apart(texts: Iterable[str]) -> str:
    """Texts that each stand by themselves: a line ends between two."""
    said = [text for text in texts if text]
    return "".join(text if text.endswith("\n") else f"{text}\n" for text in said[:-1]) + "".join(said[-1:])


def _referred(tool: Any, path: str) -> str:
    """The name in a reference to a tool of the client's own."""
    if not isinstance(tool, dict) or tool.get("type") != "tool_reference":
        raise InvalidRequest(
            f"{path} must be of the type 'tool_reference' or, where one is added, 'tool_definition'.",
            param=f"{path}.type",
        )
    return name_of(tool, path)


def _call(block: Block, path: str) -> ToolCall:
    arguments = {} if block.get("input") is None else block["input"]
    if not isinstance(arguments, dict):
        raise InvalidRequest(f"{path}.input must be an object, not {shorten(arguments)}.", param=f"{path}.input")
    return ToolCall(id_of(block, "id") or "", name_of(block, path), arguments)
