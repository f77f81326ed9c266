"""What the answers of llama.cpp's routes look like, for the OpenAPI document."""

from typing import Any, Literal

from pydantic import BaseModel, RootModel


class Answer(BaseModel):
    """The answer to POST /completion and /infill."""

    content: str
    tokens: list[int]
    stop: Literal[True]
    model: str
    tokens_predicted: int
    tokens_evaluated: int
    tokens_cached: int
    generation_settings: dict[str, Any]
    stop_type: Literal["eos", "limit", "word"]
    stopping_word: str
    truncated: bool
    timings: dict[str, float]


class Completion(RootModel[Answer | dict[str, Any] | list[Answer | dict[str, Any]]]):
    """All of it, or the members that `response_fields` name; of several answers a list."""


class Props(BaseModel):
    """The answer to GET /props."""

    default_generation_settings: dict[str, Any]
    total_slots: int
    model_alias: str
    chat_template: str
    modalities: dict[str, bool]
    build_info: str


class Slot(BaseModel):
    """One place for a running sequence."""

    id: int
    n_ctx: int
    is_processing: bool


class Slots(RootModel[list[Slot]]):
    """The answer to GET /slots."""
