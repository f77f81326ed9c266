"""How much memory a loaded engine takes for its cache, beside weights that are mapped."""

import logging
import re
from pathlib import Path

import pytest
import torch

from engine import loading
from engine.async_engine import AsyncEngine
from engine.config import Dtype, EngineConfig
from engine.loading import load_engine
from engine.runner.memory import MemoryPlan
from tests.support.checkpoints import CONFIG, random_tensors, write

MIB = 1 << 20
LARGE = CONFIG | {"vocab_size": 20_000, "torch_dtype": "bfloat16", "max_position_embeddings": 1 << 20}
WEIGHT_BYTES = 2 * 20_000 * 16 * 2  # but for a few KiB


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tensors = {name: tensor.bfloat16() for name, tensor in random_tensors(LARGE).items()}
    return write(tmp_path_factory.mktemp("large"), tensors, LARGE)


def _load(folder: Path, available: int, monkeypatch: pytest.MonkeyPatch, dtype: Dtype = "auto") -> AsyncEngine:
    monkeypatch.setattr(loading, "available_memory_bytes", lambda: available)
    return load_engine(EngineConfig(folder, dtype=dtype, threads=1))


def _taken(engine: AsyncEngine) -> int:
    return engine.info.kv_cache_bytes + engine.info.num_slots * engine.info.state_slot_bytes


def test_the_cache_takes_half_of_what_mapped_weights_leave(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = _taken(_load(folder, 20 * MIB, monkeypatch))
    assert 0.45 * (20 * MIB - WEIGHT_BYTES) < taken <= 0.5 * (20 * MIB - WEIGHT_BYTES)


def test_more_weights_than_memory(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They are read from disk as needed; the cache is small, but there."""
    with caplog.at_level(logging.WARNING):
        engine = _load(folder, MIB, monkeypatch)
    assert "the weights take more memory than there is" in caplog.text
    assert 0 < _taken(engine) <= MIB / 8


@pytest.mark.parametrize(("dtype", "itemsize"), [("auto", 2), ("bfloat16", 2), ("float32", 4)])
def test_keys_and_values_are_bf16_unless_fp32_is_asked_for(
    dtype: Dtype, itemsize: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = _load(folder, 20 * MIB, monkeypatch, dtype).info
    assert info.kv_cache_bytes == info.num_blocks * info.block_size * 2 * 2 * 2 * 8 * itemsize
    assert info.dtype == ("float32" if itemsize == 4 else "bfloat16")


def test_fp16_checkpoints_have_bf16_keys_and_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = CONFIG | {"torch_dtype": "float16"}
    tensors = {name: tensor.to(torch.float16) for name, tensor in random_tensors(config).items()}
    info = _load(write(tmp_path, tensors, config), 20 * MIB, monkeypatch).info
    assert (info.dtype, info.kv_cache_bytes) == ("float16", info.num_blocks * info.block_size * 2 * 2 * 2 * 8 * 2)


@pytest.mark.parametrize(
    ("device", "asked", "num_checkpoints", "expected"),
    [("cpu", None, 5, 0), ("cuda", None, 5, 250), ("cuda", 70, 5, 70), ("cuda", 0, 0, 0), ("cuda", None, 0, 0)],
)
def test_beside_a_gpu_main_memory_keeps_states_too(
    device: str, asked: int | None, num_checkpoints: int, expected: int, folder: Path
) -> None:
    config = EngineConfig(folder, cache_ram_bytes=asked)
    memory = MemoryPlan(10, 2, num_checkpoints, 100, (), ())
    assert loading._host_bytes(config, torch.device(device), memory, 1000) == expected


def test_what_there_is_to_tell_of_the_model(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = _load(folder, 20 * MIB, monkeypatch).info.model
    assert (facts.architecture, facts.container, facts.weight_format) == ("qwen3next", "safetensors", "BF16")
    assert (facts.num_layers, facts.hidden_size, facts.num_trained_positions) == (4, 16, 1 << 20)
    assert facts.num_bytes == sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert facts.num_parameters > WEIGHT_BYTES / 2
    assert facts.modified == max(path.stat().st_mtime for path in folder.iterdir())
    assert re.fullmatch("[0-9a-f]{64}", facts.fingerprint)
    assert _load(folder, 20 * MIB, monkeypatch).info.model == facts
    other = write(tmp_path / "other", random_tensors(LARGE, seed=1), LARGE)
    assert _load(other, 40 * MIB, monkeypatch).info.model.fingerprint != facts.fingerprint
