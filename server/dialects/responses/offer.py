"""The tools of a request as the model is told of them, and the names that its calls go out under.

The model knows functions alone. A tool of free text is a function with one text, `input`; a function in a namespace has
both names in one, `namespace__name`. Tools that run on the maker's servers do not exist here and are passed over.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from server.chat.answer_form import CallPolicy
from server.chat.conversation import Tool
from server.errors import InvalidRequest
from server.service import WarnOnce
from server.validation import shorten

logger = logging.getLogger(__name__)

INPUT = "input"  # the one parameter of a tool of free text
_SEPARATOR = "__"
_CALLABLE = ("function", "custom")


@dataclass(frozen=True, slots=True)
class Called:
    """What a client calls one of its tools, and whether it is one of free text."""

    name: str
    namespace: str | None = None
    is_custom: bool = False


@dataclass(frozen=True, slots=True)
class Offer:
    """Tools on offer, whether the model may or has to call them, and what the client calls each."""

    tools: tuple[Tool, ...] = ()
    policy: CallPolicy = field(default_factory=CallPolicy)
    names: Mapping[str, Called] = field(default_factory=dict)

    def called(self, name: str) -> Called:
        """What the client calls a tool that the model called; one that is not on offer is a function of that name."""
        return self.names.get(name, Called(name))


def flat_name(name: str, namespace: str | None) -> str:
    """What the model knows a tool by."""
    if not namespace:
        return name
    return namespace + name if namespace.endswith(_SEPARATOR) else namespace + _SEPARATOR + name


def offer_of(tools: tuple[dict[str, Any], ...], choice: Any, several: bool, warnings: WarnOnce) -> Offer:
    """What is on offer, and what the choice makes of it.

    Raises:
        InvalidRequest: a tool that is none, two that the model could not tell apart, a choice that makes no sense.
    """
    offered: list[Tool] = []
    names: dict[str, Called] = {}
    for tool, called in _tools(tools, warnings):
        if names.setdefault(tool.name, called) != called:
            raise InvalidRequest(f"{tool.path} has the name of another tool, {tool.name}.", param=tool.path)
        offered.append(tool)
    return Offer(tuple(offered), _policy(choice, several, names), names)


# --- tools ----------------------------------------------------------------------------------------------------------


def _tools(tools: tuple[dict[str, Any], ...], warnings: WarnOnce) -> Iterator[tuple[Tool, Called]]:
    for number, tool in enumerate(tools):
        path, kind = f"tools[{number}]", tool.get("type")
        if kind == "namespace":
            yield from _namespace(tool, path, warnings)
        elif kind in _CALLABLE:
            yield _tool(tool, path, None)
        else:
            _pass_over(kind, path, warnings)


def _namespace(space: Mapping[str, Any], path: str, warnings: WarnOnce) -> Iterator[tuple[Tool, Called]]:
    """Its tools. What the namespace says of itself stands before what the first of them says."""
    name, inner, about = _string(space, "name", path), space.get("tools"), _text(space, "description", path)
    if not isinstance(inner, list):
        raise InvalidRequest(f"{path}.tools must be a list.", param=f"{path}.tools")
    for number, tool in enumerate(inner):
        place = f"{path}.tools[{number}]"
        if not isinstance(tool, dict):
            raise InvalidRequest(f"{place} must be an object.", param=place)
        if tool.get("type") not in _CALLABLE:
            _pass_over(tool.get("type"), place, warnings)
            continue
        if about:
            tool = {**tool, "description": f"{about}\n\n{_text(tool, 'description', place) or ''}".rstrip()}
            about = None
        yield _tool(tool, place, name)


def _tool(tool: Mapping[str, Any], path: str, namespace: str | None) -> tuple[Tool, Called]:
    called = Called(_string(tool, "name", path), namespace, tool["type"] == "custom")
    name, about = flat_name(called.name, namespace), _text(tool, "description", path)
    spec = _free_text(tool, path, about) if called.is_custom else _function(tool, path, about)
    return Tool(name, {"name": name, **{key: value for key, value in spec.items() if value is not None}}, path), called


def _function(tool: Mapping[str, Any], path: str, about: str | None) -> dict[str, Any]:
    parameters = tool.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise InvalidRequest(f"{path}.parameters must be a JSON schema, an object.", param=f"{path}.parameters")
    return {"description": about, "parameters": parameters, "strict": tool.get("strict") is True or None}


def _free_text(tool: Mapping[str, Any], path: str, about: str | None) -> dict[str, Any]:
    """A pattern is held to. Lark is told to the model, and not held to: the grammar of calls cannot carry it."""
    form = tool.get("format") or {"type": "text"}
    kind = form.get("type") if isinstance(form, dict) else None
    schema: dict[str, Any] = {"type": "string"}
    if kind == "grammar":
        definition, syntax = _string(form, "definition", f"{path}.format"), form.get("syntax")
        if syntax not in ("lark", "regex"):
            raise InvalidRequest(f"{path}.format.syntax must be 'lark' or 'regex'.", param=f"{path}.format.syntax")
        if syntax == "regex":
            schema["pattern"] = f"^(?:{_unanchored(definition)})$"
        about = f"{about or ''}\n\n{INPUT} has to match this {syntax} grammar:\n{definition}".lstrip()
    elif kind != "text":
        raise InvalidRequest(f"{path}.format.type must be 'text' or 'grammar'.", param=f"{path}.format.type")
    parameters = {"type": "object", "properties": {INPUT: schema}, "required": [INPUT], "additionalProperties": False}
    return {"description": about, "parameters": parameters, "strict": "pattern" in schema or None}


def _unanchored(pattern: str) -> str:
    """A pattern that may say at its ends that it is one of the whole text. A dollar after a backslash is a dollar."""
    inner = pattern.removeprefix("^")
    before = inner.removesuffix("$")
    num_backslashes = len(before) - len(before.rstrip("\\"))
    return inner if num_backslashes % 2 else before


def _pass_over(kind: Any, path: str, warnings: WarnOnce) -> None:
    if not isinstance(kind, str) or not kind:
        raise InvalidRequest(f"{path}.type is required.", param=f"{path}.type")
    if warnings.first(f"tool {kind[:64]}"):
        logger.warning("the tool type %r does not exist here; tools of it are not offered", kind[:64])


def _string(value: Mapping[str, Any], name: str, path: str) -> str:
    text = _text(value, name, path)
    if not text:
        raise InvalidRequest(f"{path}.{name} is required.", param=f"{path}.{name}")
    return text


def _text(value: Mapping[str, Any], name: str, path: str) -> str | None:
    text = value.get(name)
    if text is not None and not isinstance(text, str):
        raise InvalidRequest(f"{path}.{name} must be text.", param=f"{path}.{name}")
    return text


# --- the choice -----------------------------------------------------------------------------------------------------


def _policy(choice: Any, several: bool, names: Mapping[str, Called]) -> CallPolicy:
    if choice in (None, "auto"):
        return CallPolicy(several=several)
    if choice == "none":
        return CallPolicy(is_forbidden=True)
    if not names:
        raise InvalidRequest("tool_choice asks for a call, but the request offers no tools.", param="tool_choice")
    if choice == "required":
        return CallPolicy(is_required=True, several=several)
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind in _CALLABLE:
        return CallPolicy(is_required=True, names=_named(choice, "tool_choice", names), several=False)
    if kind == "allowed_tools":
        return _allowed(choice, several, names)
    raise InvalidRequest(
        "tool_choice must be 'none', 'auto', 'required', or an object that names a function or a custom tool.",
        param="tool_choice",
    )


def _allowed(choice: Mapping[str, Any], several: bool, names: Mapping[str, Called]) -> CallPolicy:
    mode, allowed = choice.get("mode", "auto"), choice.get("tools")
    if mode not in ("auto", "required") or not isinstance(allowed, list):
        raise InvalidRequest("tool_choice needs tools, and the mode 'auto' or 'required'.", param="tool_choice")
    found = [
        _named(tool, f"tool_choice.tools[{number}]", names)
        for number, tool in enumerate(allowed)
        if isinstance(tool, dict) and tool.get("type") in (*_CALLABLE, "namespace")
    ]
    if not found:
        raise InvalidRequest("tool_choice.tools names no tool that exists here.", param="tool_choice.tools")
    return CallPolicy(mode == "required", frozenset[str]().union(*found), several)


def _named(choice: Mapping[str, Any], path: str, names: Mapping[str, Called]) -> frozenset[str]:
    """What the model knows the tools by that are meant: one, or all of a namespace."""
    name, space, kind = choice.get("name"), choice.get("namespace"), choice["type"]
    if kind == "namespace":
        found = [flat for flat, called in names.items() if called.namespace == name]
    else:
        found = [
            flat
            for flat, called in names.items()
            if called.is_custom == (kind == "custom")
            and (flat == name or (called.name == name and called.namespace == space))
        ]
    if not found:
        offered = ", ".join(names)
        raise InvalidRequest(f"{path} names no tool on offer; there are: {shorten(offered)}.", param=path)
    return frozenset(found)
