"""From a request of the dialect to a `GenerationJob`: sampling, stops, tools, prompts.

Knows the schema and what the server works with; HTTP is the routes' business, JSON answers are `answers`'.
"""

import logging
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from engine.types import SamplingParams
from server.chat.conversation import Tool
from server.chat.model_files import GenerationDefaults
from server.chat.stops import added_token_stops
from server.chat.tokenizer import Tokenizer
from server.choice import OutputOptions
from server.dialects.openai.conversation import tools_of
from server.dialects.openai.parameters import IGNORED, refusal_of
from server.dialects.openai.schema import ChatCompletionRequest, CompletionRequest, GenerationFields
from server.errors import InvalidRequest
from server.service import WarnOnce
from server.validation import first_problem

logger = logging.getLogger(__name__)

Body = TypeVar("Body", bound=BaseModel)

_OFF = 0


def parse(schema: type[Body], payload: Mapping[str, Any], warnings: WarnOnce) -> Body:
    """The body as its schema, with refused parameters refused and strangers told of in the log.

    Raises:
        InvalidRequest: names the first parameter that is wrong.
    """
    for name, value in payload.items():
        if name in schema.model_fields or value is None:
            continue
        reason = refusal_of(name, value)
        if reason is not None:
            raise InvalidRequest(reason, param=name, code="unsupported_parameter")
        if name not in IGNORED and warnings.first(f"parameter {name[:64]}"):
            logger.warning("the request parameter %r is not known here and is ignored", name[:64])
    try:
        return schema.model_validate(payload)
    except ValidationError as error:
        path, problem = first_problem(error)
        raise InvalidRequest(problem, param=path or None, code="invalid_value") from None


def check_common(body: GenerationFields) -> None:
    """Refuse what is well-formed and cannot be done."""
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("stream_options is only allowed with stream: true.", param="stream_options")
    if body.response_format is not None and body.response_format.type != "text":
        raise InvalidRequest(
            f"response_format {body.response_format.type!r} is not supported: constrained output is not supported yet.",
            param="response_format",
            code="unsupported_parameter",
        )


def offered_tools(body: ChatCompletionRequest, warnings: WarnOnce) -> tuple[Tool, ...]:
    """The tools the model is told of: none when the client forbids calls.

    Raises:
        InvalidRequest: a choice that would need constrained output, or one that makes no sense.
    """
    tools = tools_of(body.tools)
    choice = body.tool_choice
    if choice == "none":
        return ()
    if choice not in (None, "auto"):
        raise _refused_choice(choice, bool(tools))
    if any(tool.spec.get("strict") for tool in tools) and warnings.first("strict"):
        logger.warning("tools with strict: true are accepted, but their schema is not enforced yet")
    return tools


def _refused_choice(choice: Any, has_tools: bool) -> InvalidRequest:
    if choice == "required" or (isinstance(choice, dict) and choice.get("type") in {"function", "allowed_tools"}):
        reason = "constrained output is not supported yet" if has_tools else "the request offers no tools"
        wanted = "'required'" if choice == "required" else "of a named tool"
        return InvalidRequest(
            f"tool_choice {wanted} is not supported: {reason}.", param="tool_choice", code="unsupported_parameter"
        )
    return InvalidRequest("tool_choice must be 'none' or 'auto'.", param="tool_choice")


def sampling_of(
    body: GenerationFields, logprobs: int | None, defaults: GenerationDefaults, stop_token_ids: tuple[int, ...]
) -> SamplingParams:
    """How to draw: what the request says, else what the model's own configuration says.

    Raises:
        RequestError: a value out of range, by its name.
    """
    repetition = _first(body.repetition_penalty, body.repeat_penalty, defaults.repetition_penalty)
    top_k = _first(body.top_k, defaults.top_k)
    return SamplingParams(
        max_tokens=_ceiling(_asked_tokens(body), defaults.max_new_tokens),
        temperature=_first(body.temperature, defaults.temperature),
        top_k=_OFF if top_k == -1 else top_k,
        top_p=_first(body.top_p, defaults.top_p),
        min_p=_first(body.min_p, defaults.min_p),
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        repetition_penalty=repetition,
        logit_bias=body.logit_bias,
        seed=body.seed,
        logprobs=logprobs,
        stop_token_ids=stop_token_ids,
        min_tokens=body.min_tokens,
        ignore_eos=body.ignore_eos,
        allowed_token_ids=body.allowed_token_ids,
    )


N = TypeVar("N", int, float)


def _first(*values: N | None) -> N:
    """The first that was given; the last always is."""
    return next(value for value in values if value is not None)


def _asked_tokens(body: GenerationFields) -> int | None:
    """The limit the client set; -1 is how some say "none"."""
    asked = body.max_tokens
    if isinstance(body, ChatCompletionRequest) and body.max_completion_tokens is not None:
        asked = body.max_completion_tokens
    return None if asked == -1 else asked


def _ceiling(asked: int | None, most: int | None) -> int | None:
    limits = [limit for limit in (asked, most) if limit is not None]
    return min(limits, default=None)


def output_of(body: GenerationFields, tokenizer: Tokenizer, tools: tuple[Tool, ...]) -> OutputOptions:
    """What becomes of the tokens. An empty stop string would match everywhere and is left out."""
    stops = tuple(stop for stop in body.stop if stop)
    one_call = isinstance(body, ChatCompletionRequest) and not body.parallel_tool_calls
    return OutputOptions(
        stops=stops,
        stop_tokens=added_token_stops(stops, tokenizer),
        stop_token_ids=body.stop_token_ids,
        include_stop=body.include_stop_str_in_output,
        skip_special_tokens=body.skip_special_tokens,
        min_tokens=body.min_tokens,
        tools=tools,
        max_tool_calls=1 if one_call else None,
    )


def prompts_of(body: CompletionRequest) -> tuple[str | tuple[int, ...], ...]:
    """The prompts of a completion, each as text or as token ids.

    Raises:
        InvalidRequest: there is none, or it has none of the four shapes.
    """
    prompt = body.prompt
    if isinstance(prompt, str):
        return (prompt,)
    if not isinstance(prompt, list) or not prompt:
        raise InvalidRequest("prompt must be text, a list of token ids, or a list of either.", param="prompt")
    if all(isinstance(item, str) for item in prompt):
        return tuple(prompt)
    rows = prompt if isinstance(prompt[0], list) else [prompt]
    for row in rows:
        if not isinstance(row, list) or not all(isinstance(i, int) and not isinstance(i, bool) for i in row):
            raise InvalidRequest("prompt must be text, a list of token ids, or a list of either.", param="prompt")
    return tuple(tuple(row) for row in rows)
