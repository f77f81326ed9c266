"""What crosses the boundary between server and engine: frozen, torch-free values in token ids.

A `GenerationRequest` goes in, `TokenOutput`s come out. Text, HTTP and JSON are the server's; tensors are the runner's.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from engine.errors import RequestError

MAX_LOGIT_BIAS = 100.0
MAX_PATTERN_SIZE = 1024


class FinishReason(StrEnum):
    """Why a sequence ended."""

    STOP = "stop"  # an end-of-sequence or stop token was drawn
    LENGTH = "length"  # max_tokens, or the end of the context
    ABORT = "abort"  # the client went away, a time limit, or an operator
    ERROR = "error"  # this sequence failed; `TokenOutput.error` says how
    REPETITION = "repetition"  # it repeated itself, see `RepetitionDetection`


class ErrorReason(StrEnum):
    """What kind of failure ended a sequence, for those who count them."""

    NOT_FINITE = "nonfinite_logits"
    ALL_BARRED = "no_token_allowed"
    CONSTRAINT = "constraint"
    STEP = "step_failed"
    ENGINE = "engine_stopped"


@dataclass(frozen=True, slots=True)
class RepetitionDetection:
    """When an answer has repeated itself enough: its last tokens are one pattern, over and over.

    Attributes:
        max_pattern_size, min_pattern_size: how many tokens the pattern may have.
        min_count: how often it stands there, without a gap.
        min_repeated_tokens: how many tokens that are together, so that short patterns take more repetitions.
    """

    max_pattern_size: int
    min_pattern_size: int = 1
    min_count: int = 2
    min_repeated_tokens: int = 0

    def __post_init__(self) -> None:
        """Raise `RequestError` naming the member that is out of range."""
        self._check("max_pattern_size", self.max_pattern_size, 1, MAX_PATTERN_SIZE)
        self._check("min_pattern_size", self.min_pattern_size, 1, self.max_pattern_size)
        self._check("min_count", self.min_count, 2, math.inf)
        self._check("min_repeated_tokens", self.min_repeated_tokens, 0, math.inf)

    def _check(self, name: str, value: int, low: int, high: float) -> None:
        if not low <= value <= high:
            allowed = f"at least {low}" if high == math.inf else f"between {low} and {high}"
            raise _out_of_range(f"repetition_detection.{name}", value, allowed)

    def num_tokens(self, pattern_size: int) -> int:
        """How many tokens a pattern of this size has to fill, over and over."""
        return max(self.min_count * pattern_size, self.min_repeated_tokens)


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to draw the next token. Names and ranges follow the OpenAI API and its common extensions.

    Attributes:
        max_tokens: most tokens to generate; None means up to the end of the context, 0 that the prompt is only read.
        temperature: 0 is greedy.
        top_k: 0 keeps all.
        top_p, min_p: 1.0 and 0.0 keep all.
        presence_penalty, frequency_penalty: over generated tokens, subtracted from the logits.
        repetition_penalty: over prompt and generated tokens; divides positive logits, multiplies negative ones.
        logit_bias: added to the logits, by token id.
        seed: the same seed draws the same tokens in any company; None picks one for the request.
        logprobs: None for none; k for the drawn token's and the k most likely ones'.
        prompt_logprobs: the same for every token of the prompt but the first, given those before it.
        stop_token_ids: ids that end the sequence, besides the model's own end tokens.
        min_tokens: end and stop tokens are barred until this many tokens were generated.
        ignore_eos: the model's own end tokens do not end the sequence.
        allowed_token_ids: when given, every other token is barred.
        repetition_detection: when to end an answer that repeats itself, but not before `min_tokens`; None for never.
    """

    max_tokens: int | None = None
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    min_tokens: int = 0
    ignore_eos: bool = False
    allowed_token_ids: tuple[int, ...] | None = None
    repetition_detection: RepetitionDetection | None = None

    def __post_init__(self) -> None:
        """Raise `RequestError` naming the parameter that is out of range."""
        if self.max_tokens is not None and self.max_tokens < 0:
            raise _out_of_range("max_tokens", self.max_tokens, "0 or more")
        _check_range("temperature", self.temperature, 0.0, 100.0)
        if self.top_k < 0:
            raise _out_of_range("top_k", self.top_k, "0 (off) or more")
        if not 0.0 < self.top_p <= 1.0:
            raise _out_of_range("top_p", self.top_p, "above 0 and at most 1")
        _check_range("min_p", self.min_p, 0.0, 1.0)
        _check_range("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _check_range("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        if not 0.0 < self.repetition_penalty < math.inf:
            raise _out_of_range("repetition_penalty", self.repetition_penalty, "a finite number above 0")
        for bias in self.logit_bias.values():
            _check_range("logit_bias", bias, -MAX_LOGIT_BIAS, MAX_LOGIT_BIAS)
        if self.seed is not None and not -(2**63) <= self.seed < 2**64:
            raise _out_of_range("seed", self.seed, "a 64-bit integer")
        for param, num_top in (("logprobs", self.logprobs), ("prompt_logprobs", self.prompt_logprobs)):
            if num_top is not None and num_top < 0:
                raise _out_of_range(param, num_top, "0 or more")
        if self.min_tokens < 0:
            raise _out_of_range("min_tokens", self.min_tokens, "0 or more")
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise _out_of_range("min_tokens", self.min_tokens, f"at most max_tokens, {self.max_tokens}")
        if self.allowed_token_ids is not None and not self.allowed_token_ids:
            raise _out_of_range("allowed_token_ids", "empty", "at least one token id")


def _check_range(param: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # false for NaN too
        raise _out_of_range(param, value, f"between {low:g} and {high:g}")


def _out_of_range(param: str, value: object, allowed: str) -> RequestError:
    return RequestError(f"{param} is {value}, but must be {allowed}", param=param)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What tokens stand for: the bytes of each id, none for one not in use, and the ids that steer the model. `encode`
    gives the ids of a text as the model knows it; it may be called from any thread."""

    tokens: Sequence[bytes]
    special_ids: Sequence[int]
    encode: Callable[[str], Sequence[int]]


@dataclass(frozen=True, slots=True)
class Constraint:
    """What an answer may be, or parts of it.

    Attributes:
        grammar: in llguidance's form, over the bytes of the text.
        opening: None holds the answer from its first token to its end. Else a regular expression for the text so far,
            with a newline before its beginning: where it is found, the grammar holds from the beginning of its group
            `held` on until it is fulfilled. Text before and after is free.
        values: None draws as `SamplingParams` say. Else what is held is drawn greedily, but for values: a regular
            expression for the text up to where one begins, and the text that ends it.
    """

    grammar: str
    opening: str | None = None
    values: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One sequence to generate.

    `choice` tells the n choices of one HTTP request apart: with the same seed each draws its own tokens.
    `priority`: lower runs first, ties by arrival. Beside `sampling` and `constraint` the rest is for cache and order of
    service alone; no token depends on it.
    Attributes:
        boundaries: lengths of the prompt's prefixes that others may share with it: the end of each message.
        cache_salt: prompts with another one share nothing with this. What stands before its first slash is its owner.
        session: the client's name for the conversation, if it has one.
        constraint: what may be drawn, beyond what `sampling` says.
        interactive: somebody waits for it at the keyboard: it goes ahead of others, within bounds.
        owner: whose it is, where the engine bounds how much of one owner runs at once.
    """

    request_id: str
    prompt_ids: tuple[int, ...]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    choice: int = 0
    priority: int = 0
    boundaries: tuple[int, ...] = ()
    cache_salt: str = ""
    session: str | None = None
    constraint: Constraint | None = None
    interactive: bool = False
    owner: str = ""


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log-probabilities at one position, natural logarithm, over every row of lm_head, before any penalty.

    `top` holds the most likely ids first.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class RequestTimes:
    """Moments of one sequence's life in `time.monotonic()` seconds; None while it has not come to that."""

    arrival: float
    admitted: float | None = None
    first_token: float | None = None
    last_token: float | None = None


@dataclass(frozen=True, slots=True)
class PromptProgress:
    """How far the reading of a prompt is, in tokens; those from the cache count as read.

    `seconds` since it was admitted; 0 while it waits.
    """

    num_prompt_tokens: int
    num_cached_tokens: int
    num_read_tokens: int
    seconds: float


class MissReason(StrEnum):
    """Why more of a prompt was not at hand."""

    NONE = "none"  # all of it was
    NEW = "new"  # no earlier prompt begins like this
    DIFFERS = "differs"  # earlier prompts begin like this, and go on in another way
    GONE = "gone"  # more was read before, but its state is not kept any more
    SALT = "salt"  # its owner had a prompt like this read under another salt
    SCORED = "scored"  # its log-probabilities are wanted, for which all of it is read


class CacheTier(StrEnum):
    """Where a state was kept, nearest first: in the memory that steps compute in, in main memory beside a GPU's own, on
    disk."""

    MEMORY = "memory"
    HOST = "host"
    DISK = "disk"


@dataclass(frozen=True, slots=True)
class CacheReport:
    """What of a prompt was at hand.

    Attributes:
        num_cached_tokens: not computed, because the state after them was kept.
        num_known_tokens: in common with some earlier prompt or its answer.
        tier: where the state was; None without one.
        restore_seconds: what it took to bring it from a lower tier.
    """

    num_cached_tokens: int
    num_known_tokens: int
    miss: MissReason
    tier: CacheTier | None = None
    restore_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class TokenOutput:
    """What one step produced for one sequence. The last one carries a finish reason.

    A stop or end token is part of `token_ids` (it was generated and counts in usage); the server does not print it.
    Attributes:
        token_ids: the new tokens, in order; empty when the sequence ends without one (abort, error).
        logprobs: one entry a token when asked for, else empty.
        prompt_logprobs: of the prompt's tokens that this step scored, when asked for. Those of all outputs together are
            the second token's, the third's, and so on, each once.
        error: a sentence for the client when finish_reason is ERROR.
        error_reason: what kind of failure that was, if it is one that is told apart.
        cache: what of the prompt was at hand; None while the sequence waits.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    finish_reason: FinishReason | None = None
    error: str | None = None
    error_reason: ErrorReason | None = None
    cache: CacheReport | None = None
    num_preemptions: int = 0
    times: RequestTimes | None = None
