"""Vocabulary, template and sampling values out of a GGUF file: the same ids and defaults as from the model's folder."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import LoadError
from server.chat.gguf_files import read_gguf_files
from server.chat.model_files import GenerationDefaults, ModelFiles
from server.chat.tokenizer import Tokenizer
from server.model import default_names, read_files
from tests.support.gguf_files import vocabulary, with_one_merge, write
from tests.support.refusals import refused
from tests.support.tiny_text_model import TEMPLATE, tokenizer_json

CHAT = Path(__file__).parents[1] / "chat"
GOLDEN = json.loads((CHAT / "data" / "golden_tokens.json").read_text(encoding="utf-8"))["cases"]
OWN_TEMPLATE = Path(__file__).parents[3] / "engine" / "nano" / "chat_template.jinja"
PIECES = st.sampled_from(
    [
        "<tool_call>",
        "<|fim_prefix|>",
        "<|im_end|>",
        "<|repo_name|>",
        "[PAD151700]",
        "it's",
        "１2",
        "e\u0301",
        "\r\n",
        " ",
    ]
)
TEXTS = st.lists(st.one_of(PIECES, st.text(max_size=12)), max_size=8).map("".join)


@pytest.fixture(scope="module")
def real(real_vocabulary: Path) -> ModelFiles:
    return read_gguf_files(real_vocabulary)


@pytest.fixture(scope="module")
def ours(real: ModelFiles) -> Tokenizer:
    return Tokenizer(real.tokenizer)


@pytest.fixture(scope="module")
def theirs(real_tokenizer_json: str) -> Tokenizer:
    return Tokenizer(tokenizers.Tokenizer.from_str(real_tokenizer_json))


@pytest.mark.parametrize("case", GOLDEN, ids=[str(index) for index in range(len(GOLDEN))])
def test_golden_ids(ours: Tokenizer, case: dict[str, Any]) -> None:
    assert ours.encode(case["text"], parse_special=True) == case["ids"]


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXTS, st.booleans())
def test_the_same_ids_as_the_folders(ours: Tokenizer, theirs: Tokenizer, text: str, parse_special: bool) -> None:
    ids = theirs.encode(text, parse_special=parse_special)
    assert ours.encode(text, parse_special=parse_special) == ids
    for skip in (False, True):
        assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)


def test_the_same_tokens_as_the_folders(real: ModelFiles, real_tokenizer_json: str, ours: Tokenizer) -> None:
    mine, their = json.loads(real.tokenizer.to_str()), json.loads(real_tokenizer_json)
    added = {token["content"]: token["id"] for token in their["added_tokens"]}
    assert mine["model"].pop("vocab") == their["model"].pop("vocab") | added  # why: see the tokenizer's module
    assert mine.pop("decoder")["type"] == their.pop("decoder")["type"]  # what else it has is for pre-tokenizing
    assert mine == their
    assert (ours.vocab_size, ours.max_id) == (151_669, 151_668)
    assert len(ours.special_tokens) == 14


def test_named_tokens_and_end(real: ModelFiles) -> None:
    assert (real.eos_token, real.pad_token, real.bos_token) == ("<|im_end|>", "<|endoftext|>", None)
    assert real.generation_defaults == GenerationDefaults(eos_token_ids=(151645, 151643))


TINY = vocabulary(with_one_merge(tokenizer_json()), 270)


def _files(folder: Path, changes: dict[str, Any] | None = None, without: tuple[str, ...] = ()) -> ModelFiles:
    """A tiny model's texts."""
    keys = TINY | (changes or {})
    write(folder / "m.gguf", {}, {key: value for key, value in keys.items() if key not in without})
    return read_files(folder / "m.gguf")


def test_sampling_values(tmp_path: Path) -> None:
    sampling = {"temp": 0.7, "top_p": 0.8, "top_k": 20, "min_p": 0.05, "penalty_repeat": 1.05}
    files = _files(tmp_path, {f"general.sampling.{name}": value for name, value in sampling.items()})
    assert files.generation_defaults == GenerationDefaults(
        temperature=0.7, top_p=0.8, top_k=20, min_p=0.05, repetition_penalty=1.05, eos_token_ids=(258, 256)
    )
    assert _files(tmp_path, {"general.sampling.top_k": -1}).generation_defaults.top_k == 0


