"""`Sequence`: one answer in the making, owned by the scheduler alone."""

from bisect import bisect_right
from dataclasses import dataclass, field

from engine.cache.lower_tier import Load
from engine.cache.manager import Allocation
from engine.cache.prefix import Lineage
from engine.plan import SampleSpec, ScoreSpec
from engine.scheduler.repetition import RepetitionGuard
from engine.scheduler.seen_tokens import SeenTokens
from engine.types import CacheReport, ErrorReason, FinishReason, GenerationRequest, PromptProgress, RequestTimes

SPARSE_TOKENS = 4096  # between checkpoints inside a long message
NEAR_TOKENS = 32  # as much may be read again, rather than kept twice
GRACE_TOKENS = 256  # that who gave way computes, beyond what it lost, before it is asked again
NOTHING_SEEN = SeenTokens(()).snapshot()


def _seen_tokens(request: GenerationRequest) -> SeenTokens | None:
    """What the request's penalties look at: the prompt only if the one for repetition does; None without any."""
    params = request.sampling
    if params.repetition_penalty != 1.0:
        return SeenTokens(request.prompt_ids)
    return SeenTokens(()) if params.presence_penalty or params.frequency_penalty else None


def _checkpoint_positions(request: GenerationRequest) -> tuple[int, ...]:
    """Where the prompt's state is kept: at its boundaries, inside long stretches between them, and before its end.

    For the same prompt its last token is computed again, for what follows it: a state after it is for longer ones only.
    """
    last = len(request.prompt_ids) - 1
    positions = {p for p in request.boundaries if 0 < p <= last + 1}
    if last - max((p for p in positions if p <= last), default=-NEAR_TOKENS) > NEAR_TOKENS:
        positions.add(last)
    start = 0
    for end in sorted(positions):
        positions.update(range(start + SPARSE_TOKENS, end, SPARSE_TOKENS))
        start = end
    return tuple(sorted(positions - {0}))


