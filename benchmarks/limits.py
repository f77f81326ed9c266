"""What the machine can do at most, measured in the run that is compared with it, and what a model asks of it."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from engine import is_gguf
from engine.model.config import ModelConfig, read_model_config
from engine.quant.formats import DENSE
from engine.weights.gguf import open_gguf
from engine.weights.safetensors import SafetensorsCheckpoint

EXPERTS = ("_exps.weight", ".mlp.experts.")
EMBEDDING = ("token_embd.weight", "model.embed_tokens.weight")
HEAD = ("output.weight", "lm_head.weight")


@dataclass(frozen=True, slots=True)
class Limits:
    """Rates all threads reach together: bytes read a second, and operations of bf16 and of 8-bit products a second.

    A multiplication and an addition count two.
    """

    read_bytes: float
    bf16_operations: float
    int8_operations: float


def measure_limits() -> Limits:
    """Takes some seconds, in torch's threads."""
    return Limits(read_bandwidth(), _bf16_rate(), _int8_rate())


def read_bandwidth(num_bytes: int = 1 << 30) -> float:
    """Bytes read from memory a second: by a sum or by a product of a matrix with a vector, whichever reads faster."""
    matrix, vector = torch.ones(num_bytes // 2**14, 2**12), torch.ones(2**12)
    return num_bytes / min(_median_seconds(matrix.sum), _median_seconds(lambda: matrix @ vector))


def _bf16_rate(size: int = 2048) -> float:
    a, b = (torch.randn(size, size).bfloat16() for _ in range(2))
    return 2 * size**3 / _median_seconds(lambda: a @ b)


def _int8_rate(size: int = 2048) -> float:
    """Of torch's own product of signed bytes into 32-bit sums; oneDNN computes it with the best instructions there are.

    Where it is slower than bf16, as without VNNI, nobody needs to use it: the faster of the two is the limit.
    """
    a, b = (torch.randint(-128, 128, (size, size), dtype=torch.int8) for _ in range(2))
    return 2 * size**3 / _median_seconds(lambda: torch._int_mm(a, b))


def _median_seconds(work: Callable[[], object], repeats: int = 7) -> float:
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


@dataclass(frozen=True, slots=True)
class Part:
    """Weights that are used together: their bytes as stored, and how many there are."""

    num_bytes: int = 0
    num_values: int = 0

    def __add__(self, other: "Part") -> "Part":
        return Part(self.num_bytes + other.num_bytes, self.num_values + other.num_values)


@dataclass(frozen=True, slots=True)
class Demand:
    """What a model asks of a machine.

    Attributes:
        num_bytes: of all weights.
        head: lm_head, of which every stream needs all, but a prompt only for its last token.
        dense: everything else that every token uses; of the embedding that is one row, which is left out.
        experts: of which a token uses `expert_share`, a share between 0 and 1.
        state_bytes: of a sequence's recurrent states, read and written with every token decoded.
        attention_operations: for each pair of a token and an earlier one, in all attention layers.
        is_quantised: products are of 8-bit integers.
    """

    num_bytes: int
    head: Part
    dense: Part
    experts: Part
    expert_share: float
    state_bytes: int
    attention_operations: int
    is_quantised: bool

    @classmethod
    def of(cls, model: Path) -> "Demand":
        """Of a GGUF file or a folder in hub layout."""
        config, tensors, is_quantised = _read(model)
        head, dense, experts = Part(), Part(), Part()
        for name, part in tensors.items():
            if any(mark in name for mark in EXPERTS):
                experts += part
            elif name in HEAD or (name in EMBEDDING and config.tie_word_embeddings):
                head += part
            elif name not in EMBEDDING:
                dense += part
        return cls(
            num_bytes=sum(part.num_bytes for part in tensors.values()),
            head=head,
            dense=dense,
            experts=experts,
            expert_share=config.num_experts_per_tok / config.num_experts,
            state_bytes=config.state_bytes,
            attention_operations=4 * config.num_full_attention_layers * config.num_attention_heads * config.head_dim,
            is_quantised=is_quantised,
        )

    def seconds(self, limits: Limits, num_tokens: int, num_streams: int) -> float:
        """The least time for `num_tokens` of each stream in one step: the longer of what memory and cores need.

        Experts are taken to be drawn evenly and independently; those that several tokens use are read once. Norms,
        convolutions and the delta rule count nothing, and neither do keys and values in memory.
        """
        num_rows = num_tokens * num_streams
        touched = 1 - (1 - self.expert_share) ** num_rows
        num_bytes = self.dense.num_bytes + self.head.num_bytes + touched * self.experts.num_bytes
        num_bytes += 2 * num_streams * self.state_bytes
        operations = 2 * num_rows * (self.dense.num_values + self.expert_share * self.experts.num_values)
        operations += 2 * num_streams * self.head.num_values
        rate = max(limits.int8_operations, limits.bf16_operations) if self.is_quantised else limits.bf16_operations
        attending = num_streams * self.attention_operations * num_tokens**2 / 2 / limits.bf16_operations
        return max(num_bytes / limits.read_bytes, operations / rate + attending)


def _read(model: Path) -> tuple[ModelConfig, dict[str, Part], bool]:
    if not is_gguf(model):
        stored = SafetensorsCheckpoint.find(model).tensors()
        parts = {tensor.name: Part(tensor.data.nbytes, tensor.data.numel()) for tensor in stored}
        return read_model_config(model), parts, False
    checkpoint = open_gguf(model)
    tensors = checkpoint.file.tensors
    parts = {name: Part(tensor.num_bytes, torch.Size(tensor.shape).numel()) for name, tensor in tensors.items()}
    return checkpoint.config, parts, any(tensor.format not in DENSE for tensor in tensors.values())
