"""Writes the answer to a plain completion, as a stream of chunks or as one object.

Knows events and JSON, no HTTP.
"""

import codecs
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any

from server.answering import unbroken
from server.chat.events import ChoiceFinished, TextDelta, TokenText
from server.dialects.openai.answers import Chunks, Identity, usage_of
from server.dialects.openai.schema import CompletionRequest
from server.generation import Generation
from server.json_text import readable_logprob
from server.timings import timings_of

_Logprobs = dict[str, list[Any]]  # an entry a token in each


@dataclass(frozen=True, slots=True)
class Echo:
    """A prompt that stands before its answers: its text, and the bytes of its first token."""

    text: str
    first: bytes


class CompletionEncoder:
    """Encodes one answer. `echoes` are what stands before the answers to the prompts, if anything does."""

    def __init__(self, identity: Identity, body: CompletionRequest, echoes: Sequence[Echo]) -> None:
        self._identity = identity
        self._body = body
        self._echoes = echoes
        self._chunks = Chunks(identity, "text_completion", body)
        self.life_sign = self._chunks.life_sign
        self.failure = self._chunks.failure

    async def stream(self, generation: Generation) -> AsyncGenerator[bytes, None]:
        """Chunks of text."""
        chunks = self._chunks
        offsets: dict[int, _Offsets] = {}
        async for news in generation:
            event = unbroken(news)
            if event.choice not in offsets:
                echo = self._echo(event.choice)
                offsets[event.choice] = _Offsets(len(echo.text) if echo else 0)
                if echo:
                    logprobs = self._echoed_logprobs(echo, generation.scored_prompt(event.choice))
                    yield chunks.choice(generation, _choice(event.choice, echo.text, logprobs, None))
            if isinstance(event, TextDelta):
                logprobs = self._logprobs(event.logprobs, offsets[event.choice])
                yield chunks.choice(generation, _choice(event.choice, event.text, logprobs, None))
            elif isinstance(event, ChoiceFinished):
                yield chunks.last(generation, _choice(event.choice, "", None, event))
        yield chunks.end(generation)

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
            echo, text = self._echo(index), "".join(texts.get(index, []))
            logprobs = self._logprobs(tokens.get(index, []), _Offsets(len(echo.text) if echo else 0))
            if echo:
                text = echo.text + text
                logprobs = _joined(self._echoed_logprobs(echo, generation.scored_prompt(index)), logprobs)
            choices.append(_choice(index, text, logprobs, end))
        return {
            "id": self._identity.id,
            "object": "text_completion",
            "created": self._identity.created,
            "model": self._identity.model,
            "choices": choices,
            "usage": usage_of(generation, self._body.cache_report),
            "timings": timings_of(generation),
        }

    def _echo(self, choice: int) -> Echo | None:
        return self._echoes[choice // self._body.n] if self._echoes else None

    def _echoed_logprobs(self, echo: Echo, scored: Sequence[TokenText]) -> _Logprobs | None:
        """Those of a prompt. How likely its first token was, nobody can tell."""
        first = TokenText(echo.first.decode("utf-8", "replace"), echo.first, 0.0)
        logprobs = self._logprobs([first, *scored], _Offsets(0))
        if logprobs is not None:
            logprobs["token_logprobs"][0] = logprobs["top_logprobs"][0] = None
        return logprobs

    def _logprobs(self, tokens: Sequence[TokenText], offsets: "_Offsets") -> _Logprobs | None:
        if self._body.logprobs is None:
            return None
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [readable_logprob(token.logprob) for token in tokens],
            "top_logprobs": [_top(token) for token in tokens],
            "text_offset": [offsets.take(token.raw) for token in tokens],
        }


def _joined(first: _Logprobs | None, second: _Logprobs | None) -> _Logprobs | None:
    return {name: first[name] + second[name] for name in first} if first and second else None


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
    """The most likely tokens by their text, the token itself always among them.

    Several that are parts of characters have one text: the most likely of these counts, for harnesses call a token
    greedy that none here exceeds.
    """
    by_text = {token.text: token.logprob}
    for text, _, logprob in token.top:
        by_text[text] = max(logprob, by_text.get(text, logprob))
    return {text: readable_logprob(logprob) for text, logprob in by_text.items()}


def _choice(index: int, text: str, logprobs: _Logprobs | None, end: ChoiceFinished | None) -> dict[str, Any]:
    return {
        "index": index,
        "text": text,
        "logprobs": logprobs,
        "finish_reason": end.finished_as if end else None,
        "stop_reason": end.stop if end else None,
    }
