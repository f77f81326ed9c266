"""Two tools as pydantic models, one of them with rules enough that no small model keeps them by itself."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

QUESTION: Any = {"role": "user", "content": "What is the weather in Rome?"}
NEVER_CUT_OFF = 1000


class Closed(BaseModel):
    """Nothing but what is declared: with other members allowed, a weak model adds some for ever."""

    model_config = ConfigDict(extra="forbid")


class Address(Closed):
    street: str = Field(pattern="^[A-Z][a-z]{2,12}$")
    number: int = Field(ge=1, le=99)


class Order(Closed):
    """Places an order."""

    item: Literal["book", "pen", "desk lamp"]
    quantity: int = Field(ge=1, le=12)
    gift: bool
    discount: Literal["5", "10"] | None
    tags: list[Literal["new", "used"]] = Field(max_length=3)
    address: Address


class Weather(Closed):
    """Returns the weather."""

    city: str


def named(name: str) -> Any:
    """A `tool_choice` that names a function."""
    return {"type": "function", "function": {"name": name}}
