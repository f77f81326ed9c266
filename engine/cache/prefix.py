"""`Lineage`: a sequence's tokens, and names of their prefixes that are equal only where all tokens are."""

from array import array
from collections.abc import Iterable, Sequence
from hashlib import blake2b

from engine.filing import KEY_BYTES


class Lineage:
    """Tokens, which only ever grow, and the names of their prefixes of whole blocks: each a hash of the one before and
    a block's tokens.

    `salt` keeps apart what must not meet, and is part of every name. `session` is the client's name for the
    conversation.
    """

    def __init__(
        self,
        tokens: Sequence[int],
        block_size: int,
        salt: str = "",
        session: str | None = None,
        keys: Iterable[bytes] = (),
    ) -> None:
        """`keys` are the names of the first 0, 1, … blocks, where they are known."""
        self.tokens = tokens
        self.salt = salt
        self.session = session
        self._block_size = block_size
        self._keys = list(keys) or [blake2b(salt.encode(), digest_size=KEY_BYTES).digest()]

    def key(self, num_blocks: int) -> bytes:
        """The name of the first `num_blocks` blocks."""
        size, keys = self._block_size, self._keys
        while len(keys) <= num_blocks:
            start = (len(keys) - 1) * size
            block = array("I", self.tokens[start : start + size]).tobytes()
            keys.append(blake2b(keys[-1] + block, digest_size=KEY_BYTES).digest())
        return keys[num_blocks]

    def keys_up_to(self, num_blocks: int) -> list[bytes]:
        """The names of the first 0, 1, … `num_blocks` blocks."""
        self.key(num_blocks)
        return self._keys[: num_blocks + 1]

    def cut(self, num_tokens: int) -> "Lineage":
        """The first tokens alone, in little memory."""
        keys = self.keys_up_to(num_tokens // self._block_size)
        return Lineage(array("I", self.tokens[:num_tokens]), self._block_size, self.salt, self.session, keys)

    def num_common_tokens(self, other: "Lineage") -> int:
        """How many tokens both have in common from the start; 0 under different salts."""
        size = self._block_size
        low, high = -1, min(len(self.tokens), len(other.tokens)) // size
        while low < high:  # the last block count whose names are equal
            middle = (low + high + 1) // 2
            if self.key(middle) == other.key(middle):
                low = middle
            else:
                high = middle - 1
        if low < 0:
            return 0
        common = low * size
        for mine, theirs in zip(
            self.tokens[common : common + size], other.tokens[common : common + size], strict=False
        ):
            if mine != theirs:
                break
            common += 1
        return common

    def is_beginning_of(self, other: "Lineage") -> bool:
        """Whether the other goes on from all of these tokens, under the same salt."""
        return len(other.tokens) >= len(self.tokens) == self.num_common_tokens(other)
