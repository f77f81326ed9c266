"""The scheduler: turns waiting and running sequences into step plans, and step results back into tokens.

It alone changes sequences and, through the cache manager, blocks and slots. It is called between steps only, so a
sequence in the plan in flight is never touched: an abort marks it and `apply` or `fail` releases it.
"""

import math
import time
from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain
from operator import attrgetter

from engine.cache.explanation import Explainer
from engine.cache.lower_tier import LowerTier
from engine.cache.manager import CacheManager
from engine.constraints.constraints import Constraints
from engine.errors import InvariantViolation
from engine.plan import Restore, ScheduledSequence, SequenceResult, Snapshot, StateAction, StepPlan, StepResult
from engine.scheduler.budget import Pace, StepBudget, StepRoom
from engine.scheduler.sequence import SPARSE_TOKENS, Sequence
from engine.scheduler.turns import Turns
from engine.types import CacheTier, ErrorReason, FinishReason, GenerationRequest, MissReason, TokenLogprobs

MAX_FAILURES = 3
MOST_LOST_TOKENS = 2 * SPARSE_TOKENS  # that a sequence computes again for an interactive one's sake
LATELY_SECONDS = 60.0  # as long after an interactive request steps stay short: people type, pause, and type on

_in_order = attrgetter("order")


@dataclass(frozen=True, slots=True)
class SequenceUpdate:
    """What a step meant for one sequence; `sequence.finish_reason` says whether it was its last."""

    sequence: Sequence
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()


