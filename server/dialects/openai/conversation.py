"""From the dialect's messages and tools to a `Conversation`: the many shapes clients send, made one.

Knows the schema and the conversation, nothing of tokens or sampling.
"""

from collections.abc import Mapping

from server.absent import num_left_out
from server.chat.conversation import Conversation, Message, Role, Tool, ToolCall
from server.content import flat_text
from server.dialects.openai.schema import ChatCompletionRequest, MessageBody, TemplateFields, ToolBody, ToolCallBody
from server.errors import InvalidRequest
from server.tools import function_tool, past_arguments

_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}


def conversation_of(body: ChatCompletionRequest | TemplateFields, tools: tuple[Tool, ...]) -> Conversation:
    """Everything the prompt of a chat request is made of.

    Raises:
        InvalidRequest: names the message or option that cannot be rendered.
    """
    num_without = num_left_out(body.messages, lambda message: message.role == "tool")
    messages = tuple(
        _message(message, f"messages[{index}]", leaves_out=index < num_without)
        for index, message in enumerate(body.messages)
    )
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
    return tuple(function_tool(tool.type, tool.function, f"tools[{index}]") for index, tool in enumerate(tools))


def _message(message: MessageBody, path: str, leaves_out: bool) -> Message:
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
        content=flat_text(message.content, f"{path}.content", _PARTS, leaves_out),
        tool_calls=tuple(_call(call, f"{path}.tool_calls[{index}]") for index, call in enumerate(message.tool_calls)),
        tool_call_id=message.tool_call_id,
    )


def _call(call: ToolCallBody, path: str) -> ToolCall:
    return ToolCall(call.id, call.function.name, past_arguments(call.function.arguments, f"{path}.function.arguments"))
