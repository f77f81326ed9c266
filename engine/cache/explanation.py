"""Why a hit is not longer: what earlier prompts had in common with this one, their states kept or not.

For people only; nothing is computed differently for it.
"""

from collections import OrderedDict

from engine.cache.prefix import Lineage
from engine.types import CacheReport, MissReason

MAX_TOKENS = 2_000_000  # of earlier sequences, each eight bytes
MAX_SEQUENCES = 64
LOOKED_AT = 256  # tokens that two prompts under different salts must share to be told so


class Explainer:
    """Remembers the tokens of the latest sequences, within a bound."""

    def __init__(self) -> None:
        self._known: OrderedDict[int, Lineage] = OrderedDict()
        self._num_tokens = 0

    def note(self, lineage: Lineage) -> None:
        """Remember a sequence that has come to its end, in the place of those that it goes on from."""
        for name, known in list(self._known.items()):
            if known.is_beginning_of(lineage):
                self._forget(name)
        self._known[id(lineage)] = lineage
        self._num_tokens += len(lineage.tokens)
        while self._num_tokens > MAX_TOKENS or len(self._known) > MAX_SEQUENCES:
            self._forget(next(iter(self._known)))

    def report(self, lineage: Lineage, num_cached_tokens: int, positions: tuple[int, ...]) -> CacheReport:
        """Of a prompt whose states are kept at `positions`."""
        tokens, keys = lineage.tokens, lineage.keys
        shared = [keys.num_common_tokens(tokens, other.keys, other.tokens) for other in self._known.values()]
        num_known = max(max(shared, default=0), num_cached_tokens)
        wanted = max((p for p in positions if p <= min(num_known, len(tokens) - 1)), default=0)
        if num_cached_tokens < wanted:
            reason = MissReason.GONE
        elif num_known >= len(tokens) - 1:
            reason = MissReason.NONE
        elif num_known:
            reason = MissReason.DIFFERS
        else:
            reason = MissReason.SALT if self._is_known_elsewhere(lineage) else MissReason.NEW
        return CacheReport(num_cached_tokens, num_known, reason)

    def _is_known_elsewhere(self, lineage: Lineage) -> bool:
        """By the same owner under another salt: of what others read, nobody is told."""
        beginning, owner = lineage.tokens[:LOOKED_AT], _owner(lineage)
        others = (o for o in self._known.values() if o.salt != lineage.salt and _owner(o) == owner)
        return any(other.tokens[: len(beginning)] == beginning for other in others)

    def _forget(self, name: int) -> None:
        self._num_tokens -= len(self._known.pop(name).tokens)


def _owner(lineage: Lineage) -> str:
    return lineage.salt.partition("/")[0]
