"""Writes the answer to a plain completion, as a stream of chunks or as one object.

Knows events and JSON, no HTTP.
"""

import codecs
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from server.chat.events import ChoiceFinished, TextDelta, TokenText
from server.dialects.openai.answers import Chunks, Identity, readable_logprob, unbroken, usage_of
from server.dialects.openai.schema import CompletionRequest
from server.generation import Generation


class CompletionEncoder:
    """Encodes one answer. `echoes` are the texts of the prompts, to stand before their answers; empty for no echo."""

    def __init__(self, identity: Identity, body: CompletionRequest, echoes: Sequence[str]) -> None:
        self._identity = identity
        self._body = body
        self._echoes = echoes

    async def stream(self, generation: Generation) -> AsyncGenerator[bytes, None]:
        """Chunks of text."""
        chunks = Chunks(self._identity, "text_completion", self._body, generation)
        offsets: dict[int, _Offsets] = {}
        async for news in generation:
            event = unbroken(news)
            if event.choice not in offsets:
                echo = self._echo(event.choice)
                offsets[event.choice] = _Offsets(len(echo))
                if echo:
                    yield chunks.choice(_choice(event.choice, echo, None, None))
            if isinstance(event, TextDelta):
                logprobs = self._logprobs(event.logprobs, offsets[event.choice])
                yield chunks.choice(_choice(event.choice, event.text, logprobs, None))
            elif isinstance(event, ChoiceFinished):
                yield chunks.choice(_choice(event.choice, "", None, event))
        yield chunks.end()

    async def collect(self, generation: Generation) -> dict[str, Any]:
        """The whole answer."""
        texts: dict[int, list[str]] = {}
        tokens: dict[int, list[TokenText]] = {}
        ends: dict[int, ChoiceFinished] = {}
        async for news in generation:
            event = unbroken(news)
            if isinstance(event, TextDelta):
                texts.setdefault(event.choice, []).append(event.text)
                tokens.setdefault(event.choice, []).extend(event.logprobs)
            elif isinstance(event, ChoiceFinished):
                ends[event.choice] = event
        choices = []
        for index, end in sorted(ends.items()):
            echo = self._echo(index)
            logprobs = self._logprobs(tokens.get(index, []), _Offsets(len(echo)))
            choices.append(_choice(index, echo + "".join(texts.get(index, [])), logprobs, end))
        return {
            "id": self._identity.id,
            "object": "text_completion",
            "created": self._identity.created,
            "model": self._identity.model,
            "choices": choices,
            "usage": usage_of(generation, self._body.cache_report),
        }

    def _echo(self, choice: int) -> str:
        return self._echoes[choice // self._body.n] if self._echoes else ""

    def _logprobs(self, tokens: Sequence[TokenText], offsets: "_Offsets") -> dict[str, Any] | None:
        if self._body.logprobs is None:
            return None
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [readable_logprob(token.logprob) for token in tokens],
            "top_logprobs": [_top(token) for token in tokens],
            "text_offset": [offsets.take(token.raw) for token in tokens],
        }


class _Offsets:
    """Where each token begins in its choice's text, in characters; a token inside a character begins before it."""

    def __init__(self, start: int) -> None:
        self._next = start
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def take(self, raw: bytes) -> int:
        offset = self._next
        self._next += len(self._decoder.decode(raw))
        return offset


def _top(token: TokenText) -> dict[str, float]:
    """The most likely tokens by their text, the drawn one always among them."""
    by_text = {token.text: token.logprob}
    for text, _, logprob in token.top:
        by_text.setdefault(text, logprob)
    return {text: readable_logprob(logprob) for text, logprob in by_text.items()}


def _choice(index: int, text: str, logprobs: dict[str, Any] | None, end: ChoiceFinished | None) -> dict[str, Any]:
    return {
        "index": index,
        "text": text,
        "logprobs": logprobs,
        "finish_reason": end.finished_as if end else None,
        "stop_reason": end.stop if end else None,
    }