class Scheduler:
    """First come, first served within a priority, but for interactive sequences (see `Turns`); running sequences before
    waiting ones; decoding before prompts.

    When a running sequence needs a block and none is free, the one that ranks last is preempted: it gives
    everything back and is computed again later, with the same outcome.
    """

    def __init__(
        self,
        cache: CacheManager,
        budget: StepBudget,
        max_model_len: int,
        clock: Callable[[], float] = time.monotonic,
        lower: tuple[LowerTier, ...] = (),
        constraints: Constraints | None = None,
        turns: Turns | None = None,
    ) -> None:
        self.cache = cache
        self.lower = lower
        self.running: list[Sequence] = []
        self.waiting: list[Sequence] = []
        self.num_preemptions = 0
        self._budget = budget
        self._explainer = Explainer()
        self._constraints = constraints
        self._turns = turns or Turns(num_slots=1)
        self._last_interactive = -math.inf
        self._pace = Pace.IDLE
        self._max_model_len = max_model_len
        self._clock = clock
        self._step = 0
        self._in_flight: dict[int, Sequence] = {}

    @property
    def has_work(self) -> bool:
        return bool(self.running or self.waiting)

    @property
    def num_held_back(self) -> int:
        """Those who wait only because enough of their owner's run."""
        held = self._turns.held_back(self.running)
        return sum(s.request.owner in held for s in self.waiting)

    def waiting_before(self, request: GenerationRequest) -> list[Sequence]:
        """Those for whom a request that comes now has to wait.

        Who arrives between two steps passes through the line even when slots are free: only the others wait. Whose
        owner has enough running is passed by all but its own, and who is not interactive by those who are.
        """
        held = self._turns.held_back(self.running)
        if request.owner in held:
            line = [s for s in self.waiting if s.request.owner == request.owner]
        else:
            line = [s for s in self.waiting if s.request.owner not in held][self.cache.num_slots_free :]
        return [s for s in line if s.request.interactive] if request.interactive else line

    def add(self, sequence: Sequence) -> None:
        insort(self.waiting, sequence, key=_in_order)
        if sequence.request.interactive:
            self._last_interactive = self._clock()

    def abort(self, sequence: Sequence) -> bool:
        """End a sequence. True when that happened at once; False when the step in flight has to end first."""
        if sequence.seq_id in self._in_flight:
            sequence.abort_requested = True
            return False
        self._finish(sequence, FinishReason.ABORT)
        return True

    # --- planning -------------------------------------------------------------------------------------------------

    def schedule(self) -> StepPlan | None:
        """The next step, or None when nothing can be computed."""
        chosen = self._lone_suspect() or self._fill()
        if not chosen:
            return None
        self._step += 1
        self._in_flight = {s.seq_id: s for s, _ in chosen}
        return StepPlan(self._step, tuple(self._scheduled(s, n) for s, n in chosen))

    def _fill(self) -> list[tuple[Sequence, int]]:
        """Sequences with the number of tokens each computes: decoding ones, then prompts, then new arrivals. Of prompts
        and arrivals those that are interactive come first, and leave some of the step to the others."""
        decoding: list[Sequence] = []
        reading: list[Sequence] = []
        for sequence in self.running:
            (decoding if sequence.num_uncomputed_tokens == 1 else reading).append(sequence)
        # One that is preempted to make room for another has no allocation any more.
        chosen = [(s, 1) for s in decoding if s.allocation is not None and self._make_room(s)]
        ahead = self._turns.ahead(self.waiting, self.running)
        hasty = [s for s in reading if s.request.interactive]
        others = [s for s in reading if not s.request.interactive]
        has_slot = self.cache.has_slot()
        room = self._room(len(chosen), is_shared=bool(others) or (has_slot and len(ahead) < len(self.waiting)))
        chosen += self._read(hasty, room, goes_ahead=True)
        stuck = self._admit_all(ahead, chosen, room, goes_ahead=True)
        line = [s for s in self.waiting if s not in ahead and (stuck is None or s.order < stuck.order)]
        num_ahead = sum(s.allocation is not None for s in ahead)
        chosen = [(s, n) for s, n in chosen if s.allocation is not None]
        chosen += self._read(others, room)
        stuck = self._admit_all(line, chosen, room)
        if stuck is not None and has_slot:
            stuck.num_passes += num_ahead
        if room.is_short:
            self._pace = Pace.BESIDE
        return chosen or self._lone_suspect()

    def _room(self, num_decoding: int, is_shared: bool) -> StepRoom:
        """Shorter than usual where an interactive sequence came lately: the next one has to wait for the step's end."""
        is_lately = self._clock() - self._last_interactive < LATELY_SECONDS
        self._pace = Pace.BRISK if is_lately else Pace.IDLE
        most = self._budget.chunk_tokens(num_decoding, self._pace)
        return StepRoom(most, self._budget.chunk_tokens(num_decoding, Pace.BESIDE), is_shared)

    def _read(self, sequences: list[Sequence], room: StepRoom, goes_ahead: bool = False) -> list[tuple[Sequence, int]]:
        """How much of their prompts the step computes."""
        running = [s for s in sequences if s.allocation is not None]
        taken = [(s, room.take(s.num_uncomputed_tokens, goes_ahead)) for s in running]
        return [(s, num_tokens) for s, num_tokens in taken if num_tokens > 0]

    def _admit_all(
        self, line: list[Sequence], chosen: list[tuple[Sequence, int]], room: StepRoom, goes_ahead: bool = False
    ) -> Sequence | None:
        """Admit those of a line whose turn has come; returns the one for which there is no memory, if there is one."""
        held = self._turns.held_back(self.running)
        for sequence in line:
            if room.left(goes_ahead) <= 0 or len(self.running) >= self._budget.max_tokens:
                return None
            if sequence.request.owner in held:
                continue
            if not self.cache.has_slot(self._turns.num_extra(sequence, self.running)):
                return sequence
            if self._is_being_computed(sequence) or self._is_being_loaded(sequence):
                continue
            if not (self._admit(sequence) or (goes_ahead and self._displace_for(sequence) and self._admit(sequence))):
                return sequence
            self.waiting.remove(sequence)
            insort(self.running, sequence, key=_in_order)
            if sequence.suspect:
                return None  # it runs alone, in the next step
            chosen += self._read([sequence], room, goes_ahead)
            held = self._turns.held_back(self.running)
        return None

    def _displace_for(self, sequence: Sequence) -> bool:
        """Have one that ranks behind give up its blocks, if that is enough, and not much has to be computed again."""
        last = self._turns.gives_way(self.running) if self.running else None
        if last is None or last.allocation is None or last.request.interactive or last.is_recovering:
            return False
        num_blocks = self.cache.num_blocks_for(len(sequence.tokens)) + len(self.running)
        num_lost = self.cache.num_lost_tokens(last.lineage, last.num_computed_tokens, num_blocks)
        if num_blocks > self.cache.num_blocks_after(last.allocation) or num_lost > MOST_LOST_TOKENS:
            return False
        self._preempt(last)
        return True

    def _lone_suspect(self) -> list[tuple[Sequence, int]]:
        suspect, self._pace = next((s for s in self.running if s.suspect), None), Pace.IDLE
        return [(suspect, min(suspect.num_uncomputed_tokens, self._budget.chunk_tokens(0)))] if suspect else []

    def _admit(self, sequence: Sequence) -> bool:
        # One spare block for each running sequence keeps admission from causing preemption in the next steps.
        num_extra = self._turns.num_extra(sequence, self.running)
        most = sequence.num_reusable_tokens
        sequence.allocation = self.cache.admit(sequence.lineage, len(self.running), most, num_extra)
        if sequence.allocation is None:
            return False
        hit = sequence.allocation.hit
        sequence.starts_at(hit.position if hit else 0)
        if sequence.admitted is None:
            sequence.admitted = self._clock()
            positions = sequence.checkpoint_positions
            report = self._explainer.report(sequence.lineage, sequence.num_computed_tokens, positions)
            load = sequence.load
            if hit is not None and load is not None and load.arrival.checkpoint is hit:
                report = replace(report, tier=load.tier, restore_seconds=load.seconds)
            elif hit is not None:
                report = replace(report, tier=CacheTier.MEMORY)
            elif sequence.num_to_score:
                report = replace(report, miss=MissReason.SCORED)
            sequence.cache_report = report
        return True

    def _is_being_computed(self, sequence: Sequence) -> bool:
        """Whether a running sequence is about to leave a checkpoint that this one could start from: then it waits."""
        if not self.cache.num_checkpoints:
            return False
        last = sequence.num_reusable_tokens
        coming = 0
        for other in self.running:
            if other.suspect or other.num_computed_tokens >= len(other.request.prompt_ids):
                continue
            common = sequence.lineage.num_common_tokens(other.lineage)
            coming = max(coming, *other.positions_between(other.num_computed_tokens, min(common, last)), 0)
        if not coming:
            return False
        hit = self.cache.match(sequence.lineage, last)
        return hit is None or hit.position < coming

    def _is_being_loaded(self, sequence: Sequence) -> bool:
        """Whether a state that it could start from is on its way from a lower tier: of the longest, the nearest.

        That is done once: what memory loses again before the sequence runs is computed.
        """
        if not sequence.was_sought_below:
            found = [(filed, tier) for tier in self.lower if (filed := tier.find(sequence.lineage))]
            if found:
                filed, tier = max(found, key=lambda pair: pair[0].position)
                sequence.load = tier.load(filed, sequence.lineage)
            sequence.was_sought_below = not found or sequence.load is not None
        return sequence.load is not None and sequence.load.under_way

    def _make_room(self, sequence: Sequence) -> bool:
        """Blocks for all known tokens, preempting from the end of the line; False when it was itself preempted."""
        assert sequence.allocation is not None
        while not self.cache.grow(sequence.allocation, len(sequence.tokens)):
            victim = self._turns.gives_way(self.running)
            self._preempt(victim)
            if victim is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence, keep: bool = True) -> None:
        self.running.remove(sequence)
        self._release(sequence, keep)
        sequence.gave_way()
        self.num_preemptions += 1
        insort(self.waiting, sequence, key=_in_order)

    def _scheduled(self, sequence: Sequence, num_tokens: int) -> ScheduledSequence:
        allocation = sequence.allocation
        assert allocation is not None
        start = sequence.num_computed_tokens
        end = start + num_tokens
        state, restore, hit = StateAction.CONTINUE if start else StateAction.RESET, None, allocation.hit
        if hit is not None:
            state, copied = StateAction.RESTORE, hit.position // self.cache.block_size
            is_partial = hit.position % self.cache.block_size > 0
            block = (hit.block_ids[copied], allocation.block_ids[copied]) if is_partial else None
            restore = Restore(hit.slot, block)
        snapshots = []
        for position in sequence.positions_between(start, end):
            slot = self.cache.reserve(allocation, sequence.lineage, position)
            if slot is not None:
                snapshots.append(Snapshot(position - start, slot))
        is_sampled = end == len(sequence.tokens) and not sequence.is_only_read
        if is_sampled and self._constraints is not None and sequence.request.constraint is not None:
            self._constraints.begin_mask(sequence.seq_id, sequence.tokens, len(sequence.request.prompt_ids))
        return ScheduledSequence(
            seq_id=sequence.seq_id,
            start=start,
            token_ids=tuple(sequence.tokens[start:end]),
            block_ids=tuple(allocation.block_ids[: self.cache.num_blocks_for(end)]),
            slot=allocation.slot,
            state=state,
            sample=sequence.sample_spec() if is_sampled else None,
            score=sequence.score_spec(start, end),
            restore=restore,
            snapshots=tuple(snapshots),
        )

    # --- results --------------------------------------------------------------------------------------------------

    def apply(self, plan: StepPlan, result: StepResult) -> list[SequenceUpdate]:
        """Enter the results of a plan; returns the sequences that have news for their clients."""
        in_flight, self._in_flight = self._in_flight, {}
        _check_result(plan, result)
        failed = {r.seq_id for r in result.sequences if r.error is not None}
        num_prompt_tokens = num_decoding = 0
        for scheduled in plan.sequences:
            num_tokens = len(scheduled.token_ids)
            if num_tokens > 1:
                num_prompt_tokens += num_tokens
            else:
                num_decoding += 1
            sequence = in_flight[scheduled.seq_id]
            sequence.num_computed_tokens += num_tokens
            assert sequence.allocation is not None
            self.cache.restored(sequence.allocation)
            if scheduled.seq_id not in failed:
                self.cache.commit(sequence.allocation, sequence.lineage)
            if sequence.suspect_until and not sequence.suspect:
                sequence.suspect_until = 0
        self._budget.observe(num_prompt_tokens, num_decoding, result.seconds, self._pace)
        updates = [self._advance(in_flight[r.seq_id], r) for r in result.sequences]
        for sequence in in_flight.values():
            if sequence.is_read and sequence.finish_reason is None:
                updates.append(self._advance(sequence, SequenceResult(sequence.seq_id, ())))
            if sequence.abort_requested and sequence.finish_reason is None:
                self._finish(sequence, FinishReason.ABORT)
                updates = [u for u in updates if u.sequence is not sequence]
                updates.append(SequenceUpdate(sequence))
        return updates

    def _advance(self, sequence: Sequence, result: SequenceResult) -> SequenceUpdate:
        if result.error is not None:
            self._finish(sequence, FinishReason.ERROR, result.error, result.error_reason)
            if result.error_reason is ErrorReason.NOT_FINITE:
                self._distrust(sequence)
            return SequenceUpdate(sequence)
        sequence.num_scored += len(result.prompt_logprobs)
        if result.token_ids:
            now = self._clock()
            sequence.first_token = now if sequence.first_token is None else sequence.first_token
            sequence.last_token = now
        for token_id in result.token_ids:
            sequence.append(token_id)
            sequence.finish_if_done(self._max_model_len)
        if sequence.is_read:
            sequence.finish_reason = FinishReason.LENGTH
        if sequence.finish_reason is not None:
            self._finish(sequence, sequence.finish_reason)
        return SequenceUpdate(sequence, result.token_ids, result.logprobs, result.prompt_logprobs)

    def _distrust(self, sequence: Sequence) -> None:
        """Drop what is kept of its prefixes: who went on from a state that is not finite either would fail like it."""
        self.cache.forget_prefixes(sequence.lineage)
        for tier in self.lower:
            tier.forget_prefixes(sequence.lineage)

    def fail(self, error: str) -> list[SequenceUpdate]:
        """The step in flight failed: nothing it touched can be trusted.

        A sequence that failed alone ends with the error. Otherwise all of them start over, each alone until it is past
        the failed step, so that the one at fault is found and the others lose only time. When alone nobody fails,
        three failures in company end them.
        """
        in_flight, self._in_flight = self._in_flight, {}
        if len(in_flight) == 1:  # here is the one at fault: whoever failed beside it did not bring it about
            for other in chain(self.running, self.waiting):
                other.num_failures = 0
        updates = []
        for sequence in in_flight.values():
            sequence.num_failures += 1
            if sequence.abort_requested:
                self._finish(sequence, FinishReason.ABORT, keep=False)
            elif len(in_flight) == 1 or sequence.num_failures == MAX_FAILURES:
                self._finish(sequence, FinishReason.ERROR, error, ErrorReason.STEP)
            else:
                sequence.suspect_until = len(sequence.tokens)
                self._preempt(sequence, keep=False)
                continue
            updates.append(SequenceUpdate(sequence))
        return updates

    def _finish(
        self,
        sequence: Sequence,
        reason: FinishReason,
        error: str | None = None,
        error_reason: ErrorReason | None = None,
        keep: bool = True,
    ) -> None:
        sequence.finish_reason = reason
        sequence.error = error
        sequence.error_reason = error_reason
        (self.waiting if sequence.allocation is None else self.running).remove(sequence)
        self._release(sequence, keep and reason is not FinishReason.ERROR)
        if self._constraints is not None:
            self._constraints.close(sequence.seq_id)

    def _release(self, sequence: Sequence, keep: bool) -> None:
        """Give back what it holds. With `keep` its state is sound, and whoever comes with the same tokens goes on."""
        allocation, sequence.allocation = sequence.allocation, None
        if allocation is None:
            return
        if sequence.finish_reason is not None:
            self._explainer.note(sequence.lineage)
        if keep and allocation.hit is None:
            is_whole = sequence.finish_reason in (FinishReason.STOP, FinishReason.LENGTH, FinishReason.REPETITION)
            is_answer = is_whole and not sequence.is_only_read
            self.cache.retire(allocation, sequence.lineage, sequence.num_computed_tokens, is_answer)
        else:
            self.cache.release(allocation)

    def check(self) -> None:
        """Raise `InvariantViolation` unless every block and slot in use belongs to a running sequence."""
        self.cache.check(s.allocation for s in self.running if s.allocation is not None)
        for tier in self.lower:
            tier.check()


def _check_result(plan: StepPlan, result: StepResult) -> None:
    """A sequence without the token and the scores that are due would wait for them forever."""
    asked = [s for s in plan.sequences if s.sample is not None or s.score is not None]
    if [s.seq_id for s in asked] != [r.seq_id for r in result.sequences]:
        ids = [s.seq_id for s in asked], [r.seq_id for r in result.sequences]
        raise InvariantViolation(f"step {plan.step} has sequences {ids[0]} to answer, and results for {ids[1]}")
    for scheduled, answer in zip(asked, result.sequences, strict=True):
        num_scored = len(scheduled.score.token_ids) if scheduled.score is not None else 0
        is_whole = (
            bool(answer.token_ids) == (scheduled.sample is not None) and len(answer.prompt_logprobs) == num_scored
        )
        if answer.error is None and not is_whole:
            raise InvariantViolation(f"step {plan.step} lacks a token or scores of sequence {answer.seq_id}")
