"""One compute thread, and a tiny model in both forms."""

import json
from pathlib import Path

import pytest

from benchmarks.slice_to_gguf import convert
from tests.support import checkpoints
from tests.support.threads import one_thread
from tests.support.tiny_text_model import TEMPLATE, tokenizer_json

__all__ = ["one_thread"]

CONFIG = checkpoints.CONFIG | {"vocab_size": 290, "hidden_size": 32, "moe_intermediate_size": 32}
TENSORS = {name: tensor.bfloat16() for name, tensor in checkpoints.random_tensors(CONFIG).items()}


@pytest.fixture(scope="session")
def hub_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = checkpoints.write(tmp_path_factory.mktemp("hub"), TENSORS, CONFIG | {"torch_dtype": "bfloat16"})
    tokenizer = json.loads(tokenizer_json())
    tokenizer["model"]["merges"] = [["a", "b"]]  # the writer takes no empty lists
    tokenizer["model"]["vocab"]["ab"] = 280
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return folder


@pytest.fixture(scope="session")
def gguf_file(hub_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny-BF16.gguf"
    convert(hub_folder, path)
    return path
