"""The same questions to two subjects in turn, A B A B …, so that what disturbs the machine meets both alike."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.limits import Demand, Limits
from benchmarks.subjects import Generated, Worker

FIRST_ID, LAST_ID = 1_000, 100_000  # ordinary text in every vocabulary of the family
STREAM_PROMPT_TOKENS = 4  # few, so that all streams begin within a step or two


@dataclass(frozen=True, slots=True)
class Answer:
    """How many tokens a second, and each stream's first token: who computes something else is quickly done."""

    rate: float
    first_ids: list[int]

    @classmethod
    def of(cls, rate: float, generated: Generated) -> "Answer":
        return cls(rate, [ids[0] for ids in generated.token_ids])


@dataclass(frozen=True, slots=True)
class Prefill:
    """How fast one prompt is read, to its first token."""

    num_tokens: int

    @property
    def name(self) -> str:
        return f"prefill, {self.num_tokens:,} tokens"

    def ask(self, worker: Worker, turn: int) -> Answer:
        """Every turn has a prompt of its own: nothing of it can be in a cache."""
        generated = worker.ask(_prompts(1, self.num_tokens, turn), 1)
        return Answer.of(self.num_tokens / generated.seconds[0][0], generated)

    def limit(self, demand: Demand, limits: Limits) -> float:
        """The most tokens a second the machine allows."""
        return self.num_tokens / demand.seconds(limits, self.num_tokens, 1)


@dataclass(frozen=True, slots=True)
class Decode:
    """How fast several streams together get tokens, `num_tokens` each."""

    num_streams: int
    num_tokens: int

    @property
    def name(self) -> str:
        return f"decode, {self.num_streams} stream" + ("s" if self.num_streams > 1 else "")

    def ask(self, worker: Worker, turn: int) -> Answer:
        """All streams together, from short prompts of their own."""
        generated = worker.ask(_prompts(self.num_streams, STREAM_PROMPT_TOKENS, turn), self.num_tokens)
        return Answer.of(decode_rate(generated), generated)

    def limit(self, demand: Demand, limits: Limits) -> float:
        """The most tokens a second the machine allows."""
        return self.num_streams / demand.seconds(limits, 1, self.num_streams)


Question = Prefill | Decode


def decode_rate(generated: Generated) -> float:
    """Tokens a second of all streams together: the sum of their own rates, while none has yet to begin or has ended.

    Raises:
        ValueError: there is no such time; the streams need more tokens.
    """
    start = max(seconds[0] for seconds in generated.seconds)
    end = min(seconds[-1] for seconds in generated.seconds)
    rate = 0.0
    for seconds in generated.seconds:
        moments = [moment for moment in seconds if start <= moment <= end]
        if len(moments) < 2:
            raise ValueError("some streams had ended before others began: decode more tokens")
        rate += (len(moments) - 1) / (moments[-1] - moments[0])
    return rate


def alternate(
    ours: Worker, theirs: Worker, question: Question, num_pairs: int, together: bool
) -> Iterator[tuple[Answer, Answer]]:
    """Pairs of our answer and theirs, each subject asked once before it counts.

    Unless both fit in memory `together`, each is ended before the other starts, which takes a load for every answer.
    """
    for turn in range(num_pairs + 1):
        answers = []
        for worker, other in ((ours, theirs), (theirs, ours)):
            if not together:
                other.close()
            if not worker.is_running:
                question.ask(worker, -1)
            answers.append(question.ask(worker, turn))
        if turn:
            yield answers[0], answers[1]


def agreement(pairs: Sequence[tuple[Answer, Answer]]) -> float:
    """The share of first tokens that are the same."""
    same = [a == b for ours, theirs in pairs for a, b in zip(ours.first_ids, theirs.first_ids, strict=True)]
    return sum(same) / len(same)


def _prompts(num_streams: int, num_tokens: int, turn: int) -> list[list[int]]:
    draw = random.Random(f"{num_streams} {num_tokens} {turn}")
    return [[draw.randint(FIRST_ID, LAST_ID) for _ in range(num_tokens)] for _ in range(num_streams)]
