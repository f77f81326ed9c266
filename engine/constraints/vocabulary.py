"""`TokenTable`: the vocabulary as the grammar library wants it. It takes a second, so it is made late."""

from collections.abc import Callable, Sequence
from threading import Lock

from llguidance import LLTokenizer, TokenizerWrapper

from engine.types import Vocabulary

# Sets of tokens that a mask takes as a whole where the grammar admits any of their texts: inside JSON strings, and
# inside a call's text, where everything goes but a line that ends it.
SLICES = (
    r"[\x20\x0A\x0D\x09]+",
    r'[^"\\\x00-\x1F\x7F]{1,10}',
    r'[^"\\\x00-\x1F\x7F]{1,30}',
    r'[^"\\\x00-\x1F\x7F]+',
    r"[^\n]+",
)


class TokenTable:
    """A vocabulary, read when it is first needed. May be used from several threads."""

    def __init__(self, vocabulary: Callable[[], Vocabulary], eos_token_ids: tuple[int, ...]) -> None:
        self._read = vocabulary
        self._eos_token_ids = eos_token_ids
        self._lock = Lock()
        self._inner: LLTokenizer | None = None
        self._tokens: Sequence[bytes] = ()

    @property
    def inner(self) -> LLTokenizer:
        """The library's own form of it."""
        with self._lock:
            if self._inner is None:
                vocabulary = self._read()
                self._tokens = vocabulary.tokens
                source = TokenizerWrapper(_Source(vocabulary, self._eos_token_ids[0]))
                self._inner = LLTokenizer(source, len(self._tokens), list(self._eos_token_ids), list(SLICES))
            return self._inner

    def bytes_of(self, token_id: int) -> bytes:
        """What a token stands for, once the table was read."""
        return self._tokens[token_id] if token_id < len(self._tokens) else b""


class _Source:
    """The vocabulary under the names that the library reads. What a grammar forces goes as the model would write it."""

    def __init__(self, vocabulary: Vocabulary, eos_token_id: int) -> None:
        self.tokens = list(vocabulary.tokens)
        self.special_token_ids = list(vocabulary.special_ids)
        self.eos_token_id = eos_token_id
        self.bos_token_id = None
        self._encode = vocabulary.encode

    def __call__(self, text: str | bytes) -> list[int]:
        if isinstance(text, bytes):
            raise TypeError("texts only")  # the library asks whether bytes would do
        return list(self._encode(text))
