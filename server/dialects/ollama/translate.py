"""From a request of the dialect to what the server works with: conversation, sampling, stops, the form of the answer.

Knows the schema, nothing of HTTP.
"""

import re
from typing import Any

from engine.types import SamplingParams
from server.absent import num_left_out, unseen
from server.chat.answer_form import ANY_OBJECT, TextForm
from server.chat.conversation import Conversation, Message, ToolCall
from server.chat.model_files import GenerationDefaults
from server.choice import OutputOptions
from server.dialects.ollama.schema import AnswerFields, ChatRequest, GenerateRequest, MessageBody, Options
from server.errors import InvalidRequest
from server.sampling import sampling_params
from server.tools import function_tool, past_arguments
from server.validation import shorten

_ANY_SEED = -1
_NO_TIME = re.compile(r"[-+]?0*(?:\.0*)?[a-zµ]*")  # one way to match: with two it takes the square of the length
_NEUTRAL = 1.0  # of a penalty that divides


def chat_conversation(body: ChatRequest) -> Conversation:
    """Messages and tools. What the assistant said last, if that was no call, is gone on with.

    Raises:
        InvalidRequest: names what cannot be read.
    """
    num_without = num_left_out(body.messages, lambda message: message.role == "tool")
    messages = tuple(
        _message(message, f"messages[{index}]", leaves_out=index < num_without)
        for index, message in enumerate(body.messages)
    )
    tools = tuple(function_tool(tool.type, tool.function, f"tools[{index}]") for index, tool in enumerate(body.tools))
    final = messages[-1] if messages else None
    is_unfinished = final is not None and final.role == "assistant" and bool(final.content) and not final.tool_calls
    return Conversation(messages, tools, continue_final_message=is_unfinished)


def prompt_conversation(body: GenerateRequest) -> Conversation:
    """A prompt as the user's only message."""
    system = (Message("system", body.system),) if body.system else ()
    return Conversation((*system, Message("user", body.prompt)))


def check_prompt(body: GenerateRequest) -> None:
    """Refuse parts of a prompt that do not go together."""
    if body.raw and body.system:
        raise InvalidRequest("raw prompts are taken as they stand: write the system message into prompt.", param="raw")
    if body.raw and body.suffix:
        raise InvalidRequest("raw prompts are taken as they stand: write the suffix's mark into prompt.", param="raw")
    if body.suffix and body.system:
        raise InvalidRequest("With a suffix the text is filled in: there is no place for system.", param="system")


def _message(message: MessageBody, path: str, leaves_out: bool) -> Message:
    if message.images and not leaves_out:
        raise InvalidRequest(
            f"{path}.images is not supported: this model reads only text.",
            param=f"{path}.images",
            code="unsupported_media",
        )
    calls = tuple(
        ToolCall(
            call.id,
            call.function.name,
            past_arguments(call.function.arguments, f"{path}.tool_calls[{index}].function.arguments"),
        )
        for index, call in enumerate(message.tool_calls)
    )
    left_out = [unseen("image")] if message.images else []
    content = "\n".join(filter(None, (message.content, *left_out)))
    return Message(message.role, content, calls, message.tool_call_id)


def text_form(body: AnswerFields) -> TextForm | None:
    """The form that the answer's text must have; None for any."""
    wanted: Any = body.format
    if wanted is None or wanted == "":
        return None
    if wanted == "json":
        return TextForm("json_schema", ANY_OBJECT, "format")
    if isinstance(wanted, dict):
        return TextForm("json_schema", wanted, "format")
    raise InvalidRequest(f"format must be 'json' or a JSON schema, not {shorten(wanted)}.", param="format")


def sampling_of(
    options: Options, logprobs: int | None, defaults: GenerationDefaults, usual: int | None = None
) -> SamplingParams:
    """How to draw: what the options say, else what the model's own configuration says. `usual` is how long an answer
    may be of which they say nothing; None for any length."""
    wanted = usual if options.num_predict is None else options.num_predict
    unlimited = wanted is not None and wanted <= 0
    return sampling_params(
        defaults,
        max_tokens=None if unlimited else wanted,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        repetition_penalty=_NEUTRAL if options.repeat_last_n == 0 else options.repeat_penalty,
        presence_penalty=options.presence_penalty,
        frequency_penalty=options.frequency_penalty,
        seed=None if options.seed == _ANY_SEED else options.seed,
        logprobs=logprobs,
    )


def output_of(options: Options, stop_token_ids: tuple[int, ...] = ()) -> OutputOptions:
    """What becomes of the tokens. An empty stop string would match everywhere and is left out."""
    return OutputOptions(stops=tuple(stop for stop in options.stop if stop), stop_token_ids=stop_token_ids)


def means_unload(keep_alive: Any) -> bool:
    """Whether a model is to be kept for no time at all: 0, or a duration like `0s`."""
    if isinstance(keep_alive, str):
        return bool(keep_alive) and _NO_TIME.fullmatch(keep_alive) is not None
    return keep_alive == 0 and not isinstance(keep_alive, bool)
