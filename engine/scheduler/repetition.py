"""`RepetitionGuard`: notices that the end of a growing text is one pattern, over and over.

A pattern size is looked at only when it can be its turn: wherever the last token stands that differs from the one a
pattern before, so many equal ones have to follow. So nearly every size is left alone at nearly every token, and tokens
that were found equal are not compared again.
"""

from array import array

from engine.types import RepetitionDetection

BITS = 8 * array("I").itemsize
STRETCH = 32  # tokens that are compared at once; more when all of them are equal


class RepetitionGuard:
    """Takes the tokens of an answer one by one. `found`: they end in a repetition now."""

    def __init__(self, detection: RepetitionDetection, min_tokens: int = 0) -> None:
        """Nothing is noticed before `min_tokens`."""
        self.found = False
        self._detection = detection
        self._min_tokens = min_tokens
        self._tokens = array("I")
        # By the number of tokens at which they are looked at next: pattern sizes, each with the place from which on
        # its tokens have not been compared yet.
        self._due: dict[int, list[tuple[int, int]]] = {}
        self._next_size = detection.min_pattern_size
        self._next_size_due = self._first_look(self._next_size)

    def add(self, token_id: int) -> None:
        """Look at the next token."""
        self._tokens.append(token_id)
        num_tokens = len(self._tokens)
        due = self._due.pop(num_tokens, None)
        if num_tokens == self._next_size_due:
            due = [*(due or ()), *self._newly_due()]
        self.found = False
        if due is None:
            return
        for size, compared in due:
            equal_from = self._equal_from(size, compared)
            if equal_from == compared:
                self.found, then = True, num_tokens + 1
            else:
                then = equal_from + self._detection.num_tokens(size) - size
            self._due.setdefault(then, []).append((size, num_tokens))

    def _first_look(self, size: int) -> int:
        return max(self._detection.num_tokens(size), self._min_tokens)

    def _newly_due(self) -> list[tuple[int, int]]:
        """Sizes for which there are enough tokens now; larger ones never take fewer."""
        num_tokens, detection = len(self._tokens), self._detection
        sizes = []
        while self._next_size <= detection.max_pattern_size and self._next_size_due == num_tokens:
            size = self._next_size
            sizes.append((size, num_tokens - detection.num_tokens(size) + size))
            self._next_size += 1
            self._next_size_due = self._first_look(self._next_size)
        return sizes

    def _equal_from(self, size: int, first: int) -> int:
        """From which place on, not before `first`, each token is equal to the one `size` before."""
        tokens = self._tokens
        if tokens[-1] != tokens[-1 - size]:
            return len(tokens)
        begin, stretch = len(tokens), STRETCH
        while begin > first:
            begin, stretch = max(first, len(tokens) - stretch), 8 * stretch
            latter = int.from_bytes(tokens[begin:].tobytes(), "little")
            former = int.from_bytes(tokens[begin - size : -size].tobytes(), "little")
            if latter != former:  # the highest bit that differs is of the last such token
                return begin - (-(latter ^ former).bit_length() // BITS)
        return first
