"""Text to token ids and back, with the model's own tokenizer.

Lives here: which texts become control tokens, and the reuse of what was encoded before. It may not know requests,
templates beyond the `RenderedPrompt` they make, or how ids are generated.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

import tokenizers

from engine.errors import LoadError
from engine.types import Vocabulary
from server.chat.piece_cache import PieceCache
from server.chat.template import RenderedPrompt

DEFAULT_CACHE_BYTES = 64 * 2**20  # about ten million tokens of recent messages
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_NO_BYTE = 0xFFFF


class Tokenizer:
    """A byte-level BPE tokenizer; `LoadError` for a library's one of another kind.

    Two kinds of added tokens: *special* ones (`<|im_end|>`) steer the model, and text becomes one only where we say so;
    the others (`<tool_call>`, the fill-in-the-middle marks) are single tokens wherever they are written.

    All methods may be called from several threads.
    """

    def __init__(self, inner: tokenizers.Tokenizer, cache_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        if not isinstance(inner.decoder, tokenizers.decoders.ByteLevel):
            raise LoadError("tokenizer.json is not a byte-level BPE tokenizer, the only kind that can be served")
        inner.no_padding()
        inner.no_truncation()
        inner.encode_special_tokens = True  # "encode them as text": control tokens are cut out before, in `encode`
        self._inner = inner
        added = inner.get_added_tokens_decoder()
        self._added_ids = {token.content: token_id for token_id, token in added.items()}
        self._special_ids = {token.content: token_id for token_id, token in added.items() if token.special}
        self._added = frozenset(added)
        self._specials = frozenset(self._special_ids.values())
        self._special_pattern = _any_of(self._special_ids)
        self._bytes_by_id = _bytes_by_id(inner.get_vocab(with_added_tokens=True), self._added_ids)
        self._max_id = max(self._bytes_by_id, default=-1)
        self._cache = PieceCache(cache_bytes)

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """The texts of the control tokens."""
        return tuple(self._special_ids)

    @property
    def vocab_size(self) -> int:
        """How many ids are in use. The model's output may have more rows than that; those mean nothing."""
        return len(self._bytes_by_id)

    @property
    def max_id(self) -> int:
        """The largest id in use."""
        return self._max_id

    def vocabulary(self) -> Vocabulary:
        """What each id stands for."""
        tokens = [self.token_bytes(i) for i in range(self._max_id + 1)]
        return Vocabulary(tokens, sorted(self._specials), partial(self.encode, parse_special=False))

    def encode(self, text: str, *, parse_special: bool) -> list[int]:
        """The ids of `text`. Control tokens written in it become such with `parse_special`, else stay plain text.

        Half of a surrogate pair, which JSON can carry but UTF-8 cannot, counts as U+FFFD.
        """
        if not parse_special or self._special_pattern is None:
            return self._encode_plain(text)
        ids: list[int] = []
        end = 0
        for found in self._special_pattern.finditer(text):
            ids += self._encode_plain(text[end : found.start()])
            ids.append(self._special_ids[found.group()])
            end = found.end()
        return ids + self._encode_plain(text[end:])

    def encode_prompt(
        self, rendered: RenderedPrompt, replay: Callable[[str, Sequence[int]], Sequence[int] | None] | None = None
    ) -> tuple[list[int], list[int]]:
        """The ids of a prompt, control tokens exactly where the template wrote them, and where its messages end.

        Every message begins with the control token that the prompt begins with: one ends before the next of these.

        Text is never merged across a control token, so each stretch between two of them (a message, in effect) is
        encoded by itself and remembered: a conversation that grew by a turn costs only that turn. `replay` is shown
        each stretch and the ids before it, and may know better ids.
        """
        ids: list[int] = []
        boundaries: list[int] = []
        first = None
        for text, is_control in rendered.pieces():
            if not is_control:
                known = replay(text, ids) if replay is not None else None
                ids += self._encode_remembered(text) if known is None else known
                continue
            if text == first:
                boundaries.append(len(ids))
            first = first or text
            ids.append(self._special_ids[text])
        return ids, boundaries

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of `ids`; bytes that are no UTF-8 become U+FFFD, ids that mean nothing are left out."""
        return self.join_bytes(ids, skip_special_tokens).decode("utf-8", errors="replace")

    def join_bytes(self, ids: Iterable[int], skip_special_tokens: bool) -> bytes:
        """The bytes of `ids`, which may begin and end inside a character."""
        skipped = self._specials if skip_special_tokens else frozenset()
        bytes_of = self._bytes_by_id.get
        return b"".join([bytes_of(token_id, b"") for token_id in ids if token_id not in skipped])

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes the token stands for; none for an id not in use."""
        return self._bytes_by_id.get(token_id, b"")

    def id_to_text(self, token_id: int) -> str:
        """The token alone as text, control tokens included; U+FFFD for what is only part of a character."""
        return self.token_bytes(token_id).decode("utf-8", errors="replace")

    def token_to_id(self, text: str) -> int | None:
        """The id of the added token written `text`, or of the ordinary token that stands for exactly `text`."""
        if text in self._added_ids:
            return self._added_ids[text]
        ids = self.encode(text, parse_special=False)
        return ids[0] if len(ids) == 1 and self.id_to_text(ids[0]) == text else None

    def is_special(self, token_id: int) -> bool:
        """Whether the token steers the model and is not for printing."""
        return token_id in self._specials

    def is_added(self, token_id: int) -> bool:
        """Whether the token stands beside the ordinary vocabulary: the special ones and marks such as `<tool_call>`."""
        return token_id in self._added

    def _encode_remembered(self, text: str) -> Iterable[int]:
        ids = self._cache.get(text)
        if ids is None:
            ids = self._encode_plain(text)
            self._cache.put(text, ids)
        return ids

    def _encode_plain(self, text: str) -> list[int]:
        if not text:
            return []
        # The batch call lets go of the interpreter lock, the single one does not.
        batch = self._inner.encode_batch_fast([_LONE_SURROGATE.sub("\ufffd", text)], add_special_tokens=False)
        return batch[0].ids


def _any_of(texts: Iterable[str]) -> re.Pattern[str] | None:
    """Matches any of the texts, the longest where several begin together; None for no texts."""
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None


def _bytes_by_id(vocab: Mapping[str, int], added_ids: Mapping[str, int]) -> dict[int, bytes]:
    """All ordinary tokens are translated as one text, then cut apart again: one by one takes three times as long."""
    table = {token_id: token.encode("utf-8") for token, token_id in added_ids.items()}
    ordinary = [token for token in vocab if token not in added_ids]
    byte_of = dict.fromkeys(range(256), _NO_BYTE) | {ord(character): byte for byte, character in _byte_alphabet()}
    try:
        joined = "".join(ordinary).translate(byte_of).encode("latin-1")
    except UnicodeEncodeError as error:
        raise LoadError("the vocabulary has tokens that are not in the byte-level alphabet") from error
    start = 0
    for token in ordinary:
        end = start + len(token)
        table[vocab[token]] = joined[start:end]
        start = end
    return table


def _byte_alphabet() -> Iterator[tuple[int, str]]:
    """How byte-level BPE writes a byte in its vocabulary: as itself if it prints in Latin-1, else from U+0100 on."""
    num_moved = 0
    for byte in range(256):
        if 0x21 <= byte <= 0x7E or 0xA1 <= byte <= 0xAC or 0xAE <= byte <= 0xFF:
            yield byte, chr(byte)
        else:
            yield byte, chr(0x100 + num_moved)
            num_moved += 1
