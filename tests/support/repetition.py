"""Repetition as its definition says it, slowly."""

from collections.abc import Sequence

from engine.types import RepetitionDetection


def ends_in_repetition(tokens: Sequence[int], detection: RepetitionDetection) -> bool:
    """Whether the last tokens are one pattern, over and over."""
    return any(
        _is_pattern_over_and_over(tokens[-num_tokens:], size)
        for size in range(detection.min_pattern_size, detection.max_pattern_size + 1)
        if (num_tokens := max(detection.min_count * size, detection.min_repeated_tokens)) <= len(tokens)
    )


def _is_pattern_over_and_over(tokens: Sequence[int], size: int) -> bool:
    return all(token == tokens[place % size] for place, token in enumerate(tokens))


def first_repetition(tokens: Sequence[int], detection: RepetitionDetection, min_tokens: int = 0) -> int | None:
    """How many of these tokens there are when the first repetition ends the text; None for never."""
    counts = range(max(1, min_tokens), len(tokens) + 1)
    return next((count for count in counts if ends_in_repetition(tokens[:count], detection)), None)
