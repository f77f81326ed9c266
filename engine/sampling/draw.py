"""What the sampling kernels take and give: how to draw from one row of logits, and what came of it. No torch."""

from array import array
from dataclasses import dataclass, field
from enum import StrEnum

from engine.types import ErrorReason, SamplingParams, TokenLogprobs

MIN_TEMPERATURE = 1e-5  # below, dividing by it overflows: the draw is greedy


@dataclass(frozen=True, slots=True)
class Draw:
    """How to draw one token.

    Attributes:
        uniform: the random number that decides, in [0, 1).
        seen_ids, seen_counts: int64; the sequence's distinct tokens and how often each was generated, for penalties.
        barred_token_ids: tokens that may not be drawn.
        mask: a bit for each token, the lowest first, that is set where it may be drawn; None for all. Tokens behind its
            end may not.
    """

    params: SamplingParams
    uniform: float
    seen_ids: "array[int]" = field(default_factory=lambda: array("q"))
    seen_counts: "array[int]" = field(default_factory=lambda: array("q"))
    barred_token_ids: tuple[int, ...] = ()
    mask: bytes | None = None

    @property
    def is_greedy(self) -> bool:
        return self.params.temperature < MIN_TEMPERATURE


@dataclass(frozen=True, slots=True)
class Drawn:
    """A token, with log-probabilities when they were asked for."""

    token_id: int
    logprobs: TokenLogprobs | None = None


class NoToken(StrEnum):
    """Why a row has no token, as a sentence."""

    NOT_FINITE = "the model produced logits that are not finite"
    ALL_BARRED = "no token is allowed: what the request allows leaves none to go on with"

    @property
    def reason(self) -> ErrorReason:
        return ErrorReason.NOT_FINITE if self is NoToken.NOT_FINITE else ErrorReason.ALL_BARRED
