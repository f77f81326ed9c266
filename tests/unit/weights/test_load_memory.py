"""What loading takes: the weights and one shard of the file, not the file once more."""

import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.support.checkpoints import CONFIG, shapes, write

MIB = 1 << 20
SLACK = 60 * MIB
CONFIG_LARGE = CONFIG | {"vocab_size": 400_000, "hidden_size": 64, "num_experts": 16, "moe_intermediate_size": 2048}
SCRIPT = """
import sys
from pathlib import Path
import torch
from engine.config import EngineConfig
from engine.loading import load_model
from engine.model.config import read_model_config

def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))

torch.set_num_threads(1)
folder = Path(sys.argv[1])
config = read_model_config(folder)
torch.zeros(1024).copy_(torch.ones(1024))
before = peak()
model, num_bytes = load_model(EngineConfig(folder), config, torch.float32, torch.device("cpu"), lambda *_: None)
print(peak() - before, num_bytes)
"""


def test_peak_memory(tmp_path: Path) -> None:
    folder = write(tmp_path, {"a": torch.zeros(1)}, CONFIG_LARGE)
    (folder / "model.safetensors").unlink()
    shards: dict[str, dict[str, torch.Tensor]] = {"1": {}, "2": {}, "3": {}}
    for name, shape in shapes(CONFIG_LARGE).items():
        shard = {"model.embed_tokens.weight": "1", "lm_head.weight": "2"}.get(name, "3")
        shards[shard][name] = torch.full(shape, 0.01)
    for shard, tensors in shards.items():
        save_file(tensors, folder / f"model-{shard}.safetensors")
    largest = max(f.stat().st_size for f in folder.glob("*.safetensors"))
    del shards, tensors
    command = [sys.executable, "-c", SCRIPT, str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])
    peak, num_bytes = map(int, result.stdout.split())
    assert num_bytes > 290 * MIB
    assert num_bytes <= peak + SLACK  # the measurement measures
    assert peak <= num_bytes + largest + SLACK
