"""From the dialect's messages and tools to a `Conversation`: the many shapes clients send, made one.

Knows the schema and the conversation, nothing of tokens or sampling.
"""

from collections.abc import Mapping
from typing import Any

from server.chat.conversation import Conversation, Message, Role, Tool, ToolCall, parsed_arguments
from server.dialects.openai.schema import ChatCompletionRequest, MessageBody, TokenizeRequest, ToolBody, ToolCallBody
from server.errors import InvalidRequest
from server.validation import shorten

_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}


def conversation_of(body: ChatCompletionRequest | TokenizeRequest, tools: tuple[Tool, ...]) -> Conversation:
    """Everything the prompt of a chat request is made of.

    Raises:
        InvalidRequest: names the message or option that cannot be rendered.
    """
    messages = tuple(_message(message, f"messages[{index}]") for index, message in enumerate(body.messages))
    kwargs = dict(body.chat_template_kwargs)
    if body.continue_final_message:
        if body.add_generation_prompt:
            raise InvalidRequest(
                "continue_final_message and add_generation_prompt cannot both be true.", param="continue_final_message"
            )
        if messages[-1].role != "assistant":
            raise InvalidRequest(
                "continue_final_message needs the assistant's message as the last one.", param="continue_final_message"
            )
    elif body.add_generation_prompt is False:
        kwargs["add_generation_prompt"] = False
    return Conversation(messages, tools, body.continue_final_message, kwargs)


def tools_of(tools: tuple[ToolBody, ...]) -> tuple[Tool, ...]:
    """The functions on offer."""
    return tuple(_tool(tool, f"tools[{index}]") for index, tool in enumerate(tools))


def _tool(tool: ToolBody, path: str) -> Tool:
    if tool.type != "function":
        raise InvalidRequest(
            f"{path}.type {shorten(tool.type)} is not supported: only functions are.", param=f"{path}.type"
        )
    name = (tool.function or {}).get("name")
    if tool.function is None or not isinstance(name, str) or not name:
        raise InvalidRequest(f"{path}.function.name is required.", param=f"{path}.function.name")
    parameters = tool.function.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise InvalidRequest(
            f"{path}.function.parameters must be a JSON schema, an object.", param=f"{path}.function.parameters"
        )
    return Tool(name, {member: value for member, value in tool.function.items() if value is not None})


def _message(message: MessageBody, path: str) -> Message:
    if message.role not in _ROLES:
        raise InvalidRequest(
            f"{path}.role {message.role!r} is not supported: use tool_calls and the role 'tool'.", param=f"{path}.role"
        )
    if message.function_call:
        raise InvalidRequest(
            f"{path}.function_call is not supported: use tool_calls and the role 'tool'.", param=f"{path}.function_call"
        )
    return Message(
        role=_ROLES[message.role],
        content=_text_of(message.content, f"{path}.content"),
        tool_calls=tuple(_call(call, f"{path}.tool_calls[{index}]") for index, call in enumerate(message.tool_calls)),
        tool_call_id=message.tool_call_id,
    )


def _text_of(content: Any, path: str) -> str:
    """Flat text from a string, a list of text parts, or nothing."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise InvalidRequest(f"{path} must be text or a list of parts.", param=path)
    return "".join(_part(part, f"{path}[{index}]") for index, part in enumerate(content))


def _part(part: Any, path: str) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in {"text", "refusal"} and isinstance(part.get(kind), str):
        return str(part[kind])
    if kind in {"text", "refusal"}:
        raise InvalidRequest(f"{path}.{kind} must be text.", param=f"{path}.{kind}")
    raise InvalidRequest(
        f"{path} is of the type {shorten(kind)}: this model reads only text parts.", param=f"{path}.type"
    )


def _call(call: ToolCallBody, path: str) -> ToolCall:
    return ToolCall(call.id, call.function.name, _arguments(call.function.arguments, f"{path}.function.arguments"))


def _arguments(arguments: Any, path: str) -> Mapping[str, Any]:
    if isinstance(arguments, dict):
        return arguments
    if not isinstance(arguments, str):
        raise InvalidRequest(f"{path} must be JSON text or an object.", param=path)
    return parsed_arguments(arguments)
