"""`timings` and `prompt_progress`, as llama.cpp tells what an answer took, and how far the reading of its prompt is.

Not part of one dialect: its clients read them in OpenAI's answers too.
"""

from typing import Any

from server.generation import Generation


def timings_of(generation: Generation) -> dict[str, Any]:
    """Tokens of the prompt from the cache and read, tokens generated, and the time for either."""
    counts, timings = generation.counts(), generation.timings()
    num_read = counts.num_prompt_tokens - counts.num_cached_tokens
    return {
        "cache_n": counts.num_cached_tokens,
        **_pace("prompt", num_read, timings.prompt_seconds),
        **_pace("predicted", counts.num_generated_tokens, timings.generation_seconds),
    }


def progress_of(generation: Generation) -> dict[str, int] | None:
    """Tokens of the prompt, from the cache and read so far, and the milliseconds until now; None once all is read."""
    progress = generation.progress()
    if progress.num_read_tokens == progress.num_prompt_tokens:
        return None
    return {
        "total": progress.num_prompt_tokens,
        "cache": progress.num_cached_tokens,
        "processed": progress.num_read_tokens,
        "time_ms": round(progress.seconds * 1000),
    }


def _pace(name: str, num_tokens: int, seconds: float) -> dict[str, Any]:
    return {
        f"{name}_n": num_tokens,
        f"{name}_ms": round(1000 * seconds, 3),
        f"{name}_per_token_ms": round(1000 * seconds / num_tokens, 3) if num_tokens else 0.0,
        f"{name}_per_second": round(num_tokens / seconds, 3) if seconds else 0.0,
    }
