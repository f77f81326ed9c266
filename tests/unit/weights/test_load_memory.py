"""What loading takes: nothing for weights that stay as they are, their own size for weights that are converted.

Each load is a process that may not take more memory of its own than that and a little more, enforced by the system.
It loads a tiny model first, so that libraries, thread stacks and the heap are there before the limit is set.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.support.checkpoints import CONFIG, random_tensors, shapes, write

MIB = 1 << 20
SLACK = 16 * MIB  # measured: plain torch needs 6 beside the result, the compiled kernels less than 1
ROOT = Path(__file__).parents[3]
ROWS, COLUMNS = 1 << 19, 64
TINY = CONFIG | {"hidden_size": COLUMNS, "moe_intermediate_size": 32, "num_experts": 1, "num_experts_per_tok": 1}
LARGE = TINY | {"moe_intermediate_size": ROWS, "num_hidden_layers": 2, "mlp_only_layers": [0], "intermediate_size": 5}
NUM_VALUES = 3 * ROWS * COLUMNS  # of the one expert, in three matrices of 64 MiB; everything else is small
BYTES_PER_VALUE = {"none": 4.0, "int8": 34 / 32, "int4": 21 / 32}

SCRIPT = """
import resource, sys, threading
from pathlib import Path
import torch
from engine.loading import load_model
from engine.weights.checkpoint import open_checkpoint

def own_bytes():  # what is mapped from files does not count
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmData"))

def load(folder):
    dtype, quantization = sys.argv[3:5]
    return load_model(open_checkpoint(Path(folder)), getattr(torch, dtype), torch.device("cpu"), quantization)

torch.set_num_threads(1)
threading.stack_size(1 << 20)
load(sys.argv[1])
limit = own_bytes() + int(sys.argv[5])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    load(sys.argv[2])
except (MemoryError, RuntimeError) as error:
    print("refused:", error)
else:
    print("loaded")
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A tiny model and one with an expert of 192 MiB in bf16."""
    tiny = {name: tensor.bfloat16() for name, tensor in random_tensors(TINY).items()}
    large = tmp_path_factory.mktemp("large")
    write(large, {"a": torch.zeros(1)}, LARGE)
    tensors = {name: torch.full(shape, 0.01, dtype=torch.bfloat16) for name, shape in _shapes().items()}
    save_file(tensors, large / "model.safetensors")
    return str(write(tmp_path_factory.mktemp("tiny"), tiny, TINY)), str(large)


def _shapes() -> dict[str, tuple[int, ...]]:
    """Of the large model. Its first layer has no experts, but an MLP of the shared expert's size."""
    unused = tuple(f"model.layers.0.mlp.{name}" for name in ("gate.", "experts.", "shared_expert_gate."))
    named = {name: shape for name, shape in shapes(LARGE).items() if not name.startswith(unused)}
    return {name.replace("layers.0.mlp.shared_expert.", "layers.0.mlp."): shape for name, shape in named.items()}


def _loads(folders: tuple[str, str], allowed: int, dtype: str, quantization: str, kernels: str = "auto") -> bool:
    """Whether this much memory suffices."""
    command = [sys.executable, "-c", SCRIPT, *folders, dtype, quantization, str(allowed)]
    environment: dict[str, Any] = os.environ | {"DELTALOOP_KERNELS": kernels}
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    assert result.returncode == 0, result.stderr
    return result.stdout == "loaded\n"


def test_mapped_weights_take_no_memory(folders: tuple[str, str]) -> None:
    assert _loads(folders, SLACK, "bfloat16", "none")


@pytest.mark.parametrize(
    ("dtype", "quantization", "kernels"),
    [
        ("float32", "none", "auto"),
        ("bfloat16", "int8", "auto"),
        ("bfloat16", "int4", "auto"),
        ("bfloat16", "int8", "reference"),
        ("bfloat16", "int4", "reference"),
    ],
)
def test_converted_weights_take_their_own_size(
    folders: tuple[str, str], dtype: str, quantization: str, kernels: str
) -> None:
    """Neither a matrix in bf16 nor one as it becomes would go into the slack a second time."""
    own = int(NUM_VALUES * BYTES_PER_VALUE[quantization])
    assert min(own / 3, 2 * NUM_VALUES / 3) > 1.3 * SLACK
    assert _loads(folders, own + SLACK, dtype, quantization, kernels)
    assert not _loads(folders, own - SLACK // 2, dtype, quantization, kernels)  # the limit limits
