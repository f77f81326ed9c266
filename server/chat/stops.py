"""Stop strings in a stream of text.

Lives here: what may be released while a stop string could still be forming. It may not know tokens, beyond the one
helper that tells which stop strings are single tokens.
"""

from collections import deque
from collections.abc import Iterable

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

    The matching is Aho and Corasick's ("Efficient string matching", 1975): one step a character, however many stops.
    A node's depth is the length of the tail to hold back.
    """

    def __init__(self, stops: tuple[str, ...], include_stop: bool = False) -> None:
        self._include_stop = include_stop
        self._children: list[dict[str, int]] = [{}]
        self._fallback = [0]
        self._depth = [0]
        self._stop_here: list[str | None] = [None]
        for stop in filter(None, stops):
            self._add(stop)
        self._link_fallbacks()
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
        if not self._children[0]:  # there are no stops
            return text
        if not active:
            self._node = 0
            return self.flush() + text
        known = self._held + text
        for position, character in enumerate(text, start=len(self._held) + 1):
            self._node = self._advance(self._node, character)
            stop = self._stop_here[self._node]
            if stop is not None:
                self._matched = stop
                self._held = ""
                return known[: position if self._include_stop else position - len(stop)]
        safe = len(known) - self._depth[self._node]
        self._held = known[safe:]
        return known[:safe]

    def flush(self) -> str:
        """The text that was held back; no more will come, so it is no stop."""
        held, self._held = self._held, ""
        self._node = 0
        return held

    def _advance(self, node: int, character: str) -> int:
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
                self._depth.append(self._depth[node] + 1)
                self._stop_here.append(None)
            node = following
        self._stop_here[node] = stop

    def _link_fallbacks(self) -> None:
        """Level by level: where a node has no way on, its longest proper tail that is some stop's beginning may."""
        waiting = deque(self._children[0].values())
        while waiting:
            node = waiting.popleft()
            for character, child in self._children[node].items():
                self._fallback[child] = self._advance(self._fallback[node], character)
                self._stop_here[child] = self._stop_here[child] or self._stop_here[self._fallback[child]]
                waiting.append(child)
