"""What loading takes: nothing for weights that stay as they are, their own size for weights that are converted."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.support.checkpoints import CONFIG, shapes, write

MIB = 1 << 20
SLACK = 80 * MIB
CONFIG_LARGE = CONFIG | {"vocab_size": 400_000, "hidden_size": 64, "num_experts": 16, "moe_intermediate_size": 2048}
SCRIPT = """
import resource, sys
from pathlib import Path
import torch
from engine.config import EngineConfig
from engine.loading import load_model
from engine.model.config import read_model_config

def taken():  # memory that is the process's own; what is mapped from files is not
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmData"))

torch.set_num_threads(1)
folder, dtype, quantization, allowed = Path(sys.argv[1]), *sys.argv[2:]
config = read_model_config(folder)
torch.zeros(1024).copy_(torch.ones(1024))
limit = taken() + int(allowed)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
settings = EngineConfig(folder, quantization=quantization)
model, num_bytes = load_model(settings, config, getattr(torch, dtype), torch.device("cpu"), lambda *_: None)
print(num_bytes)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some 300 MiB in bf16, in three shards."""
    folder = write(tmp_path_factory.mktemp("large"), {"a": torch.zeros(1)}, CONFIG_LARGE)
    (folder / "model.safetensors").unlink()
    shards: dict[str, dict[str, torch.Tensor]] = {"1": {}, "2": {}, "3": {}}
    for name, shape in shapes(CONFIG_LARGE).items():
        shard = {"model.embed_tokens.weight": "1", "lm_head.weight": "2"}.get(name, "3")
        shards[shard][name] = torch.full(shape, 0.01, dtype=torch.bfloat16)
    for shard, tensors in shards.items():
        save_file(tensors, folder / f"model-{shard}.safetensors")
    return folder


def _load(folder: Path, allowed: int, dtype: str = "bfloat16", quantization: str = "none") -> int | None:
    """Bytes of the weights, or None if memory did not suffice."""
    command = [sys.executable, "-c", SCRIPT, str(folder), dtype, quantization, str(allowed)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3])
    if result.returncode:
        assert "memory" in result.stderr, result.stderr
        return None
    return int(result.stdout)


def test_mapped_weights_take_no_memory(folder: Path) -> None:
    num_bytes = _load(folder, SLACK)
    assert num_bytes is not None
    assert num_bytes > 140 * MIB


@pytest.mark.parametrize(("dtype", "quantization"), [("float32", "none"), ("bfloat16", "int8"), ("bfloat16", "int4")])
def test_converted_weights_take_their_own_size(folder: Path, dtype: str, quantization: str) -> None:
    unlimited = 1 << 40
    num_bytes = _load(folder, unlimited, dtype, quantization)
    assert num_bytes is not None
    untouched = 0 if dtype == "float32" else 2 * 64 * CONFIG_LARGE["vocab_size"]  # the embedding
    assert _load(folder, num_bytes - untouched + SLACK, dtype, quantization) == num_bytes
    assert _load(folder, (num_bytes - untouched) // 2, dtype, quantization) is None  # the limit limits
