"""The seam between scheduler and runner: what to compute in one step, and what came of it.

Both sides are frozen, torch-free and picklable, so that a step can be printed, sent to another rank or replayed.
There is no prefill and no decode here: a sequence has tokens, some are computed, and a step computes some more.
"""

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from engine.types import ErrorReason, SamplingParams, TokenLogprobs


class StateAction(StrEnum):
    """What happens to a state slot before its sequence is computed."""

    CONTINUE = "continue"
    RESET = "reset"
    RESTORE = "restore"


@dataclass(frozen=True, slots=True)
class Restore:
    """Where a sequence goes on that starts from a checkpoint: a copy of its state, and of its last block if that is
    not full: from a block, to a block."""

    from_slot: int
    block: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A copy of the state after the first `num_tokens` of a step's tokens, to a slot."""

    num_tokens: int
    to_slot: int


@dataclass(frozen=True, slots=True)
class SampleSpec:
    """How to draw the token that follows a sequence's last computed one.

    Attributes:
        position: tokens generated so far; with seed and choice it keys the random number.
        seen_ids, seen_counts: the distinct tokens so far, in the order of their first appearance, and how often each
            was generated: 0 for one that only the prompt has. int64; empty unless a penalty looks at them.
        barred_token_ids: tokens that may not be drawn (end and stop tokens before min_tokens).
        constraint: number of the matcher that says which tokens may be drawn; None for all. See `engine.constraints`.
    """

    params: SamplingParams
    seed: int
    choice: int
    position: int
    seen_ids: "array[int]" = field(default_factory=lambda: array("q"))
    seen_counts: "array[int]" = field(default_factory=lambda: array("q"))
    barred_token_ids: tuple[int, ...] = ()
    constraint: int | None = None


@dataclass(frozen=True, slots=True)
class ScoreSpec:
    """Tokens of the prompt whose log-probabilities are wanted, each given all tokens before it.

    Attributes:
        offset: they follow the step's tokens from this one on; the last may not be among these.
        token_ids: the tokens.
        num_top: how many of the most likely ones are wanted beside each.
    """

    offset: int
    token_ids: tuple[int, ...]
    num_top: int


@dataclass(frozen=True, slots=True)
class ScheduledSequence:
    """The next `token_ids` of one sequence, which stand at positions `start`, `start + 1`, …

    `block_ids` is the block table up to the last of these positions. `sample` is None while the prompt goes on, or when
    nothing is to follow it; `score` is None unless some of the prompt is to be scored. Of all sequences first the
    states are reset or restored, then all is computed; `snapshots`, in order, are taken on the way.
    """

    seq_id: int
    start: int
    token_ids: tuple[int, ...]
    block_ids: tuple[int, ...]
    slot: int
    state: StateAction
    sample: SampleSpec | None
    score: ScoreSpec | None = None
    restore: Restore | None = None
    snapshots: tuple[Snapshot, ...] = ()


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step: all sequences in it are computed in one forward pass."""

    step: int
    sequences: tuple[ScheduledSequence, ...]

    @property
    def num_tokens(self) -> int:
        return sum(len(s.token_ids) for s in self.sequences)

    @property
    def num_continued(self) -> int:
        """How many sequences go on with their answer: for a next token somebody waits already."""
        return sum(1 for s in self.sequences if s.sample and s.sample.position)


@dataclass(frozen=True, slots=True)
class SequenceResult:
    """What was drawn and scored for one sequence; `error` and its kind instead when that is not to be had."""

    seq_id: int
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    error: str | None = None
    error_reason: ErrorReason | None = None


@dataclass(frozen=True, slots=True)
class StepResult:
    """Results of the sequences that are sampled or scored, in the plan's order, and the wall time of the step."""

    sequences: tuple[SequenceResult, ...]
    seconds: float


def nobody() -> None:
    """For when nobody wants to know."""


class Executor(Protocol):
    """Whatever can carry out a plan: the runner, or a model made of hashes in a test."""

    def execute(self, plan: StepPlan, on_begun: Callable[[], object] = nobody) -> StepResult:
        """Blocks; called from one worker thread, one plan at a time.

        `on_begun` is called when all is prepared and nothing is left but the computation, which needs the interpreter
        little: until then who waits for the step should leave it alone.
        """
        ...