@pytest.mark.parametrize("template", [None, "{{ messages }} <tool_call>\n<function=", '<tool_call>{"name": '])
def test_templates(tmp_path: Path, template: str | None) -> None:
    """Qwen3-Coder's is always ours, also where there is none; another model of the family has its own."""
    files = _files(tmp_path, {} if template is None else {"tokenizer.chat_template": template})
    is_another_models = template is not None and "<function=" not in template
    assert files.chat_template == (template if is_another_models else OWN_TEMPLATE.read_text(encoding="utf-8"))


def test_ids_with_gaps_keep_their_tokens(tmp_path: Path) -> None:
    tokens, types = list(TINY["tokenizer.ggml.tokens"]), list(TINY["tokenizer.ggml.token_type"])
    for old, new in ((257, 268), (266, 269)):  # <|im_start|>, </tool_call>
        tokens[old], tokens[new] = tokens[new], tokens[old]
        types[old], types[new] = types[new], types[old]
    files = _files(tmp_path, {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types})
    tokenizer = Tokenizer(files.tokenizer)
    assert tokenizer.encode("<|im_start|></tool_call>", parse_special=True) == [268, 269]
    assert tokenizer.max_id == 269
    assert files.tokenizer.id_to_token(257) is None


REFUSED: dict[str, tuple[dict[str, Any], tuple[str, ...], str]] = {
    "another model": (
        {"tokenizer.ggml.model": "llama"},
        (),
        "tokenizer.ggml.model is 'llama'; deltaloop serves 'gpt2'",
    ),
    "other words": ({"tokenizer.ggml.pre": "qwen35"}, (), "tokenizer.ggml.pre is 'qwen35'; deltaloop serves 'qwen2'"),
    "words unsaid": ({}, ("tokenizer.ggml.pre",), "tokenizer.ggml.pre is None"),
    "no tokens": ({}, ("tokenizer.ggml.tokens",), "lacks the key tokenizer.ggml.tokens"),
    "no types": ({}, ("tokenizer.ggml.token_type",), "lacks the key tokenizer.ggml.token_type"),
    "no merges": ({}, ("tokenizer.ggml.merges",), "lacks the key tokenizer.ggml.merges"),
    "too few types": ({"tokenizer.ggml.token_type": [1, 1]}, (), "token_type does not fit the tokens"),
    "unknown type": ({"tokenizer.ggml.token_type": [9] * 270}, (), "token_type does not fit the tokens"),
    "token twice": ({"tokenizer.ggml.tokens": ["!"] * 270}, (), "has a token twice"),
    "merge of three": (
        {"tokenizer.ggml.merges": ["a b c"]},
        (),
        "not two tokens that make a third (Error while initializing BPE: Token `b c` out of vocabulary)",
    ),
    "merge to nothing": (
        {"tokenizer.ggml.merges": ["a c"]},
        (),
        "not two tokens that make a third (Error while initializing BPE: Token `ac` out of vocabulary)",
    ),
    "no such end": ({"tokenizer.ggml.eos_token_id": 999}, (), "eos_token_id is 999, which is no token"),
    "negative end": ({"tokenizer.ggml.eos_token_id": -1}, (), "eos_token_id is -1, which is no token"),
    "hot": ({"general.sampling.temp": -1.0}, (), "temperature is -1.0"),
    "not text": ({"tokenizer.chat_template": 5}, (), "tokenizer.chat_template should be text"),
    "another architecture": ({"general.type": "mmproj"}, (), "holds no model, its type is 'mmproj'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(name: str, tmp_path: Path) -> None:
    changes, without, message = REFUSED[name]
    with refused(tmp_path / "m.gguf", re.escape(message)):
        _files(tmp_path, changes, without)


def test_a_folder_of_gguf_files_asks_which(tmp_path: Path) -> None:
    (tmp_path / "b.gguf").touch()
    (tmp_path / "a.gguf").touch()
    with pytest.raises(LoadError, match=r"holds GGUF files: give the one you want, .*/a\.gguf for example"):
        read_files(tmp_path)


def test_names_of_files() -> None:
    assert default_names(Path("/m/Qwen3-Coder-Next-Q4_K_M.gguf")) == ("Qwen3-Coder-Next-Q4_K_M",)
    assert default_names(Path("/m/Qwen3-Coder-Next-BF16-00001-of-00004.gguf")) == ("Qwen3-Coder-Next-BF16",)
    assert default_names(Path("/m/next.gguf")) == ("qwen3-coder-next", "next")


def test_the_tiny_template_is_another_models() -> None:
    assert "<function=" not in TEMPLATE
