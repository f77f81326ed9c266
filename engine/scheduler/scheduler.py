"""The scheduler: turns waiting and running sequences into step plans, and step results back into tokens.

It alone changes sequences and, through the cache manager, blocks and slots. It is called between steps only, so a
sequence in the plan in flight is never touched: an abort marks it and `apply` or `fail` releases it.
"""

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
from engine.scheduler.budget import StepBudget
from engine.scheduler.sequence import Sequence
from engine.types import CacheTier, ErrorReason, FinishReason, TokenLogprobs

MAX_FAILURES = 3

_in_order = attrgetter("order")


@dataclass(frozen=True, slots=True)
class SequenceUpdate:
    """What a step meant for one sequence; `sequence.finish_reason` says whether it was its last."""

    sequence: Sequence
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()


class Scheduler:
    """First come, first served within a priority; running sequences before waiting ones; decoding before prompts.

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
    ) -> None:
        self.cache = cache
        self.lower = lower
        self.running: list[Sequence] = []
        self.waiting: list[Sequence] = []
        self.num_preemptions = 0
        self._budget = budget
        self._explainer = Explainer()
        self._constraints = constraints
        self._max_model_len = max_model_len
        self._clock = clock
        self._step = 0
        self._in_flight: dict[int, Sequence] = {}

    @property
    def has_work(self) -> bool:
        return bool(self.running or self.waiting)

    def add(self, sequence: Sequence) -> None:
        insort(self.waiting, sequence, key=_in_order)

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
        """Sequences with the number of tokens each computes: decoding ones, then prompts, then new arrivals."""
        decoding: list[Sequence] = []
        reading: list[Sequence] = []
        for sequence in self.running:
            (decoding if sequence.num_uncomputed_tokens == 1 else reading).append(sequence)
        # One that is preempted to make room for another has no allocation any more.
        chosen = [(s, 1) for s in decoding if s.allocation is not None and self._make_room(s)]
        room = self._budget.chunk_tokens(len(chosen))
        for sequence in reading:
            if sequence.allocation is not None and room > 0:
                num_tokens = min(sequence.num_uncomputed_tokens, room)
                chosen.append((sequence, num_tokens))
                room -= num_tokens
        for sequence in self.waiting[:]:
            if room <= 0 or not self.cache.has_slot:
                break
            if self._is_being_computed(sequence) or self._is_being_loaded(sequence):
                continue
            if not self._admit(sequence):
                break
            self.waiting.remove(sequence)
            insort(self.running, sequence, key=_in_order)
            if sequence.suspect:
                break  # it runs alone, in the next step
            num_tokens = min(sequence.num_uncomputed_tokens, room)
            chosen.append((sequence, num_tokens))
            room -= num_tokens
        return chosen or self._lone_suspect()

    def _lone_suspect(self) -> list[tuple[Sequence, int]]:
        suspect = next((s for s in self.running if s.suspect), None)
        return [(suspect, min(suspect.num_uncomputed_tokens, self._budget.chunk_tokens(0)))] if suspect else []

    def _admit(self, sequence: Sequence) -> bool:
        # One spare block for each running sequence keeps admission from causing preemption in the next steps.
        sequence.allocation = self.cache.admit(sequence.lineage, num_spare_blocks=len(self.running))
        if sequence.allocation is None:
            return False
        hit = sequence.allocation.hit
        sequence.num_computed_tokens = hit.position if hit else 0
        if sequence.admitted is None:
            sequence.admitted = self._clock()
            positions = sequence.checkpoint_positions
            report = self._explainer.report(sequence.lineage, sequence.num_computed_tokens, positions)
            load = sequence.load
            if hit is not None and load is not None and load.arrival.checkpoint is hit:
                report = replace(report, tier=load.tier, restore_seconds=load.seconds)
            elif hit is not None:
                report = replace(report, tier=CacheTier.MEMORY)
            sequence.cache_report = report
        return True

    def _is_being_computed(self, sequence: Sequence) -> bool:
        """Whether a running sequence is about to leave a checkpoint that this one could start from: then it waits."""
        if not self.cache.num_checkpoints:
            return False
        last = len(sequence.tokens) - 1
        coming = 0
        for other in self.running:
            if other.suspect or other.num_computed_tokens >= len(other.request.prompt_ids):
                continue
            common = sequence.lineage.num_common_tokens(other.lineage)
            coming = max(coming, *other.positions_between(other.num_computed_tokens, min(common, last)), 0)
        if not coming:
            return False
        hit = self.cache.match(sequence.lineage)
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
            victim = self.running[-1]
            self._preempt(victim)
            if victim is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence, keep: bool = True) -> None:
        self.running.remove(sequence)
        self._release(sequence, keep)
        sequence.num_computed_tokens = 0
        sequence.num_preemptions += 1
        self.num_preemptions += 1
        self.add(sequence)

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
        is_sampled = end == len(sequence.tokens)
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
        self._budget.observe(num_prompt_tokens, num_decoding, result.seconds)
        updates = [self._advance(in_flight[r.seq_id], r) for r in result.sequences]
        for sequence in in_flight.values():
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
        now = self._clock()
        if sequence.first_token is None:
            sequence.first_token = now
        sequence.last_token = now
        for token_id in result.token_ids:
            sequence.append(token_id)
            sequence.finish_if_done(self._max_model_len)
        if sequence.finish_reason is not None:
            self._finish(sequence, sequence.finish_reason)
        return SequenceUpdate(sequence, result.token_ids, result.logprobs)

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
            is_answer = sequence.finish_reason in (FinishReason.STOP, FinishReason.LENGTH, FinishReason.REPETITION)
            self.cache.retire(allocation, sequence.lineage, sequence.num_computed_tokens, is_answer)
        else:
            self.cache.release(allocation)

    def check(self) -> None:
        """Raise `InvariantViolation` unless every block and slot in use belongs to a running sequence."""
        self.cache.check(s.allocation for s in self.running if s.allocation is not None)
        for tier in self.lower:
            tier.check()


def _check_result(plan: StepPlan, result: StepResult) -> None:
    """A sampled sequence without an answer would wait for it forever."""
    asked = [s.seq_id for s in plan.sequences if s.sample is not None]
    answered = [r.seq_id for r in result.sequences if r.token_ids or r.error is not None]
    if asked != answered:
        raise InvariantViolation(f"step {plan.step} sampled sequences {asked} and has results for {answered}")
