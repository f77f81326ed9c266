"""From a request of the dialect to how it is answered: form, sampling, stops.

Knows the schema and what the server works with; no HTTP.
"""

from engine.types import SamplingParams
from server.chat.answer_form import ANY_OBJECT, TextForm
from server.chat.model_files import GenerationDefaults
from server.choice import OutputOptions
from server.dialects.responses.schema import PromptFields, ResponseRequest
from server.errors import InvalidRequest
from server.sampling import sampling_params

PLAIN = {"type": "text"}
_LOGPROBS = "message.output_text.logprobs"


def text_form(body: PromptFields) -> TextForm | None:
    """The form that the answer's text must have; None for any.

    Raises:
        InvalidRequest: a form that is not known.
    """
    wanted = (body.text.format if body.text else None) or PLAIN
    kind = wanted.get("type", "text")
    if kind == "text":
        return None
    if kind == "json_object":
        return TextForm("json_schema", ANY_OBJECT, "text.format")
    if kind != "json_schema":
        raise InvalidRequest(
            "text.format.type must be 'text', 'json_object' or 'json_schema'.",
            param="text.format.type",
            code="unsupported_parameter",
        )
    if wanted.get("schema") is None:
        raise InvalidRequest("text.format.schema is required.", param="text.format.schema")
    return TextForm("json_schema", wanted["schema"], "text.format.schema")


def tells_logprobs(body: ResponseRequest) -> bool:
    """Whether the answer says how likely its tokens were."""
    return _LOGPROBS in body.include or body.top_logprobs > 0


def sampling_of(body: ResponseRequest, defaults: GenerationDefaults) -> SamplingParams:
    """How to draw. Raises `RequestError`: a value out of range, by its name."""
    return sampling_params(
        defaults,
        max_tokens=body.max_output_tokens,
        temperature=body.temperature,
        top_k=body.top_k,
        top_p=body.top_p,
        min_p=body.min_p,
        seed=body.seed,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        repetition_penalty=body.repetition_penalty,
        logprobs=body.top_logprobs if tells_logprobs(body) else None,
    )


def output_of(body: ResponseRequest) -> OutputOptions:
    """What becomes of the tokens."""
    return OutputOptions(stops=tuple(stop for stop in body.stop if stop))
