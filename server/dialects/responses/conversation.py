"""From input items to a `Conversation`: the many kinds of items, made messages as the model knows them.

Knows items and the conversation, nothing of tokens or sampling.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from server.absent import num_left_out
from server.chat.conversation import Conversation, Message, Role, Tool, ToolCall
from server.content import flat_text
from server.dialects.responses.offer import INPUT, flat_name
from server.errors import InvalidRequest
from server.service import WarnOnce
from server.tools import past_arguments
from server.validation import shorten

logger = logging.getLogger(__name__)

Item = dict[str, Any]

_ROLES: Mapping[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_PARTS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}
_OUTPUTS = ("function_call_output", "custom_tool_call_output")
_THOUGHTS = frozenset({"reasoning"})
# Of tools that run on the maker's servers, or of models that write their calls in another form.
_PASSED_OVER = frozenset(
    {
        *("file_search_call", "web_search_call", "image_generation_call", "code_interpreter_call"),
        *("computer_call", "computer_call_output", "program", "program_output"),
        *("local_shell_call", "local_shell_call_output", "shell_call", "shell_call_output"),
        *("apply_patch_call", "apply_patch_call_output", "tool_search_call", "tool_search_output"),
        *("mcp_call", "mcp_list_tools", "mcp_approval_request", "mcp_approval_response", "additional_tools"),
        *("compaction", "compaction_summary", "compaction_trigger", "context_compaction", "configuration_update"),
    }
)
MAX_ITEMS = 32_768  # more than any context has room for
_SYSTEM_GAP = "\n\n"  # between instructions and the developer messages that follow them


def input_items(given: Any, stored: Callable[[str], Item | None]) -> tuple[Item, ...]:
    """The request's items, each with a type; text alone is a user's message. References are what they refer to.

    Raises:
        InvalidRequest: the input is no text and no list of items, or refers to an item that is not known.
    """
    if isinstance(given, str):
        return ({"type": "message", "role": "user", "content": given},)
    if given is None:
        raise InvalidRequest("input is required: text, or a list of items.", param="input")
    if not isinstance(given, list):
        raise InvalidRequest("input must be text or a list of items.", param="input")
    if len(given) > MAX_ITEMS:
        raise InvalidRequest(f"input must have at most {MAX_ITEMS} items, not {len(given)}.", param="input")
    return tuple(_item(item, f"input[{index}]", stored) for index, item in enumerate(given))


def _item(item: Any, path: str, stored: Callable[[str], Item | None]) -> Item:
    if not isinstance(item, dict):
        raise InvalidRequest(f"{path} must be an object with a type.", param=path)
    kind = item.get("type")
    if kind == "item_reference" or (kind is None and "role" not in item and "id" in item):
        name = item.get("id")
        found = stored(name) if isinstance(name, str) else None
        if found is None:
            raise InvalidRequest(
                f"{path} refers to an item that is not stored here: {shorten(name)}. Send the item itself.",
                param=f"{path}.id",
                code="item_not_found",
            )
        return found
    return {**item, "type": "message"} if kind is None and "role" in item else item


def conversation_of(
    instructions: str | None, earlier: Iterable[Item], items: Iterable[Item], tools: tuple[Tool, ...], warn: WarnOnce
) -> Conversation:
    """Everything the prompt is made of: what was said up to the previous response, then what is new.

    Raises:
        InvalidRequest: names the item that cannot be rendered.
    """
    messages = [Message("system", instructions)] if instructions else []
    for index, item in enumerate(earlier):
        messages += _messages(item, f"previous_response_id, item {index}", warn, leaves_out=True)
    new = [*items]
    num_without = num_left_out(new, lambda item: item.get("type") in _OUTPUTS)
    for index, item in enumerate(new):
        messages += _messages(item, f"input[{index}]", warn, leaves_out=index < num_without)
    if not messages:
        raise InvalidRequest("input must have an item that says something.", param="input")
    return Conversation(tuple(_turns(_with_one_system(messages))), tools)


def _with_one_system(messages: list[Message]) -> list[Message]:
    """What is said before anything else, by whoever gives orders, is one message; what comes later stands in its place.

    So a conversation that goes on begins as it did.
    """
    count = next((n for n, message in enumerate(messages) if message.role != "system"), len(messages))
    if not count:
        return messages
    head = Message("system", _SYSTEM_GAP.join(filter(None, (message.content for message in messages[:count]))))
    return [head, *messages[count:]]


def _turns(messages: Iterable[Message]) -> Iterator[Message]:
    """Messages, with text and calls of one answer, which are items of their own, together again."""
    last: Message | None = None
    for message in messages:
        if last is not None and last.role == message.role == "assistant":
            last = replace(
                last, content=last.content + message.content, tool_calls=(*last.tool_calls, *message.tool_calls)
            )
            continue
        if last is not None:
            yield last
        last = message
    if last is not None:
        yield last


def _messages(item: Item, path: str, warnings: WarnOnce, leaves_out: bool) -> Iterator[Message]:
    """The message that an item is; none for what this model has no use for."""
    match item.get("type"):
        case "message":
            yield _message(item, path, leaves_out)
        case "function_call":
            arguments = past_arguments(item.get("arguments") or "", f"{path}.arguments")
            yield _call(item, arguments, path)
        case "custom_tool_call":
            yield _call(item, {INPUT: flat_text(item.get("input"), f"{path}.input", {})}, path)
        case kind if kind in _OUTPUTS:
            output = flat_text(item.get("output"), f"{path}.output", _PARTS, leaves_out=True)
            yield Message("tool", output, (), _string(item, "call_id", path))
        case str(kind) if kind in _PASSED_OVER:
            if warnings.first(f"item {kind}"):
                logger.warning("input items of the type %r are not for this model, and are left out", kind)
        case str(kind) if kind in _THOUGHTS:
            pass
        case None:
            raise InvalidRequest(f"{path}.type is required.", param=f"{path}.type")
        case kind:
            raise InvalidRequest(f"{path}.type {shorten(kind)} is not known here.", param=f"{path}.type")


def _message(item: Item, path: str, leaves_out: bool) -> Message:
    role = item.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise InvalidRequest(
            f"{path}.role must be one of {', '.join(map(repr, _ROLES))}, not {shorten(role)}.", param=f"{path}.role"
        )
    return Message(_ROLES[role], flat_text(item.get("content"), f"{path}.content", _PARTS, leaves_out))


def _call(item: Item, arguments: Mapping[str, Any], path: str) -> Message:
    name, namespace = _string(item, "name", path), item.get("namespace")
    if not name:
        raise InvalidRequest(f"{path}.name is required.", param=f"{path}.name")
    if namespace is not None and not isinstance(namespace, str):
        raise InvalidRequest(f"{path}.namespace must be text.", param=f"{path}.namespace")
    return Message("assistant", "", (ToolCall(_string(item, "call_id", path), flat_name(name, namespace), arguments),))


def _string(item: Item, name: str, path: str) -> str:
    value = item.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidRequest(f"{path}.{name} must be text.", param=f"{path}.{name}")
    return value or ""
