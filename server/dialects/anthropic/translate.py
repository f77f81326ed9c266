"""From a request of the dialect to how it is answered: calls, form, sampling, stops, session.

Knows the schema and what the server works with; no HTTP.
"""

import json
from collections.abc import Sequence

from engine.types import SamplingParams
from server.chat.answer_form import CallPolicy, TextForm
from server.chat.conversation import Tool
from server.chat.model_files import GenerationDefaults
from server.choice import OutputOptions
from server.dialects.anthropic.schema import MessagesRequest, PromptFields
from server.errors import InvalidRequest
from server.sampling import sampling_params
from server.validation import shorten


def call_policy(body: PromptFields, tools: Sequence[Tool]) -> CallPolicy:
    """Whether the model may or has to call a tool, and which of those that it was told of.

    Raises:
        InvalidRequest: a choice that makes no sense.
    """
    choice = body.tool_choice
    if choice is None:
        return CallPolicy()
    if choice.type == "none":
        return CallPolicy(is_forbidden=True)
    several = not choice.disable_parallel_tool_use
    if choice.type == "auto":
        return CallPolicy(several=several)
    if not tools:
        raise InvalidRequest("tool_choice asks for a call, but the request offers no tools.", param="tool_choice")
    if choice.type == "any":
        return CallPolicy(is_required=True, several=several)
    if choice.name is None or all(tool.name != choice.name for tool in tools):
        offered = ", ".join(tool.name for tool in tools)
        raise InvalidRequest(
            f"tool_choice.name names no tool on offer; there are: {shorten(offered)}.", param="tool_choice.name"
        )
    return CallPolicy(is_required=True, names=frozenset({choice.name}), several=False)


def text_form(body: PromptFields) -> TextForm | None:
    """The form that the answer's text must have; None for any.

    Raises:
        InvalidRequest: a form that is not known.
    """
    config = body.output_config
    wanted, path = (config.format, "output_config.format") if config and config.format else (None, "output_format")
    wanted = wanted or body.output_format
    if wanted is None:
        return None
    if wanted.get("type") != "json_schema":
        raise InvalidRequest(f"{path}.type must be 'json_schema'.", param=f"{path}.type", code="unsupported_parameter")
    return TextForm("json_schema", wanted.get("schema"), f"{path}.schema")


def sampling_of(body: MessagesRequest, defaults: GenerationDefaults) -> SamplingParams:
    """How to draw. Raises `RequestError`: a value out of range, by its name."""
    return sampling_params(
        defaults,
        max_tokens=body.max_tokens,
        temperature=body.temperature,
        top_k=body.top_k,
        top_p=body.top_p,
        min_p=body.min_p,
        seed=body.seed,
    )


def output_of(body: MessagesRequest) -> OutputOptions:
    """What becomes of the tokens."""
    return OutputOptions(stops=tuple(stop for stop in body.stop_sequences if stop))


def session_of(body: MessagesRequest) -> str | None:
    """The conversation's name, where Claude Code says it: in JSON inside `metadata.user_id`."""
    user_id = body.metadata.user_id if body.metadata else None
    if not user_id or not user_id.startswith("{"):
        return None
    try:
        session = json.loads(user_id).get("session_id")
    except (ValueError, RecursionError):
        return None
    return session if isinstance(session, str) and session else None
