"""Why a hit is not longer: what earlier prompts had in common with this one, their states kept or not.

For people only; nothing is computed differently for it.
"""

from engine.cache.prefix import Lineage
from engine.types import CacheReport, MissReason

MAX_TOKENS = 2_000_000  # of earlier sequences, each eight bytes
MAX_SEQUENCES = 64
LOOKED_AT = 256  # tokens that two prompts under different salts must share to be told so


class Explainer:
    """Remembers the tokens of the latest sequences, within a bound."""

    def __init__(self) -> None:
        self._known: list[Lineage] = []

    def note(self, lineage: Lineage) -> None:
        """Remember a sequence that has come to its end, in the place of those that it goes on from."""
        self._known = [known for known in self._known if not known.is_beginning_of(lineage)]
        self._known.append(lineage)
        while len(self._known) > MAX_SEQUENCES or sum(len(known.tokens) for known in self._known) > MAX_TOKENS:
            self._known.pop(0)

    def report(self, lineage: Lineage, num_cached_tokens: int, positions: tuple[int, ...]) -> CacheReport:
        """Of a prompt whose states are kept at `positions`."""
        last = len(lineage.tokens) - 1
        num_known = max(num_cached_tokens, *(lineage.num_common_tokens(other) for other in self._known), 0)
        wanted = max((p for p in positions if p <= min(num_known, last)), default=0)
        if num_cached_tokens < wanted:
            reason = MissReason.GONE
        elif num_known >= last:
            reason = MissReason.NONE
        elif num_known:
            reason = MissReason.DIFFERS
        else:
            reason = MissReason.SALT if self._is_known_elsewhere(lineage) else MissReason.NEW
        return CacheReport(num_cached_tokens, num_known, reason)

    def _is_known_elsewhere(self, lineage: Lineage) -> bool:
        """By the same owner under another salt: of what others read, nobody is told."""
        beginning, owner = lineage.tokens[:LOOKED_AT], _owner(lineage)
        others = (o for o in self._known if o.salt != lineage.salt and _owner(o) == owner)
        return any(other.tokens[: len(beginning)] == beginning for other in others)


def _owner(lineage: Lineage) -> str:
    return lineage.salt.partition("/")[0]
