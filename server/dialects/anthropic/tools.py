"""The tools of a request: those that the prompt begins with, and those that it tells of where the conversation does.

Claude Code leaves most of its tools aside, and adds one to the request once the model has searched for it. Told of at
the beginning of the prompt, it would have all of the conversation read again. Knows the schema, nothing of tokens.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from server.chat.conversation import Tool
from server.dialects.anthropic.schema import ToolBody
from server.errors import InvalidRequest
from server.service import WarnOnce
from server.validation import first_problem, shorten

logger = logging.getLogger(__name__)

_CLIENTS_OWN = "custom"
_SERVERS_SEARCH = "tool_search_tool_"


@dataclass(frozen=True, slots=True)
class Offer:
    """The tools that the client carries out. The `deferred` ones, by name, wait until the conversation names them."""

    tools: tuple[Tool, ...]
    deferred: Mapping[str, Tool]


def offer_of(tools: tuple[ToolBody, ...], warnings: WarnOnce) -> Offer:
    """What a request offers. Tools of the maker's models and servers do not exist here and are passed over, but not
    where nothing else is on offer: Claude Code asks so for a search, and would take an answer for what was found.

    None is deferred where nothing on offer could find it: where there is no other tool, or a search that is not here.
    Raises:
        InvalidRequest: names the tool that is none, or does not exist here.
    """
    is_found_here = not any(tool.type.startswith(_SERVERS_SEARCH) for tool in tools)
    may_wait = is_found_here and any(tool.type == _CLIENTS_OWN and not tool.defer_loading for tool in tools)
    offered: list[Tool] = []
    deferred: dict[str, Tool] = {}
    for index, body in enumerate(tools):
        tool = tool_of(body, f"tools[{index}]", warnings)
        if tool is None:
            continue
        if body.defer_loading and may_wait:
            deferred[tool.name] = tool
        else:
            offered.append(tool)
    if tools and not offered and not deferred:
        raise InvalidRequest(
            f"tools[0].type {shorten(tools[0].type)} does not exist here, and the request offers no other tool.",
            param="tools[0].type",
            code="unsupported_parameter",
        )
    return Offer(tuple(offered), deferred)


def tool_of(tool: ToolBody, path: str, warnings: WarnOnce) -> Tool | None:
    """A tool that the client carries out; None for one that only the maker's models and servers know.

    Raises:
        InvalidRequest: it is none.
    """
    if tool.type != _CLIENTS_OWN:
        if warnings.first(f"tool {tool.type[:64]}"):
            logger.warning("the tool type %r does not exist here; tools of it are not offered", tool.type[:64])
        return None
    if not tool.name:
        raise InvalidRequest(f"{path}.name is required.", param=f"{path}.name")
    if tool.input_schema is not None and not isinstance(tool.input_schema, dict):
        raise InvalidRequest(f"{path}.input_schema must be a JSON schema, an object.", param=f"{path}.input_schema")
    spec = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.input_schema,
        "strict": tool.strict or None,
    }
    return Tool(tool.name, {member: value for member, value in spec.items() if value is not None}, path, "input_schema")


def defined_tool(definition: Any, path: str, warnings: WarnOnce) -> Tool | None:
    """A tool that a message brings, as `tool_of` has it.

    Raises:
        InvalidRequest: it is none.
    """
    if not isinstance(definition, dict):
        raise InvalidRequest(f"{path} must be an object.", param=path)
    try:
        body = ToolBody.model_validate(definition)
    except ValidationError as error:
        place, problem = first_problem(error)
        raise InvalidRequest(f"{path}.{problem}", param=f"{path}.{place}") from None
    return tool_of(body, path, warnings)


def announced(tool: Tool) -> str:
    """How the model is told of a tool in the middle of a conversation.

    Raises:
        InvalidRequest: its schema cannot be written.
    """
    try:
        spec = json.dumps(tool.spec, ensure_ascii=False)
    except RecursionError:
        raise InvalidRequest(f"The tool {shorten(tool.name)} is nested too deep.", param="tools") from None
    return f"This function can be called from here on: {spec}\n"


def announced_again(name: str) -> str:
    """The same for one that the model has been told of."""
    return f"The function {name} can be called from here on.\n"


def withdrawn(name: str) -> str:
    """How the model is told that a tool is gone."""
    return f"The function {name} can no longer be called.\n"
