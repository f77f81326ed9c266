"""Whose turn it is: in which order those who wait are admitted, and who gives way when memory runs out.

Rules over sequences alone: no memory is known here, and nothing is changed but how often a sequence was passed.
"""

from collections import Counter
from collections.abc import Sequence as List
from itertools import chain

from engine.scheduler.sequence import Sequence

AHEAD_SHARE = 4  # of so many slots, for one interactive sequence that goes ahead; one in any case
MOST_PASSES = 16  # by sequences that took what the passed one could have had


class Turns:
    """First come, first served within a priority, but for interactive sequences and owners who have enough.

    Interactive ones go ahead while fewer than `max_ahead` of them run, and nobody has been passed too often. For as
    many a checkpoint's slot is taken where all slots are, so that the others lose nothing by it. Further ones wait like
    anybody else. Whoever has `max_running_per_owner` running ones is passed by all others.
    """

    def __init__(self, num_slots: int, max_running_per_owner: int | None = None) -> None:
        self.max_ahead = max(1, num_slots // AHEAD_SHARE)
        self._max_running_per_owner = max_running_per_owner

    def ahead(self, waiting: List[Sequence], running: List[Sequence]) -> list[Sequence]:
        """Those who wait and go ahead of others of their priority."""
        room = self.max_ahead - _num_interactive(running)
        if room <= 0 or not any(s.request.interactive for s in waiting):
            return []
        held = self.held_back(running)
        free = [s for s in waiting if s.request.owner not in held]
        if any(s.num_passes >= MOST_PASSES for s in free):
            return []
        most_urgent = min(s.request.priority for s in chain(free, running)) if free else 0
        return [s for s in free if s.request.interactive and s.request.priority == most_urgent][:room]

    def num_extra(self, sequence: Sequence, running: List[Sequence]) -> int:
        """How many may run beyond the slots, when this one is admitted."""
        return min(self.max_ahead, _num_interactive(running) + sequence.request.interactive)

    def held_back(self, running: List[Sequence]) -> frozenset[str]:
        """Owners of whom no more may run."""
        if self._max_running_per_owner is None:
            return frozenset()
        counts = Counter(s.request.owner for s in running)
        return frozenset(owner for owner, count in counts.items() if count >= self._max_running_per_owner)

    def gives_way(self, running: List[Sequence]) -> Sequence:
        """Which of those who run, in their order, goes when memory runs out.

        Of the lowest priority the last one that is not interactive. One that gave way before and has not yet made good
        for it is spared where an interactive one can go.
        """
        last_priority = running[-1].request.priority
        last = [s for s in running if s.request.priority == last_priority]
        others = [s for s in last if not s.request.interactive]
        if not others or (others[-1].is_recovering and len(others) < len(last)):
            return next(s for s in reversed(last) if s.request.interactive)
        return others[-1]


def _num_interactive(sequences: List[Sequence]) -> int:
    return sum(s.request.interactive for s in sequences)
