"""Stop strings in a stream of text.

Lives here: what may be released while a stop string could still be forming. It may not know tokens, beyond the one
helper that tells which stop strings are single tokens.
"""

from collections import deque
from collections.abc import Iterable
from functools import lru_cache

from server.chat.tokenizer import Tokenizer


def added_token_stops(stops: Iterable[str], tokenizer: Tokenizer) -> dict[int, str]:
    """The stop strings that are exactly one added token, by the token's id.

    The text of a control token is never printed, so as a string it would never be seen: generation must end on the id.
    """
    ids = {stop: tokenizer.token_to_id(stop) for stop in stops}
    return {token_id: stop for stop, token_id in ids.items() if token_id is not None and tokenizer.is_added(token_id)}


class StopStrings:
    """Watches one answer for the first of some strings.

    The stop that is complete first wins, the longest one where several end together; so the outcome does not depend on
    how the text is portioned. Nothing of the winning stop is released (all of it with `include_stop`), nor anything
    after it. Held back is only the longest tail of the text that is the beginning of some stop.
    """

    def __init__(self, stops: tuple[str, ...], include_stop: bool = False) -> None:
        self._include_stop = include_stop
        self._automaton = _automaton_of(stops)
        self._node = 0
        self._held = ""
        self._matched: str | None = None

    @property
    def matched(self) -> str | None:
        """The stop that ended the text, None while none has."""
        return self._matched

    def feed(self, text: str, active: bool = True) -> str:
        """The text that may go out now; "" once a stop has matched.

        While not `active` (before `min_tokens`) everything goes out and stops are not seen, not even their beginnings:
        a stop counts only when all of it arrives while active.
        """
        if self._matched is not None:
            return ""
        automaton = self._automaton
        if automaton.is_empty:
            return text
        if not active:
            self._node = 0
            return self.flush() + text
        known = self._held + text
        for position, character in enumerate(text, start=len(self._held) + 1):
            self._node = automaton.advance(self._node, character)
            stop = automaton.stop_here[self._node]
            if stop is not None:
                self._matched = stop
                self._held = ""
                return known[: position if self._include_stop else position - len(stop)]
        safe = len(known) - automaton.depth[self._node]
        self._held = known[safe:]
        return known[:safe]

    def flush(self) -> str:
        """The text that was held back; no more will come, so it is no stop."""
        held, self._held = self._held, ""
        self._node = 0
        return held


class _Automaton:
    """Where in some strings a text is, by Aho and Corasick ("Efficient string matching", 1975): one step a character,
    however many strings. A node's depth is the length of the tail to hold back. It never changes once it is made.
    """

    def __init__(self, stops: Iterable[str]) -> None:
        self._children: list[dict[str, int]] = [{}]
        self._fallback = [0]
        self.depth = [0]
        self.stop_here: list[str | None] = [None]
        for stop in filter(None, stops):
            self._add(stop)
        self._link_fallbacks()

    @property
    def is_empty(self) -> bool:
        """Whether there are no strings."""
        return not self._children[0]

    def advance(self, node: int, character: str) -> int:
        """The node that one more character leads to."""
        while node and character not in self._children[node]:
            node = self._fallback[node]
        return self._children[node].get(character, 0)

    def _add(self, stop: str) -> None:
        node = 0
        for character in stop:
            following = self._children[node].get(character)
            if following is None:
                following = len(self._children)
                self._children[node][character] = following
                self._children.append({})
                self._fallback.append(0)
                self.depth.append(self.depth[node] + 1)
                self.stop_here.append(None)
            node = following
        self.stop_here[node] = stop

    def _link_fallbacks(self) -> None:
        """Level by level: where a node has no way on, its longest proper tail that is some stop's beginning may."""
        waiting = deque(self._children[0].values())
        while waiting:
            node = waiting.popleft()
            for character, child in self._children[node].items():
                self._fallback[child] = self.advance(self._fallback[node], character)
                self.stop_here[child] = self.stop_here[child] or self.stop_here[self._fallback[child]]
                waiting.append(child)


@lru_cache(maxsize=1)
def _automaton_of(stops: tuple[str, ...]) -> _Automaton:
    """One for all choices of a request, which begin one after the other: thousands would take gigabytes."""
    return _Automaton(stops)
