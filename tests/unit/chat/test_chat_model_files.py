"""Reading a model's folder: every place a template can be, the defaults, and one clear line for what is broken."""

import json
from pathlib import Path
from typing import Any

import pytest

from engine.errors import LoadError
from server.chat.model_files import GenerationDefaults, read_model_files
from tests.support.tiny_text_model import tokenizer_json

TOKENIZER = json.loads(tokenizer_json())


def write(folder: Path, **files: Any) -> Path:
    files = {"tokenizer": TOKENIZER, **files}
    for name, content in files.items():
        if content is not None:
            (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_reads_a_whole_folder(tmp_path: Path) -> None:
    write(
        tmp_path,
        tokenizer_config={
            "eos_token": "<|im_end|>",
            "pad_token": {"content": "<|endoftext|>", "special": True},
            "bos_token": None,
        },
        generation_config={
            "do_sample": True,
            "temperature": 1.0,
            "top_p": 0.95,
            "top_k": 40,
            "eos_token_id": [151645, 151643],
            "max_new_tokens": 4096,
        },
    )
    (tmp_path / "chat_template.jinja").write_text("{{ messages }} é", encoding="utf-8")

    files = read_model_files(tmp_path)

    assert json.loads(files.tokenizer.to_str()) == TOKENIZER
    assert files.chat_template == "{{ messages }} é"
    assert (files.eos_token, files.pad_token, files.bos_token) == ("<|im_end|>", "<|endoftext|>", None)
    assert files.generation_defaults == GenerationDefaults(
        temperature=1.0, top_k=40, top_p=0.95, max_new_tokens=4096, eos_token_ids=(151645, 151643)
    )


def test_a_tokenizer_alone_is_enough(tmp_path: Path) -> None:
    files = read_model_files(write(tmp_path))
    assert files.chat_template is None
    assert files.generation_defaults == GenerationDefaults()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"tokenizer_config": {"chat_template": "A"}}, "A"),
        ({"tokenizer_config": {"chat_template": "A"}, "chat_template": {"chat_template": "B"}}, "B"),
        (
            {
                "tokenizer_config": {
                    "chat_template": [{"name": "rag", "template": "R"}, {"name": "default", "template": "D"}]
                }
            },
            "D",
        ),
        ({"tokenizer_config": {"chat_template": [{"name": "rag", "template": "R"}]}}, None),
        ({"tokenizer_config": {"chat_template": None}}, None),
    ],
)
def test_finds_the_chat_template(tmp_path: Path, files: dict[str, Any], expected: str | None) -> None:
    assert read_model_files(write(tmp_path, **files)).chat_template == expected


def test_the_templates_own_file_comes_first(tmp_path: Path) -> None:
    write(tmp_path, chat_template={"chat_template": "old"}, tokenizer_config={"chat_template": "older"})
    (tmp_path / "chat_template.jinja").write_text("new", encoding="utf-8")
    assert read_model_files(tmp_path).chat_template == "new"


def test_greedy_models_default_to_temperature_zero(tmp_path: Path) -> None:
    write(tmp_path, generation_config={"do_sample": False, "temperature": 0.7, "top_k": -1})
    defaults = read_model_files(tmp_path).generation_defaults
    assert (defaults.temperature, defaults.top_k) == (0.0, 0)


def test_end_tokens_may_be_named_in_the_config_only(tmp_path: Path) -> None:
    write(tmp_path, config={"eos_token_id": 7}, generation_config={"temperature": None})
    assert read_model_files(tmp_path).generation_defaults.eos_token_ids == (7,)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"tokenizer": None}, "has no tokenizer.json"),
        ({"tokenizer": {}}, "tokenizer.json defines no tokenizer"),
        ({"generation_config": {"top_p": "0.9"}}, r"generation_config.json: top_p is '0.9'"),
        ({"generation_config": {"top_p": 7}}, r"generation_config.json: top_p is 7"),
        ({"generation_config": {"max_new_tokens": 0}}, r"generation_config.json: max_new_tokens is 0"),
        ({"generation_config": {"eos_token_id": ["<|im_end|>"]}}, "eos_token_id"),
        ({"generation_config": [1]}, "does not hold a JSON object"),
        ({"tokenizer_config": {"chat_template": 5}}, "chat template .* is not text"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, files: dict[str, Any], says: str) -> None:
    with pytest.raises(LoadError, match=says) as caught:
        read_model_files(write(tmp_path, **files))
    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="is not a folder"):
        read_model_files(tmp_path / "nowhere")


def test_unreadable_text_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "tokenizer_config.json").write_bytes(b"{")
    with pytest.raises(LoadError, match=r"tokenizer_config.json is not valid JSON"):
        read_model_files(tmp_path)
    (tmp_path / "tokenizer_config.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(LoadError, match=r"tokenizer_config.json cannot be read"):
        read_model_files(tmp_path)
