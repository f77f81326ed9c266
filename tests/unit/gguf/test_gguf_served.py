"""A GGUF file through the engine: the same answers as the folder it was made from."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType as Type

from engine import EngineConfig, load_engine
from engine.config import Packing
from engine.kernels.table import reference_kernels
from engine.loading import load_model
from engine.model.qwen3_next import Qwen3Next
from engine.quant.packing import can_pack
from engine.runner.packing import pack_mapped
from engine.types import GenerationRequest, SamplingParams
from engine.weights.checkpoint import open_checkpoint
from engine.weights.conversion import Conversion
from server.cli import engine_config
from server.model import default_names, read_files, served_model
from server.settings import Settings
from tests.support import checkpoints, gguf_files
from tests.support.checkpoints import CONFIG, random_tensors
from tests.support.engines import run
from tests.support.gguf_files import Layout, converted, in_one_type, metadata, vocabulary
from tests.support.tiny_text_model import tokenizer_json

WHOLE_BLOCKS = CONFIG | {
    "hidden_size": 64, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32, "linear_value_head_dim": 8,
}  # fmt: skip
BF16 = Conversion(torch.bfloat16, torch.device("cpu"))
TENSORS = {name: tensor.bfloat16() for name, tensor in random_tensors(CONFIG).items()}
REQUEST = GenerationRequest("r", (3, 1, 4, 1, 5, 9, 2, 6), SamplingParams(max_tokens=24, seed=1, ignore_eos=True))


def _answers(path: Path) -> Any:
    checkpoint = open_checkpoint(path)
    model = Qwen3Next.load(checkpoint.config, checkpoint.weights(BF16, lambda num_bytes: None), reference_kernels())
    return run(model, [(0, REQUEST)])["r"]


@pytest.mark.parametrize("old_projections", [False, True])
def test_the_folders_own_answers(tmp_path: Path, old_projections: bool) -> None:
    gguf_files.write(tmp_path / "m.gguf", converted(TENSORS, CONFIG, Layout(old_projections)), metadata(CONFIG))
    answers = _answers(tmp_path / "m.gguf")
    assert len(answers.token_ids) == 24
    assert answers == _answers(checkpoints.write(tmp_path / "hub", TENSORS, CONFIG))


def test_from_a_quantised_file_to_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `deltaloop serve` does it."""
    monkeypatch.setenv("DELTALOOP_KERNELS", "reference")
    config = CONFIG | {"hidden_size": 32, "vocab_size": 270, "moe_intermediate_size": 32}
    config |= {"shared_expert_intermediate_size": 32, "linear_value_head_dim": 8}
    texts = vocabulary(_tokenizer(), 270)
    path = tmp_path / "Tiny-Qwen-Coder-Q8_0.gguf"
    tensors = converted(random_tensors(config), config)
    gguf_files.write(path, tensors, metadata(config) | texts, in_one_type(Type.Q8_0))

    model = served_model(read_files(path), default_names(path))
    settings = Settings(model=path, threads=1, max_num_seqs=1, kv_cache_memory_bytes=2**20)
    engine = load_engine(engine_config(settings, path, model.tokenizer.max_id + 1))
    prompt = tuple(model.tokenizer.encode("<|im_start|>user\nHi", parse_special=True))
    request = GenerationRequest("r", prompt, SamplingParams(max_tokens=8, seed=1, ignore_eos=True))

    async def answer() -> list[int]:
        await engine.start()
        try:
            return [token_id async for output in engine.submit(request) for token_id in output.token_ids]
        finally:
            await engine.close()

    ids = asyncio.run(answer())
    assert model.names == ("Tiny-Qwen-Coder-Q8_0",)
    assert (engine.info.eos_token_ids, model.defaults.top_k) == ((258, 256), 40)
    assert len(ids) == 8
    assert max(ids) <= model.tokenizer.max_id  # rows of lm_head without a token are never drawn
    assert model.tokenizer.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("type", [Type.Q8_0, Type.Q4_0])
def test_packed_weights_give_the_same_tokens(tmp_path: Path, type: Type) -> None:
    path = _written(tmp_path / "m.gguf", type)
    model, _ = load_model(open_checkpoint(path), torch.bfloat16, torch.device("cpu"))
    answers, sizes = [run(model, [(0, REQUEST)])["r"]], []
    for num_bytes in pack_mapped(model):
        sizes.append(num_bytes)
        if len(sizes) in (1, 5):
            answers.append(run(model, [(0, REQUEST)])["r"])
    answers.append(run(model, [(0, REQUEST)])["r"])
    packed = [matrix for matrix in model.matrices if can_pack(matrix) and matrix is not model.embedding]
    assert sizes == [matrix.num_bytes for matrix in packed]
    assert len(sizes) > 8
    assert len(answers[0].token_ids) == 24
    assert answers == answers[:1] * 4


@pytest.mark.parametrize(("packing", "spare"), [("auto", True), ("on", True), ("off", False)])
def test_the_engine_packs_when_it_may(tmp_path: Path, packing: Packing, spare: bool) -> None:
    path = _written(tmp_path / "m.gguf", Type.Q8_0)
    engine = load_engine(EngineConfig(path, threads=1, packing=packing, kv_cache_memory_bytes=2**20))
    assert (engine.info.model.container, engine.info.model.weight_format) == ("gguf", "Q8_0")
    assert sum(engine.spare_work or ()) > 0 if spare else engine.spare_work is None


def _written(path: Path, type: Type) -> Path:
    """A tiny model in one block type."""
    tensors = converted(random_tensors(WHOLE_BLOCKS), WHOLE_BLOCKS)
    gguf_files.write(path, tensors, metadata(WHOLE_BLOCKS), in_one_type(type))
    return path


def _tokenizer() -> str:
    return gguf_files.with_one_merge(tokenizer_json())
