"""`HashModel`: an executor whose next token is a hash of everything a real model could see.

What it sees of a sequence is the KV entries reached through the block table and the rolling state in the slot, and
nothing else. Blocks and slots start as garbage and keep what was last written there, so a wrong block, a stale state, a
missing reset or a token computed twice draws other tokens than `expected_tokens`, which runs a request alone, and
gives the prompt's tokens other scores than `expected_scores`.
"""

import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from engine.errors import ExecutorError
from engine.plan import SampleSpec, ScheduledSequence, SequenceResult, StateAction, StepPlan, StepResult, nobody
from engine.types import ErrorReason, FinishReason, SamplingParams, TokenLogprobs
from tests.support.repetition import ends_in_repetition

VOCAB_SIZE = 64
EOS_TOKEN_IDS = (0,)
INITIAL_STATE = 1_000_003

Hook = Callable[[StepPlan], None]


def absorb(state: int, token_id: int, position: int, read: Callable[[int], int]) -> tuple[int, int]:
    """State and KV entry after one token. It attends to the entry before it and to another earlier one."""
    seen = (read(position - 1), read(hash((state, token_id)) % position)) if position else ()
    state = hash((state, token_id, position, seen))
    return state, hash((state, token_id, 7))


def draw(state: int, entries: Sequence[int], spec: SampleSpec, vocab_size: int) -> int:
    """The token that a hash of all of this picks among those that are not barred."""
    params = spec.params
    key = (spec.seed, spec.choice, spec.position) if params.temperature else ()
    digest = hash((state, tuple(entries), key, tuple(spec.seen_ids), tuple(spec.seen_counts)))
    if not spec.barred_token_ids and params.allowed_token_ids is None:
        return digest % vocab_size
    allowed = set(range(vocab_size) if params.allowed_token_ids is None else params.allowed_token_ids)
    candidates = sorted(allowed - set(spec.barred_token_ids))
    return candidates[digest % len(candidates)]


def appraise(state: int, entries: Sequence[int], token_id: int, num_top: int, vocab_size: int) -> TokenLogprobs:
    """How likely a token is after all of this, which a hash says."""
    digest = hash((state, tuple(entries)))
    top = tuple((hash((digest, rank)) % vocab_size, -float(rank)) for rank in range(num_top))
    return TokenLogprobs(token_id, -float(hash((digest, token_id)) % 10_007), top)


def expected_scores(
    prompt_ids: Sequence[int], params: SamplingParams, vocab_size: int = VOCAB_SIZE
) -> tuple[TokenLogprobs, ...]:
    """The scores of a prompt that is alone in the world."""
    if params.prompt_logprobs is None:
        return ()
    scores, entries, state = [], list[int](), INITIAL_STATE
    for position, token_id in enumerate(prompt_ids):
        if position:
            scores.append(appraise(state, entries, token_id, params.prompt_logprobs, vocab_size))
        state, entry = absorb(state, token_id, position, entries.__getitem__)
        entries.append(entry)
    return tuple(scores)


