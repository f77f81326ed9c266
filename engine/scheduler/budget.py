"""How many tokens a step may take, so that running streams keep flowing while a prompt is read."""

MIN_CHUNK_TOKENS = 16
FIRST_CHUNK_TOKENS = 64
IDLE_STEP_FACTOR = 16.0
SAFETY = 0.8
MIN_PROMPT_SHARE = 0.5
SMOOTHING = 0.3
MIN_TOKEN_SECONDS = 1e-9


class StepBudget:
    """Learns what a prompt token costs and bounds chunks to a wall-time target.

    While something decodes, a step should last at most `max_gap_seconds`. When only prompts are read it may last
    sixteen times that: a long chunk reads each expert's weights for more tokens, and aborts and new arrivals still get
    in. A token's cost is learned for either case by itself, since a short chunk's is several times a long one's. When
    decoding alone comes close to the target, or exceeds it, prompts still get half as much time as decoding, and never
    less than 16 tokens: else a busy server would stop taking anyone in. The tokens drawn do not depend on the sizes
    chosen here.
    """

    def __init__(self, max_tokens: int, max_gap_seconds: float) -> None:
        self.max_tokens = max_tokens
        self._max_gap_seconds = max_gap_seconds
        self._base_seconds = 0.0
        self._token_seconds: dict[bool, float] = {}  # by whether something decodes beside

    def chunk_tokens(self, num_decoding: int) -> int:
        """Prompt tokens the next step may compute beside `num_decoding` decoding sequences."""
        room = self.max_tokens - num_decoding
        token_seconds = self._cost(num_decoding)
        if token_seconds is None:
            return min(room, FIRST_CHUNK_TOKENS)
        target = self._max_gap_seconds * (1.0 if num_decoding else IDLE_STEP_FACTOR)
        spare = SAFETY * target
        if num_decoding:
            spare = max(spare - self._base_seconds, MIN_PROMPT_SHARE * self._base_seconds)
        return max(0, min(room, max(MIN_CHUNK_TOKENS, int(spare / token_seconds))))

    def observe(self, num_prompt_tokens: int, num_decoding: int, seconds: float) -> None:
        """Learn from a step that took `seconds`."""
        if num_prompt_tokens == 0:
            self._base_seconds += SMOOTHING * (seconds - self._base_seconds)
            return
        if num_prompt_tokens < MIN_CHUNK_TOKENS:
            return  # mostly the step's fixed cost: it says nothing of a long chunk
        known = self._cost(num_decoding)
        if known is None:
            # All of it, too much rather than too little: one chunk chosen by a cost near zero could last minutes.
            self._token_seconds[num_decoding > 0] = max(seconds, MIN_TOKEN_SECONDS) / num_prompt_tokens
            return
        if num_decoding:
            seconds = max(seconds - self._base_seconds, 0.0)
        cost = max(seconds / num_prompt_tokens, MIN_TOKEN_SECONDS)
        self._token_seconds[num_decoding > 0] = known + SMOOTHING * (cost - known)

    def _cost(self, num_decoding: int) -> float | None:
        """Of a prompt token, seconds; before the first one of a case the other's."""
        beside = num_decoding > 0
        return self._token_seconds.get(beside, self._token_seconds.get(not beside))
