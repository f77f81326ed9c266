"""Log-probabilities of an answer's tokens as OpenAI's two APIs write them.

Knows events and JSON, no dialect.
"""

from collections.abc import Sequence
from typing import Any

from server.chat.events import TokenText
from server.json_text import readable_logprob


def told_tokens(tokens: Sequence[TokenText]) -> list[dict[str, Any]]:
    """Each token with its bytes, its log-probability, and the likeliest ones in its place."""
    return [
        {
            **_token(token.text, token.raw, token.logprob),
            "top_logprobs": [_token(*alternative) for alternative in token.top],
        }
        for token in tokens
    ]


def _token(text: str, raw: bytes, logprob: float) -> dict[str, Any]:
    return {"token": text, "bytes": list(raw), "logprob": readable_logprob(logprob)}
