"""Names of token prefixes: equal names mean the same tokens, and the same salt, from the first one on."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

KEY_BYTES = 16


class PrefixKeys:
    """The names of a growing token list's prefixes of whole blocks: each a hash of the one before and a block's tokens.

    `salt` keeps apart what must not meet; it is part of every name.
    """

    def __init__(self, salt: str, block_size: int) -> None:
        self._block_size = block_size
        self._keys = [blake2b(salt.encode(), digest_size=KEY_BYTES).digest()]

    def key(self, tokens: Sequence[int], num_blocks: int) -> bytes:
        """The name of the first `num_blocks` blocks of `tokens`, which only ever grow."""
        size, keys = self._block_size, self._keys
        while len(keys) <= num_blocks:
            start = (len(keys) - 1) * size
            block = array("I", tokens[start : start + size]).tobytes()
            keys.append(blake2b(keys[-1] + block, digest_size=KEY_BYTES).digest())
        return keys[num_blocks]

    def up_to(self, tokens: Sequence[int], num_blocks: int) -> list[bytes]:
        """The names of its first 0, 1, … `num_blocks` blocks."""
        self.key(tokens, num_blocks)
        return self._keys[: num_blocks + 1]

    def num_common_tokens(self, tokens: Sequence[int], other: "PrefixKeys", other_tokens: Sequence[int]) -> int:
        """How many tokens two lists have in common from the start; 0 under different salts."""
        size = self._block_size
        low, high = -1, min(len(tokens), len(other_tokens)) // size
        while low < high:  # the last block count whose names are equal
            middle = (low + high + 1) // 2
            if self.key(tokens, middle) == other.key(other_tokens, middle):
                low = middle
            else:
                high = middle - 1
        if low < 0:
            return 0
        common = low * size
        for mine, theirs in zip(tokens[common : common + size], other_tokens[common : common + size], strict=False):
            if mine != theirs:
                break
            common += 1
        return common


@dataclass(frozen=True, slots=True)
class Lineage:
    """A sequence's tokens, the names of their prefixes under a salt, and its client's name for the conversation."""

    tokens: Sequence[int]
    keys: PrefixKeys
    salt: str = ""
    session: str | None = None

    def is_beginning_of(self, other: "Lineage") -> bool:
        """Whether the other goes on from all of these tokens, under the same salt."""
        num_tokens = len(self.tokens)
        if len(other.tokens) < num_tokens:
            return False
        return self.keys.num_common_tokens(self.tokens, other.keys, other.tokens) == num_tokens
