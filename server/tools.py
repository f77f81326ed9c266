"""Reading functions on offer and past calls, in the shape that several dialects share.

Knows that shape and the conversation, no dialect.
"""

from collections.abc import Mapping
from typing import Any

from server.chat.conversation import Tool, parsed_arguments
from server.errors import InvalidRequest
from server.validation import shorten


def function_tool(kind: str, function: Any, path: str) -> Tool:
    """The tool of a `type` and a `function` object with name, description and parameters.

    Raises:
        InvalidRequest: it is none; `path` is where it stands.
    """
    if kind != "function":
        raise InvalidRequest(f"{path}.type {shorten(kind)} is not supported: only functions are.", param=f"{path}.type")
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str) or not name:
        raise InvalidRequest(f"{path}.function.name is required.", param=f"{path}.function.name")
    parameters = function.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise InvalidRequest(
            f"{path}.function.parameters must be a JSON schema, an object.", param=f"{path}.function.parameters"
        )
    return Tool(name, {member: value for member, value in function.items() if value is not None})


def past_arguments(arguments: Any, path: str) -> Mapping[str, Any]:
    """The arguments of a past call by name: an object, or its JSON.

    Raises:
        InvalidRequest: they are neither; `path` is where they stand.
    """
    if isinstance(arguments, dict):
        return arguments
    if not isinstance(arguments, str):
        raise InvalidRequest(f"{path} must be JSON text or an object.", param=path)
    return parsed_arguments(arguments)
