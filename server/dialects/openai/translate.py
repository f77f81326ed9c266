"""From a request of the dialect to a `GenerationJob`: sampling, stops, tools, prompts.

Knows the schema and what the server works with; HTTP is the routes' business, JSON answers are `answers`'.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from engine.types import RepetitionDetection, SamplingParams
from server.chat.answer_form import ANY_OBJECT, CallPolicy, FormKind, TextForm
from server.chat.conversation import Tool
from server.chat.fim import FillInTheMiddle
from server.chat.model_files import GenerationDefaults
from server.choice import OutputOptions
from server.dialects.openai.conversation import tools_of
from server.dialects.openai.schema import (
    ChatCompletionRequest,
    CompletionRequest,
    GenerationFields,
    RepetitionBody,
    ResponseFormat,
)
from server.errors import InvalidRequest
from server.generation import INTERACTIVE_MAX_TOKENS
from server.sampling import OFF, sampling_params
from server.validation import shorten


def check_common(body: GenerationFields) -> None:
    """Refuse what is well-formed and cannot be done."""
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("stream_options is only allowed with stream: true.", param="stream_options")


def text_form(body: GenerationFields) -> TextForm | None:
    """The form that the answer's text must have; None for any. Several dialects of the API say it each in its way.

    Raises:
        InvalidRequest: it is said twice, or incompletely.
    """
    forms = [*_response_format(body), *_structured_outputs(body), *_spelled_by_others(body)]
    if len(forms) > 1:
        raise InvalidRequest(
            f"{forms[0].path} and {forms[1].path} both say what the answer must be: give one.", param=forms[1].path
        )
    return forms[0] if forms else None


def _response_format(body: GenerationFields) -> Iterator[TextForm]:
    wanted = body.response_format
    if wanted is None or wanted.type == "text":
        return
    if wanted.type == "json_schema":
        yield TextForm("json_schema", _schema_of(wanted), "response_format.json_schema.schema")
    elif wanted.type == "json_object":
        yield TextForm(
            "json_schema", ANY_OBJECT if wanted.bare_schema is None else wanted.bare_schema, "response_format"
        )
    else:
        raise InvalidRequest(
            "response_format.type must be 'text', 'json_object' or 'json_schema'.",
            param="response_format.type",
            code="unsupported_parameter",
        )


def _schema_of(wanted: ResponseFormat) -> Any:
    """Where OpenAI has it, or beside the type, as llama.cpp takes it."""
    named = wanted.json_schema
    schema = named.get("schema") if isinstance(named, dict) else None
    schema = wanted.bare_schema if schema is None else schema
    if schema is None:
        path = "response_format.json_schema.schema"
        raise InvalidRequest(f"{path} is required.", param=path)
    return schema


_MOST_OF_SUFFIXES = 16 << 20  # characters

_STRUCTURED: Mapping[str, FormKind] = {
    "json": "json_schema",
    "regex": "regex",
    "choice": "choice",
    "grammar": "grammar",
}


def _structured_outputs(body: GenerationFields) -> Iterator[TextForm]:
    for name, value in (body.structured_outputs or {}).items():
        path = f"structured_outputs.{name}"
        if value is None or value is False:
            continue
        if name == "json_object":
            yield TextForm("json_schema", ANY_OBJECT, path)
        elif name in _STRUCTURED:
            yield TextForm(_STRUCTURED[name], value, path)
        else:
            raise InvalidRequest(
                f"{path} is not supported; there are {', '.join(_STRUCTURED)} and json_object.",
                param=path,
                code="unsupported_parameter",
            )


def _spelled_by_others(body: GenerationFields) -> Iterator[TextForm]:
    """llama.cpp's and SGLang's members of the request itself."""
    kinds: tuple[tuple[str, FormKind], ...] = (
        ("grammar", "grammar"),
        ("ebnf", "grammar"),
        ("json_schema", "json_schema"),
        ("regex", "regex"),
    )
    for name, kind in kinds:
        value = getattr(body, name)
        if value:
            yield TextForm(kind, value, name)


def offered_tools(body: ChatCompletionRequest) -> tuple[tuple[Tool, ...], CallPolicy]:
    """The tools the model is told of, and whether it may or has to call one.

    Raises:
        InvalidRequest: a choice that makes no sense.
    """
    tools = tools_of(body.tools)
    choice, several = body.tool_choice, body.parallel_tool_calls
    if choice == "none":
        return tools, CallPolicy(is_forbidden=True)
    if choice in (None, "auto"):
        return tools, CallPolicy(several=several)
    if choice == "required":
        _expect_tools(tools)
        return tools, CallPolicy(is_required=True, several=several)
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind == "function":
        name = _named(choice, "tool_choice", tools)
        return tools, CallPolicy(is_required=True, names=frozenset({name}), several=False)
    if kind == "allowed_tools":
        return tools, _allowed_tools(choice, tools, several)
    raise InvalidRequest(
        "tool_choice must be 'none', 'auto', 'required', or an object that names a function.", param="tool_choice"
    )


def _allowed_tools(choice: Mapping[str, Any], tools: tuple[Tool, ...], several: bool) -> CallPolicy:
    inner = choice.get("allowed_tools", choice)
    mode, allowed = (inner.get("mode", "auto"), inner.get("tools")) if isinstance(inner, dict) else (None, None)
    path = "tool_choice.allowed_tools"
    if mode not in ("auto", "required") or not isinstance(allowed, list) or not allowed:
        raise InvalidRequest(f"{path} needs tools and the mode 'auto' or 'required'.", param=path)
    names = frozenset(_named(tool, f"{path}.tools[{number}]", tools) for number, tool in enumerate(allowed))
    return CallPolicy(is_required=mode == "required", names=names, several=several)


def _expect_tools(tools: tuple[Tool, ...]) -> None:
    if not tools:
        raise InvalidRequest("tool_choice asks for a call, but the request offers no tools.", param="tool_choice")


def _named(choice: object, path: str, tools: tuple[Tool, ...]) -> str:
    """The function's name, inside the object or, as some clients write it, beside its type."""
    _expect_tools(tools)
    inner = choice.get("function", choice) if isinstance(choice, dict) else None
    name = inner.get("name") if isinstance(inner, dict) else None
    if not isinstance(name, str) or all(tool.name != name for tool in tools):
        offered = ", ".join(tool.name for tool in tools)
        raise InvalidRequest(f"{path} names no tool on offer; there are: {shorten(offered)}.", param=path)
    return name


