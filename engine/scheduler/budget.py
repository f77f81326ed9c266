"""How many tokens a step may take, so that running streams keep flowing while a prompt is read."""

from dataclasses import dataclass
from enum import IntEnum

MIN_CHUNK_TOKENS = 16
FIRST_CHUNK_TOKENS = 64
SAFETY = 0.8
MIN_PROMPT_SHARE = 0.5
SMOOTHING = 0.3
MIN_TOKEN_SECONDS = 1e-9
LEAST_BRISK_SHARE = 8  # of so many tokens of an idle step a brisk one has one, though it lasts longer by that
OTHERS_SHARE = 4  # of so many prompt tokens of a step, one is for prompts that are not interactive


class Pace(IntEnum):
    """How long a step may last, as a multiple of the longest pause in a running answer."""

    BESIDE = 1  # something decodes beside, or is waited for at the keyboard
    BRISK = 4  # only prompts are read, but the next interactive request may come any moment
    IDLE = 16  # only prompts are read


class StepBudget:
    """Learns what a prompt token costs and bounds chunks to a wall-time target.

    While something decodes, a step should last at most `max_gap_seconds`. When only prompts are read it may last
    sixteen times that: a long chunk reads each expert's weights for more tokens, and aborts and new arrivals still get
    in. Where the next interactive request may come any moment it is four times; but where tokens of so short a chunk
    cost twice as much, the step keeps an eighth of its tokens and lasts longer. A token's cost is learned for each pace
    by itself, since a short chunk's is several times a long one's. When decoding alone comes close to the target, or
    exceeds it, prompts still get half as much time as decoding, and never less than 16 tokens: else a busy server would
    stop taking anyone in. The tokens drawn do not depend on the sizes chosen here.
    """

    def __init__(self, max_tokens: int, max_gap_seconds: float) -> None:
        self.max_tokens = max_tokens
        self._max_gap_seconds = max_gap_seconds
        self._base_seconds = 0.0
        self._token_seconds: dict[Pace, float] = {}

    def chunk_tokens(self, num_decoding: int, pace: Pace = Pace.IDLE) -> int:
        """Prompt tokens the next step may compute beside `num_decoding` decoding sequences, or at this pace if there
        are none."""
        room = self.max_tokens - num_decoding
        pace = Pace.BESIDE if num_decoding else pace
        token_seconds = self._cost(pace)
        if token_seconds is None:
            return min(room, FIRST_CHUNK_TOKENS)
        spare = SAFETY * self._max_gap_seconds * pace
        if num_decoding:
            spare = max(spare - self._base_seconds, MIN_PROMPT_SHARE * self._base_seconds)
        least = self.chunk_tokens(0) // LEAST_BRISK_SHARE if pace is Pace.BRISK else MIN_CHUNK_TOKENS
        return max(0, min(room, max(least, MIN_CHUNK_TOKENS, int(spare / token_seconds))))

    def observe(self, num_prompt_tokens: int, num_decoding: int, seconds: float, pace: Pace = Pace.IDLE) -> None:
        """Learn from a step that took `seconds`."""
        if num_prompt_tokens == 0:
            self._base_seconds += SMOOTHING * (seconds - self._base_seconds)
            return
        if num_prompt_tokens < MIN_CHUNK_TOKENS:
            return  # mostly the step's fixed cost: it says nothing of a long chunk
        pace = Pace.BESIDE if num_decoding else pace
        known = self._cost(pace)
        if known is None:
            # All of it, too much rather than too little: one chunk chosen by a cost near zero could last minutes.
            self._token_seconds[pace] = max(seconds, MIN_TOKEN_SECONDS) / num_prompt_tokens
            return
        if num_decoding:
            seconds = max(seconds - self._base_seconds, 0.0)
        cost = max(seconds / num_prompt_tokens, MIN_TOKEN_SECONDS)
        self._token_seconds[pace] = known + SMOOTHING * (cost - known)

    def _cost(self, pace: Pace) -> float | None:
        """Of a prompt token, seconds; before the first one at a pace that of the one most like it."""
        known = min(self._token_seconds, key=lambda other: abs(other.bit_length() - pace.bit_length()), default=None)
        return None if known is None else self._token_seconds[known]


@dataclass(slots=True)
class StepRoom:
    """How the prompt tokens of one step are shared between interactive prompts and others.

    Interactive ones come first, but where others want to be read too (`is_shared`) these keep a quarter. Whoever waits
    for the first of a kind waits for the whole step, so beside it others get no more than that quarter, or what a short
    step of `num_short` tokens leaves.
    """

    num_tokens: int
    num_short: int
    is_shared: bool
    num_ahead: int = 0
    num_others: int = 0

    def left(self, goes_ahead: bool) -> int:
        """Tokens that one more prompt may have."""
        if goes_ahead:
            reserved = -(-self.num_tokens // OTHERS_SHARE) if self.is_shared and self.num_tokens > 1 else 0
            return self.num_tokens - reserved - self.num_ahead
        if not self.num_ahead:
            return self.num_tokens - self.num_others
        quarter = -(-self.num_ahead // (OTHERS_SHARE - 1))
        most = min(self.num_tokens - self.num_ahead, max(quarter, self.num_short - self.num_ahead))
        return most - self.num_others

    def take(self, num_wanted: int, goes_ahead: bool) -> int:
        """Give a prompt what it wants of what is left."""
        num_taken = max(0, min(num_wanted, self.left(goes_ahead)))
        if goes_ahead:
            self.num_ahead += num_taken
        else:
            self.num_others += num_taken
        return num_taken

    @property
    def is_short(self) -> bool:
        """Whether the step was cut short for an interactive prompt."""
        return self.num_ahead > 0 and self.is_shared
