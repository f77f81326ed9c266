"""Answers that fit a grammar, drawn without a model: any token that the mask admits, ends more often than others."""

from collections.abc import Sequence
from random import Random

from engine.constraints.constraints import Constraints
from engine.types import Constraint, Vocabulary

ENDS = ("\n</parameter>", "</function>", "</tool_call>", '"', "]", "}", "\n", "e", " ")
PIECES = (
    *ENDS,
    *("<tool_call>", "<function=", "\n<parameter=", "</parameter>", "\r\n", "\t", "null", "true", "5", '{"', '": '),
    *("ü", "名", "🙂", "text", "</", "\\n", "\\u00", "1e9", "-", "['a']", "None", "\x0b", "\u2028"),
)
EOS = 0


def vocabulary() -> Vocabulary:
    """The end, every byte, and some pieces that grammars and values are made of."""
    tokens = [b"<|end|>", *(bytes([byte]) for byte in range(256)), *(piece.encode() for piece in PIECES)]
    known = {token: token_id for token_id, token in enumerate(tokens)}

    def encode(text: str) -> list[int]:
        return [known[bytes([byte])] for byte in text.encode("utf-8", "replace")]

    return Vocabulary(tokens, [EOS], encode)


TOKENS: Sequence[bytes] = vocabulary().tokens
_END_IDS = frozenset([EOS, *(TOKENS.index(piece.encode(), 1) for piece in ENDS)])


def walk(constraints: Constraints, constraint: Constraint, rng: Random, most_tokens: int = 600) -> str | None:
    """The text of an answer; None for one that had not ended after so many tokens."""
    constraints.open(0, constraint)
    generated: list[int] = []
    try:
        for _ in range(most_tokens):
            constraints.begin_mask(0, generated, 0)
            mask = constraints.mask(0)
            assert mask is not None
            allowed = [i for i in range(len(TOKENS)) if mask.bits[i // 8] >> i % 8 & 1]
            assert allowed, b"".join(TOKENS[i] for i in generated)
            ends = [i for i in allowed if i in _END_IDS]
            token_id = rng.choice(ends if ends and rng.random() < 0.4 else allowed)
            if token_id == EOS:
                return b"".join(TOKENS[i] for i in generated).decode("utf-8", "replace")
            generated.append(token_id)
    finally:
        constraints.close(0)
    return None