def expected_tokens(
    prompt_ids: Sequence[int],
    params: SamplingParams,
    *,
    seed: int,
    max_model_len: int,
    choice: int = 0,
    vocab_size: int = VOCAB_SIZE,
    eos_token_ids: tuple[int, ...] = EOS_TOKEN_IDS,
) -> tuple[tuple[int, ...], FinishReason]:
    """What a request generates when it is alone in the world, and why it ends."""
    tokens, entries, state = list(prompt_ids), list[int](), INITIAL_STATE
    ends = {*params.stop_token_ids, *(() if params.ignore_eos else eos_token_ids)}
    if params.max_tokens == 0:
        return (), FinishReason.LENGTH
    while True:
        for position in range(len(entries), len(tokens)):
            state, entry = absorb(state, tokens[position], position, entries.__getitem__)
            entries.append(entry)
        generated = len(tokens) - len(prompt_ids)
        seen = _seen(prompt_ids, tokens[len(prompt_ids) :], params)
        spec = SampleSpec(
            params=params,
            seed=seed % 2**64,
            choice=choice,
            position=generated,
            seen_ids=array("q", seen),
            seen_counts=array("q", seen.values()),
            barred_token_ids=tuple(ends) if generated < params.min_tokens else (),
        )
        tokens.append(draw(state, entries, spec, vocab_size))
        if tokens[-1] in ends:
            return tuple(tokens[len(prompt_ids) :]), FinishReason.STOP
        if generated + 1 == params.max_tokens or len(tokens) == max_model_len:
            return tuple(tokens[len(prompt_ids) :]), FinishReason.LENGTH
        detection = params.repetition_detection
        is_watched = detection is not None and generated + 1 >= params.min_tokens
        if is_watched and ends_in_repetition(tokens[len(prompt_ids) :], detection):
            return tuple(tokens[len(prompt_ids) :]), FinishReason.REPETITION


def _seen(prompt_ids: Sequence[int], generated: Sequence[int], params: SamplingParams) -> dict[int, int]:
    """The tokens that the penalties of a request look at, with how often each was generated."""
    if params.repetition_penalty != 1.0:
        return {token_id: generated.count(token_id) for token_id in [*prompt_ids, *generated]}
    if params.presence_penalty or params.frequency_penalty:
        return {token_id: generated.count(token_id) for token_id in generated}
    return {}


def no_hook(plan: StepPlan) -> None:
    """Do nothing before a step."""


def fail_on_steps(*calls: int) -> Hook:
    """A hook that makes the given calls of `execute` fail, counted from 1."""
    count = 0

    def hook(plan: StepPlan) -> None:
        nonlocal count
        count += 1
        if count in calls:
            raise ExecutorError(f"call {count} was told to fail")

    return hook


def fail_on_token(token_id: int) -> Hook:
    """A hook that makes every step fail that computes this token."""

    def hook(plan: StepPlan) -> None:
        if any(token_id in s.token_ids for s in plan.sequences):
            raise ExecutorError(f"token {token_id} was told to fail")

    return hook


def sleep_seconds(seconds: float) -> Hook:
    """A hook that makes every step last."""
    return lambda plan: time.sleep(seconds)


