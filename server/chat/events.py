"""The dialect-neutral answer: a stream of events for each choice of a request.

`server.generation` makes them, a dialect encodes them. For every choice: any number of text and tool-call events,
then exactly one `ChoiceFinished` or one `GenerationFailed`.
"""

from dataclasses import dataclass
from typing import Literal

FinishedAs = Literal["stop", "length", "tool_calls", "abort", "repetition"]


@dataclass(frozen=True, slots=True)
class TokenText:
    """One token as clients show it in logprobs: its text, its bytes, its log-probability, the top ones."""

    text: str
    raw: bytes
    logprob: float
    top: tuple[tuple[str, bytes, float], ...] = ()


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More text of the answer. `logprobs` are of the tokens whose text begins in this delta, when asked for."""

    choice: int
    text: str
    logprobs: tuple[TokenText, ...] = ()
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCallStarted:
    """A call opened: its place among the choice's calls, our id for it, the function's name. Comes once a call."""

    choice: int
    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolCallArguments:
    """A fragment of a call's arguments; the fragments of one call joined are one JSON object.

    Where the model writes JSON itself and breaks it beyond mending, they are what it wrote.
    """

    choice: int
    index: int
    fragment: str


@dataclass(frozen=True, slots=True)
class ChoiceFinished:
    """The choice ended. Counts are tokens; `num_prompt_tokens` and `num_cached_tokens` are those of its prompt.

    `stop` is the stop string or stop token id that ended it, None for an end-of-sequence token or any other reason.
    """

    choice: int
    finished_as: FinishedAs
    num_prompt_tokens: int
    num_generated_tokens: int
    num_cached_tokens: int
    stop: str | int | None = None


@dataclass(frozen=True, slots=True)
class GenerationFailed:
    """The engine could not go on with this choice. `message` is a sentence for the client."""

    choice: int
    message: str


GenerationEvent = TextDelta | ToolCallStarted | ToolCallArguments | ChoiceFinished | GenerationFailed