def sampling_of(body: GenerationFields, logprobs: int | None, defaults: GenerationDefaults) -> SamplingParams:
    """How to draw: what the request says, else what the model's own configuration says.

    Raises:
        InvalidRequest: an answer without a token, where no prompt stands before it.
        RequestError: a value out of range, by its name.
    """
    asked = body.max_completion_tokens if isinstance(body, ChatCompletionRequest) else None
    max_tokens = body.max_tokens if asked is None else asked
    if isinstance(body, CompletionRequest) and body.suffix and "max_tokens" not in body.model_fields_set:
        max_tokens = INTERACTIVE_MAX_TOKENS  # the usual sixteen are for prompts that go on for ever: a gap has an end
    if max_tokens == 0 and not (isinstance(body, CompletionRequest) and body.echo):
        raise InvalidRequest("max_tokens is 0, but must be at least 1 unless the prompt is echoed.", param="max_tokens")
    return sampling_params(
        defaults,
        max_tokens=max_tokens,
        temperature=body.temperature,
        top_k=body.top_k,
        top_p=body.top_p,
        min_p=body.min_p,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        repetition_penalty=body.repeat_penalty if body.repetition_penalty is None else body.repetition_penalty,
        logit_bias=body.logit_bias,
        seed=body.seed,
        logprobs=logprobs,
        prompt_logprobs=logprobs if _is_scored(body) else None,
        min_tokens=body.min_tokens,
        ignore_eos=body.ignore_eos,
        allowed_token_ids=_once(body.allowed_token_ids),
        repetition_detection=_repetition_detection(body.repetition_detection),
    )


def _is_scored(body: GenerationFields) -> bool:
    """Whether log-probabilities are wanted of the prompt too."""
    return isinstance(body, CompletionRequest) and body.echo and body.logprobs is not None


def _once(ids: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """Each once: they are looked at for every token."""
    return None if ids is None else tuple(dict.fromkeys(ids))


def _repetition_detection(asked: RepetitionBody | None) -> RepetitionDetection | None:
    if asked is None or asked.max_pattern_size == OFF:
        return None
    smallest = max(1, asked.min_pattern_size)
    return RepetitionDetection(asked.max_pattern_size, smallest, asked.min_count, asked.min_repeated_tokens)


def texts_of(body: CompletionRequest, prompts: Sequence[str | tuple[int, ...]]) -> tuple[str, ...]:
    """The prompts of a completion with a suffix.

    Raises:
        InvalidRequest: they are not all text, or to be echoed, or a long suffix would stand in many of them.
    """
    if body.echo:
        raise InvalidRequest("echo is not possible with a suffix, which would stand in the prompt too.", param="echo")
    texts = tuple(prompt for prompt in prompts if isinstance(prompt, str))
    if len(texts) < len(prompts):
        raise InvalidRequest("prompt must be text where there is a suffix.", param="prompt")
    num_characters = len(texts) * len(body.suffix)
    if num_characters > _MOST_OF_SUFFIXES:
        raise InvalidRequest(
            f"The suffix stands in each of {len(texts)} prompts: that is {num_characters} characters, "
            f"of at most {_MOST_OF_SUFFIXES}. Send fewer at once.",
            param="suffix",
        )
    return texts


def output_of(body: GenerationFields, fim: FillInTheMiddle | None = None) -> OutputOptions:
    """What becomes of the tokens. An empty stop string would match everywhere and is left out. What fills a gap ends
    where the model would begin something else.

    Where a prompt and its answer are told token by token, readers count on an entry for each that was generated.
    """
    is_told = _is_scored(body)
    is_filled = isinstance(body, CompletionRequest) and bool(body.suffix)
    return OutputOptions(
        stops=tuple(stop for stop in body.stop if stop),
        stop_token_ids=(*body.stop_token_ids, *(fim.stop_ids if fim and is_filled else ())),
        include_stop=body.include_stop_str_in_output,
        tells_end=is_told,
        skip_special_tokens=body.skip_special_tokens and not is_told,
        min_tokens=body.min_tokens,
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
