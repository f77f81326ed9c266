"""Fill in the middle: the model's own marks around two texts."""

from itertools import pairwise

import pytest
import tokenizers

from server.chat.fim import fill_in_the_middle
from server.chat.tokenizer import Tokenizer
from tests.support.tiny_text_model import SPECIALS, tiny_model

TOKENIZER = tiny_model().tokenizer


def test_the_prompt() -> None:
    fim = fill_in_the_middle(TOKENIZER)
    assert fim is not None
    written = TOKENIZER.encode("<|fim_prefix|>def f(<|fim_suffix|>)<|fim_middle|>", parse_special=True)
    assert fim.prompt_ids("def f(", ")") == (written, [])


def test_other_files_and_the_line_that_is_typed() -> None:
    """What the client sends again with the next keystroke ends at a boundary, file by file."""
    fim = fill_in_the_middle(TOKENIZER)
    assert fim is not None
    ids, ends = fim.prompt_ids("import a\n", "\nf()", "def f(", [("a.py", "x = 1"), ("b.py", "y = 2\n")])
    parts = (
        "<|repo_name|>repository\n<|file_sep|>a.py\nx = 1\n",
        "<|file_sep|>b.py\ny = 2\n",
        "<|file_sep|>file\n<|fim_prefix|>import a\n",
        "def f(<|fim_suffix|>\nf()<|fim_middle|>",
    )
    texts = [TOKENIZER.decode(ids[start:end], skip_special_tokens=False) for start, end in pairwise([0, *ends, None])]
    assert texts == list(parts)


@pytest.mark.parametrize(("prefix", "line", "num_ends"), [("a", "", 1), ("", "a", 0), ("a", "b", 1)])
def test_no_boundary_where_there_is_nothing_to_keep(prefix: str, line: str, num_ends: int) -> None:
    fim = fill_in_the_middle(TOKENIZER)
    assert fim is not None
    assert len(fim.prompt_ids(prefix, "c", line)[1]) == num_ends


def test_of_a_prefix_alone_the_last_line_is_the_one_that_is_typed() -> None:
    fim = fill_in_the_middle(TOKENIZER)
    assert fim is not None
    assert fim.prompt_ids("a\nb\nc", "d") == fim.prompt_ids("a\nb\n", "d", "c")
    assert fim.prompt_ids("a\n", "d") == fim.prompt_ids("a\n", "d", "")
    assert fim.prompt_ids("a", "d") == fim.prompt_ids("", "d", "a")


def test_control_tokens_in_the_texts_stay_text() -> None:
    fim = fill_in_the_middle(TOKENIZER)
    assert fim is not None
    files = [("<|fim_suffix|>", "<|file_sep|>"), ("a<|repo_name|>", "<|endoftext|>")]
    ids, _ = fim.prompt_ids("a<|im_end|>", "<|fim_middle|>b", "<|fim_prefix|>", files)
    specials = [token_id for token_id in ids if TOKENIZER.is_special(token_id)]
    context = [fim.repository_id, fim.file_id, fim.file_id, fim.file_id]
    assert specials == [*context, fim.prefix_id, fim.suffix_id, fim.middle_id]


def test_it_ends_with_every_control_token_there_is() -> None:
    fim = fill_in_the_middle(TOKENIZER)
    assert fim is not None
    assert set(fim.stop_ids) == {TOKENIZER.token_to_id(text) for text in SPECIALS}


def test_a_vocabulary_without_the_marks() -> None:
    plain = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={"a": 0}, merges=[]))
    plain.decoder = tokenizers.decoders.ByteLevel()
    assert fill_in_the_middle(Tokenizer(plain)) is None
