"""Reading a request's parameters: those of the schema honoured, others refused by name or knowingly ignored.

Every dialect has a schema and a `ParameterTable` for the rest of what clients are known to send, with the reason that
the documentation and the error message give. A name in neither is a stranger: ignored, with one warning in the log.
Knows no dialect.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    ValidationError,
    model_validator,
)

from server.errors import InvalidRequest
from server.service import WarnOnce
from server.validation import first_problem

logger = logging.getLogger(__name__)

MAX_STOPS = 32
MAX_CHOICES = 128  # answers to one prompt
MAX_BIASES = 1024  # tokens of a `logit_bias`, which is looked at for each token of the answer
MAX_STOP_CHARACTERS = 256  # looking for a stop costs memory and time for each of its characters, for each choice


class Body(BaseModel):
    """An object of an API. null means absent everywhere; strangers among its members are passed over here."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        return {name: item for name, item in value.items() if item is not None} if isinstance(value, dict) else value


AnyBody = TypeVar("AnyBody", bound=Body)
Item = TypeVar("Item")


class _FailFast(FailFast):
    """As it is, but part of a union, which wants a hash."""

    __hash__ = object.__hash__


# A list. What is wrong with its first item says enough: pydantic would write a sentence on every one of a million.
Many = Annotated[tuple[Item, ...], _FailFast()]


def _one_or_many(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _short(value: str) -> str:
    """Not by `max_length`, which counts no lone surrogates: it refuses them."""
    if len(value) > MAX_STOP_CHARACTERS:
        raise ValueError(f"must be at most {MAX_STOP_CHARACTERS} characters long")
    return value


Stops = Annotated[
    tuple[Annotated[str, AfterValidator(_short)], ...], Field(max_length=MAX_STOPS), BeforeValidator(_one_or_many)
]


def at_most(most: int) -> BeforeValidator:
    """For an object: it has no more members than so many. Asked first, for each wrong one costs a sentence."""

    def check(value: Any) -> Any:
        if isinstance(value, dict) and len(value) > most:
            raise ValueError(f"must have at most {most} entries, not {len(value)}")
        return value

    return BeforeValidator(check)


# llama.cpp's and Ollama's: one below 0 is as 0, where the likeliest is taken.
AnyTemperature = Annotated[float, Field(le=100.0), AfterValidator(lambda value: max(value, 0.0))]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a parameter is refused. Its `neutral` values ask for nothing and pass."""

    reason: str
    neutral: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class ParameterTable:
    """What becomes of the parameters that a schema does not declare: the reasons, by name."""

    refused: Mapping[str, Refusal]
    ignored: Mapping[str, str]

    def refusal_of(self, name: str, value: Any) -> str | None:
        """Why a parameter with this value is refused; None when it is not."""
        refusal = self.refused.get(name)
        if refusal is None or any(value == neutral for neutral in refusal.neutral):
            return None
        return f"{name} is not supported: {refusal.reason}."

    def parse(self, schema: type[AnyBody], payload: Mapping[str, Any], warnings: WarnOnce, within: str = "") -> AnyBody:
        """The body as its schema, with refused parameters refused and strangers told of in the log.

        `within` is the path of an object inside the body, like `options.`, for error messages.
        Raises:
            InvalidRequest: names the first parameter that is wrong.
        """
        declared = {field.alias or name for name, field in schema.model_fields.items()} | set(schema.model_fields)
        for name, value in payload.items():
            if name in declared or value is None:
                continue
            reason = self.refusal_of(name, value)
            if reason is not None:
                raise InvalidRequest(within + reason, param=within + name, code="unsupported_parameter")
            if name not in self.ignored and name not in self.refused and warnings.first(f"parameter {name[:64]}"):
                logger.warning("the request parameter %r is not known here and is ignored", name[:64])
        try:
            return schema.model_validate(payload)
        except ValidationError as error:
            path, problem = first_problem(error)
            raise InvalidRequest(within + problem, param=(within + path) or None, code="invalid_value") from None