@dataclass
class HashModel:
    """An `Executor` over blocks and slots of integers.

    Attributes:
        before_step: called with each plan first; what it raises, the step raises, and leaves garbage behind.
        sequence_error: a sentence when the result of this sequence should be an error instead of a token.
        error_reason: the kind of these errors.
        step_seconds: the wall time that a step claims to have taken.
        num_tokens: tokens computed so far, in steps that succeeded.
    """

    num_blocks: int
    block_size: int
    num_slots: int
    num_checkpoints: int = 0
    vocab_size: int = VOCAB_SIZE
    before_step: Hook = no_hook
    sequence_error: Callable[[ScheduledSequence], str | None] = lambda scheduled: None
    error_reason: ErrorReason = ErrorReason.CONSTRAINT
    step_seconds: Callable[[StepPlan], float] = lambda plan: 1e-3
    num_tokens: int = 0
    plans: list[StepPlan] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._garbage = 0
        self._blocks = [[self._rubbish() for _ in range(self.block_size)] for _ in range(self.num_blocks)]
        self._states = [self._rubbish() for _ in range(self.num_slots + self.num_checkpoints)]

    def copy_of_state(self, slot: int) -> int:
        """What a slot holds."""
        return self._states[slot]

    def copy_of_block(self, block_id: int, num_tokens: int | None = None) -> list[int]:
        """What a block holds of its first tokens."""
        return self._blocks[block_id][:num_tokens]

    def put(self, slot: int, state: int, blocks: dict[int, list[int]]) -> None:
        """Fill a slot and the beginnings of blocks, as one who brings a state from elsewhere."""
        self._states[slot] = state
        for block_id, entries in blocks.items():
            self._blocks[block_id][: len(entries)] = entries

    def execute(self, plan: StepPlan, on_begun: Callable[[], object] = nobody) -> StepResult:
        """Carry out a plan."""
        on_begun()
        self.plans.append(plan)
        try:
            self.before_step(plan)
        except Exception:
            self._spoil(plan)
            raise
        results = []
        for scheduled in plan.sequences:
            self._begin(scheduled)
        for scheduled in plan.sequences:
            scores = self._compute(scheduled)
            if scheduled.sample is not None or scheduled.score is not None:
                results.append(self._answer(scheduled, scores))
        self.num_tokens += plan.num_tokens
        return StepResult(tuple(results), self.step_seconds(plan))

    def _begin(self, scheduled: ScheduledSequence) -> None:
        assert (scheduled.restore is not None) == (scheduled.state is StateAction.RESTORE)
        if scheduled.state is StateAction.RESET:
            self._states[scheduled.slot] = INITIAL_STATE
        if scheduled.restore is not None:
            self._states[scheduled.slot] = self._states[scheduled.restore.from_slot]
            if scheduled.restore.block is not None:
                source, target = scheduled.restore.block
                self._blocks[target] = list(self._blocks[source])

    def _compute(self, scheduled: ScheduledSequence) -> tuple[TokenLogprobs, ...]:
        """The scores that are wanted on the way."""
        state, scores = self._states[scheduled.slot], []
        snapshots = {s.num_tokens: s.to_slot for s in scheduled.snapshots}
        assert all(0 < num_tokens <= len(scheduled.token_ids) for num_tokens in snapshots)

        def read(position: int) -> int:
            block, offset = divmod(position, self.block_size)
            return self._blocks[scheduled.block_ids[block]][offset]

        for position, token_id in enumerate(scheduled.token_ids, scheduled.start):
            state, entry = absorb(state, token_id, position, read)
            block, offset = divmod(position, self.block_size)
            self._blocks[scheduled.block_ids[block]][offset] = entry
            if position + 1 - scheduled.start in snapshots:
                self._states[snapshots[position + 1 - scheduled.start]] = state
            spec = scheduled.score
            if spec is not None and 0 <= (number := position - scheduled.start - spec.offset) < len(spec.token_ids):
                entries = [read(earlier) for earlier in range(position + 1)]
                scores.append(appraise(state, entries, spec.token_ids[number], spec.num_top, self.vocab_size))
        self._states[scheduled.slot] = state
        return tuple(scores)

    def _answer(self, scheduled: ScheduledSequence, scores: tuple[TokenLogprobs, ...]) -> SequenceResult:
        error, spec = self.sequence_error(scheduled), scheduled.sample
        if error is not None:
            return SequenceResult(scheduled.seq_id, (), error=error, error_reason=self.error_reason)
        if spec is None:
            return SequenceResult(scheduled.seq_id, (), prompt_logprobs=scores)
        entries = [entry for block_id in scheduled.block_ids for entry in self._blocks[block_id]]
        end = scheduled.start + len(scheduled.token_ids)
        token_id = draw(self._states[scheduled.slot], entries[:end], spec, self.vocab_size)
        logprobs = () if spec.params.logprobs is None else (TokenLogprobs(token_id, -1.0),)
        return SequenceResult(scheduled.seq_id, (token_id,), logprobs, scores)

    def _spoil(self, plan: StepPlan) -> None:
        """A step that failed half-way: nothing it touched can be trusted."""
        for scheduled in plan.sequences:
            for slot in (scheduled.slot, *(s.to_slot for s in scheduled.snapshots)):
                self._states[slot] = self._rubbish()
            for position in range(scheduled.start, len(scheduled.block_ids) * self.block_size):
                block, offset = divmod(position, self.block_size)
                self._blocks[scheduled.block_ids[block]][offset] = self._rubbish()

    def _rubbish(self) -> int:
        self._garbage += 1
        return hash((self._garbage, 11))