@dataclass(slots=True, eq=False)
class Sequence:
    """Tokens known so far, of which the first `num_computed_tokens` are in the cache.

    It waits while `allocation` is None and runs while it has one. A sequence that was part of a failed step is suspect:
    it is computed alone until it has `suspect_until` tokens again, or fails. `abort_requested` is honoured by the step
    in flight's end. `end_token_ids` are the tokens that end it. `cache_report` says what of its prompt was at hand.
    `load` brings a state from a lower tier that it goes on from. `guard` sees whether it repeats itself. Of its prompt,
    `num_scored` tokens after the first have their log-probabilities. Since it was last admitted, it was passed
    `num_passes` times by others who took what it could have had. `gave_way_at` are the tokens it had computed when it
    was preempted, `settled_at` those after which that may happen again.
    """

    seq_id: int
    request: GenerationRequest
    seed: int
    arrival: float
    eos_token_ids: tuple[int, ...]
    block_size: int
    tokens: list[int] = field(init=False)
    seen: SeenTokens | None = field(init=False)
    guard: RepetitionGuard | None = field(init=False)
    end_token_ids: tuple[int, ...] = field(init=False)
    lineage: Lineage = field(init=False)
    checkpoint_positions: tuple[int, ...] = field(init=False)
    num_computed_tokens: int = 0
    num_scored: int = 0
    cache_report: CacheReport | None = None
    allocation: Allocation | None = None
    load: Load | None = None
    was_sought_below: bool = False
    finish_reason: FinishReason | None = None
    error: str | None = None
    error_reason: ErrorReason | None = None
    abort_requested: bool = False
    suspect_until: int = 0
    num_failures: int = 0
    num_preemptions: int = 0
    num_passes: int = 0
    gave_way_at: int = 0
    settled_at: int = 0
    admitted: float | None = None
    first_token: float | None = None
    last_token: float | None = None

    def __post_init__(self) -> None:
        self.tokens = list(self.request.prompt_ids)
        self.seen = _seen_tokens(self.request)
        self.lineage = Lineage(self.tokens, self.block_size, self.request.cache_salt, self.request.session)
        self.checkpoint_positions = _checkpoint_positions(self.request)
        self.was_sought_below = self.num_to_score > 0
        params = self.request.sampling
        detection = params.repetition_detection
        self.guard = RepetitionGuard(detection, params.min_tokens) if detection else None
        self.end_token_ids = (() if params.ignore_eos else self.eos_token_ids) + params.stop_token_ids

    def append(self, token_id: int) -> None:
        """Add a generated token."""
        self.tokens.append(token_id)
        if self.seen is not None:
            self.seen.add(token_id)
        if self.guard is not None:
            self.guard.add(token_id)

    @property
    def order(self) -> tuple[int, int]:
        """Sorting key: priority, then arrival."""
        return self.request.priority, self.seq_id

    @property
    def num_generated_tokens(self) -> int:
        return len(self.tokens) - len(self.request.prompt_ids)

    @property
    def num_cached_tokens(self) -> int:
        return self.cache_report.num_cached_tokens if self.cache_report else 0

    @property
    def num_uncomputed_tokens(self) -> int:
        return len(self.tokens) - self.num_computed_tokens

    @property
    def num_to_score(self) -> int:
        """Tokens of the prompt after which another one comes whose log-probability is wanted."""
        return 0 if self.request.sampling.prompt_logprobs is None else len(self.request.prompt_ids) - 1

    @property
    def num_reusable_tokens(self) -> int:
        """Tokens from the start that need not be computed where their state is kept: all that were scored, or all but
        the last."""
        return self.num_scored if self.num_scored < self.num_to_score else len(self.tokens) - 1

    @property
    def is_only_read(self) -> bool:
        """Whether nothing is drawn after the prompt."""
        return self.request.sampling.max_tokens == 0

    @property
    def is_read(self) -> bool:
        """Whether it is only read, and that is done."""
        return self.is_only_read and not self.num_uncomputed_tokens

    def positions_between(self, start: int, end: int) -> tuple[int, ...]:
        """Where a checkpoint is wanted after `start` and up to `end`."""
        positions = self.checkpoint_positions
        return positions[bisect_right(positions, start) : bisect_right(positions, end)]

    @property
    def is_recovering(self) -> bool:
        """Whether it gave way and has not made good for it since."""
        return self.num_computed_tokens < self.settled_at

    def starts_at(self, position: int) -> None:
        """It was admitted, with so many tokens from the cache."""
        self.num_computed_tokens = position
        self.num_passes = 0
        if self.gave_way_at:
            self.settled_at = 2 * self.gave_way_at - position + GRACE_TOKENS

    def gave_way(self) -> None:
        """It was preempted."""
        self.gave_way_at, self.num_computed_tokens = self.num_computed_tokens, 0
        self.num_preemptions += 1

    @property
    def suspect(self) -> bool:
        return self.num_computed_tokens < self.suspect_until

    @property
    def times(self) -> RequestTimes:
        return RequestTimes(self.arrival, self.admitted, self.first_token, self.last_token)

    def progress(self, now: float) -> PromptProgress:
        """How far the reading of its prompt is; one that generates is through, even if it has to be computed again."""
        num_prompt_tokens = len(self.request.prompt_ids)
        return PromptProgress(
            num_prompt_tokens,
            self.num_cached_tokens,
            num_prompt_tokens if self.num_generated_tokens else min(self.num_computed_tokens, num_prompt_tokens),
            0.0 if self.admitted is None else now - self.admitted,
        )

    def score_spec(self, start: int, end: int) -> ScoreSpec | None:
        """What to score when the tokens from `start` to `end` are computed: nothing a second time, though the sequence
        may have had to start over."""
        num_top, first, last = self.request.sampling.prompt_logprobs, self.num_scored, min(end, self.num_to_score)
        if num_top is None or first >= last:
            return None
        assert start <= first
        return ScoreSpec(first - start, tuple(self.tokens[first + 1 : last + 1]), num_top)

    def sample_spec(self) -> SampleSpec:
        """How to draw this sequence's next token."""
        params = self.request.sampling
        position = self.num_generated_tokens
        seen_ids, seen_counts = self.seen.snapshot() if self.seen is not None else NOTHING_SEEN
        return SampleSpec(
            params=params,
            seed=self.seed,
            choice=self.request.choice,
            position=position,
            seen_ids=seen_ids,
            seen_counts=seen_counts,
            barred_token_ids=self.end_token_ids if position < params.min_tokens else (),
            constraint=None if self.request.constraint is None else self.seq_id,
        )

    def finish_if_done(self, max_model_len: int) -> None:
        """Set the finish reason when the last token ended the sequence."""
        if self.tokens[-1] in self.end_token_ids:
            self.finish_reason = FinishReason.STOP
        elif self.num_generated_tokens == self.request.sampling.max_tokens or len(self.tokens) == max_model_len:
            self.finish_reason = FinishReason.LENGTH
        elif self.guard is not None and self.guard.found:
            self.finish_reason = FinishReason.REPETITION
