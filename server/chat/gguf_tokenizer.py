"""A GGUF file's vocabulary as the tokenizer it was once made from.

A file names its kind of tokenizer in two words, "gpt2" (byte-level BPE) and "qwen2" (how text is cut into words); what
these mean stands here. Knows the metadata's keys for tokens; nothing of templates or weights.
"""

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from engine import GgufMetadata
from engine.errors import LoadError

MODEL, WORDS = "gpt2", "qwen2"
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5

# Files call every `<|…|>` a control token. These are not for steering a conversation: they count wherever they stand.
_MARKS = frozenset(
    {"<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"}
)
_QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def gguf_tokenizer(metadata: GgufMetadata) -> Tokenizer:
    """The tokenizer. Raises `LoadError` for another kind, or where something does not fit."""
    for key, served in (("tokenizer.ggml.model", MODEL), ("tokenizer.ggml.pre", WORDS)):
        if metadata.text(key) != served:
            raise LoadError(f"{metadata.path}: {key} is {metadata.text(key)!r}; deltaloop serves {served!r} only")
    vocab, added = _vocabulary(metadata)
    tokenizer = Tokenizer(_model(metadata, vocab))
    tokenizer.normalizer = normalizers.NFC()
    words = pre_tokenizers.Split(Regex(_QWEN2_WORDS), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)]
    )
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens(added)
    return tokenizer


def _vocabulary(metadata: GgufMetadata) -> tuple[dict[str, int], list[AddedToken]]:
    """All tokens in use with their ids, and those that stand beside the ordinary ones.

    The latter are in both: the library would else number them itself, and a file's ids may have gaps.
    """
    tokens = metadata.texts("tokenizer.ggml.tokens")
    if tokens is None:
        raise metadata.lacks("tokenizer.ggml.tokens")
    types = metadata.integers("tokenizer.ggml.token_type")
    if types is None:
        raise metadata.lacks("tokenizer.ggml.token_type")
    if len(types) != len(tokens) or not {NORMAL, CONTROL, USER_DEFINED, UNUSED}.issuperset(types):
        raise LoadError(f"{metadata.path}: tokenizer.ggml.token_type does not fit the tokens; download the file again")
    used = [i for i, kind in enumerate(types) if kind != UNUSED]
    vocab = {tokens[i]: i for i in used}
    if len(vocab) != len(used):
        raise LoadError(f"{metadata.path}: tokenizer.ggml.tokens has a token twice; download the file again")
    added = [
        AddedToken(tokens[i], normalized=False, special=types[i] == CONTROL and tokens[i] not in _MARKS)
        for i in used
        if types[i] != NORMAL
    ]
    return vocab, added


def _model(metadata: GgufMetadata, vocab: dict[str, int]) -> models.BPE:
    """Merges are pairs of tokens that become one, the first before the others. No token has a space in it."""
    merges = metadata.texts("tokenizer.ggml.merges")
    if merges is None:
        raise metadata.lacks("tokenizer.ggml.merges")
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    try:
        return models.BPE(vocab, pairs, continuing_subword_prefix="", end_of_word_suffix="")
    except Exception as error:  # the library raises nothing narrower
        raise LoadError(
            f"{metadata.path}: tokenizer.ggml.merges joins what are not two tokens that make a third ({error});"
            " download the file again"
        ) from error
