"""The requests of llama.cpp's own routes as they stand on the wire: names, types, ranges.

Whatever has many shapes (the prompt, logit_bias) is taken as it is and read in `translate`.
"""

from typing import Annotated, Any

from pydantic import Field

from server.parameters import MAX_CHOICES, AnyTemperature, Body, Many, Stops

_Penalty = Annotated[float, Field(ge=-2.0, le=2.0)]


class AnswerFields(Body):
    """What both kinds have in common. Negative limits and seeds mean none; `max_tokens` is another `n_predict`."""

    model: str = ""
    stream: bool = False
    n_predict: int | None = None
    n_cmpl: int = Field(1, ge=1, le=MAX_CHOICES)
    max_tokens: int | None = None
    temperature: AnyTemperature | None = None
    top_k: int | None = None
    top_p: float | None = Field(None, ge=0.0, le=1.0)
    min_p: float | None = Field(None, ge=0.0, le=1.0)
    seed: int | None = Field(None, ge=-(2**63), lt=2**64)
    repeat_penalty: float | None = Field(None, gt=0.0, allow_inf_nan=False)
    presence_penalty: _Penalty = 0.0
    frequency_penalty: _Penalty = 0.0
    logit_bias: Any = None
    stop: Stops = ()
    ignore_eos: bool = False
    grammar: Any = None
    json_schema: Any = None
    n_indent: int = Field(0, ge=0, le=1024)
    t_max_predict_ms: float | None = None
    return_tokens: bool = False
    return_progress: bool = False
    response_fields: Many[str] = Field((), max_length=256)


class CompletionRequest(AnswerFields):
    """POST /completion. The prompt is text, token ids, or a list of both that are one prompt."""

    prompt: Any = None


class ExtraFile(Body):
    """Another file, or a piece of one."""

    filename: str = "file"
    text: str = ""


class InfillRequest(AnswerFields):
    """POST /infill. `prompt` is what stands between the prefix and the gap: the line up to the cursor."""

    input_prefix: str = ""
    input_suffix: str = ""
    input_extra: Many[ExtraFile] = Field((), max_length=4096)
    prompt: str = ""
