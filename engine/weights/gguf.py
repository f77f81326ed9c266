"""Weights of a GGUF file: the names it uses, and where each goes. The bytes stay in the file, whatever their format.

Differences to the hub's layout: norms are stored as factors and decays as rates, the experts of a layer are one tensor,
and q, k, v and z of a DeltaNet are either two tensors with all heads of a kind together or one grouped by key head.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from engine.errors import LoadError
from engine.model.config import ModelConfig
from engine.model.gguf_config import gguf_model_config, num_nextn_layers
from engine.quant.formats import BY_NAME, DENSE
from engine.quant.matrix import Matrix
from engine.weights.conversion import Conversion, Role
from engine.weights.gguf_file import GgufFile, read_gguf, without_outer_ones
from engine.weights.inventory import Inventory
from engine.weights.mapped import map_file
from engine.weights.modules import Modules, stand_in
from engine.weights.safetensors import StoredTensor
from engine.weights.source import AttentionWeights, DeltaNetWeights, HeadGroups, MlpWeights, MoeWeights


@dataclass(frozen=True, slots=True)
class GgufCheckpoint:
    """A model in GGUF, its headers read: the configuration, and the weights when they are wanted."""

    file: GgufFile
    config: ModelConfig

    @property
    def paths(self) -> tuple[Path, ...]:
        return self.file.parts

    @property
    def num_bytes(self) -> int:
        return self.file.num_bytes

    def weights(self, conversion: Conversion, report: Callable[[int], None] = lambda num_bytes: None) -> "GgufWeights":
        """Map the files; see `GgufWeights`."""
        return GgufWeights(self.config, self.file, conversion, report)


def open_gguf(path: Path) -> GgufCheckpoint:
    """Read a GGUF file, or any of several parts.

    Raises:
        LoadError: it is damaged, incomplete, of another architecture, or has tensors in a format that is not served.
    """
    file = read_gguf(path)
    return GgufCheckpoint(file, gguf_model_config(file))


class GgufWeights:
    """A `WeightSource` over the tensors of a GGUF file."""

    def __init__(
        self,
        config: ModelConfig,
        gguf: GgufFile,
        conversion: Conversion,
        report: Callable[[int], None] = lambda num_bytes: None,
    ) -> None:
        """`report` is told the bytes of tensors as they are converted.

        Raises:
            LoadError: a file cannot be mapped, or the weights are to be quantised and are already.
        """
        if conversion.quantization != "none":
            _check_dense(gguf, conversion.quantization)
        self._config = config
        self._device = conversion.device
        self._inventory = Inventory(_mapped(gguf), gguf.path)
        self._modules = Modules(self._inventory, conversion, 0, report)
        num_ignored = num_nextn_layers(gguf.metadata)
        self._ignored = tuple(f"blk.{config.num_layers + i}." for i in range(num_ignored))
        self._embedding: Matrix | None = None

    def embedding(self) -> Matrix:
        """See `WeightSource`."""
        if self._embedding is None:
            size = self._config.vocab_size, self._config.hidden_size
            self._embedding = self._matrix("token_embd.weight", *size, Role.EMBEDDING)
        return self._embedding

    def lm_head(self) -> Matrix:
        """See `WeightSource`."""
        if self._config.tie_word_embeddings:
            return self.embedding()
        return self._matrix("output.weight", self._config.vocab_size, self._config.hidden_size)

    def final_norm(self) -> Tensor:
        """See `WeightSource`."""
        return self._values("output_norm.weight", self._config.hidden_size)

    def input_norm(self, layer: int) -> Tensor:
        """See `WeightSource`."""
        return self._values(f"blk.{layer}.attn_norm.weight", self._config.hidden_size)

    def post_norm(self, layer: int) -> Tensor:
        """See `WeightSource`."""
        return self._values(f"blk.{layer}.post_attention_norm.weight", self._config.hidden_size)

    def delta_net(self, layer: int) -> DeltaNetWeights:
        """See `WeightSource`. Files from before March 2026 have ssm_in, later ones attn_qkv and attn_gate."""
        config, prefix = self._config, f"blk.{layer}"
        key_heads, heads = config.linear_num_key_heads, config.linear_num_value_heads
        ratio, key_dim = heads // key_heads, config.linear_key_head_dim
        values, hidden = ratio * config.linear_value_head_dim, config.hidden_size
        keys, stride = key_heads * key_dim, 2 * key_dim + 2 * values
        projections: tuple[Matrix, ...]
        if self._inventory.get(f"{prefix}.ssm_in.weight"):
            projections = (self._matrix(f"{prefix}.ssm_in.weight", key_heads * stride, hidden),)
            offsets, strides = (0, key_dim, 2 * key_dim, 2 * key_dim + values), (stride,) * 4
        else:
            projections = (
                self._matrix(f"{prefix}.attn_qkv.weight", config.conv_dim, hidden),
                self._matrix(f"{prefix}.attn_gate.weight", key_heads * values, hidden),
            )
            offsets, strides = (0, keys, 2 * keys, config.conv_dim), (key_dim, key_dim, values, values)
        query, key, value, gate = map(HeadGroups, offsets, strides)
        ba = self._matrix(f"{prefix}.ssm_ba.weight", 2 * heads, hidden, Role.BETA_AND_DECAY)
        return DeltaNetWeights(
            projections=(*projections, ba),
            query=query,
            key=key,
            value=value,
            gate=gate,
            ba=HeadGroups(key_heads * stride, 2 * ratio),
            conv=self._values(f"{prefix}.ssm_conv1d.weight", config.conv_dim, config.linear_conv_kernel_dim),
            decay_rate=self._values(f"{prefix}.ssm_a", heads),
            dt_bias=self._values(f"{prefix}.ssm_dt.bias", heads),
            norm=self._values(f"{prefix}.ssm_norm.weight", config.linear_value_head_dim),
            out=self._matrix(f"{prefix}.ssm_out.weight", hidden, key_heads * values),
        )

    def attention(self, layer: int) -> AttentionWeights:
        """See `WeightSource`."""
        config, prefix = self._config, f"blk.{layer}"
        hidden, dim = config.hidden_size, config.head_dim
        query, kv = config.num_attention_heads * dim, config.num_key_value_heads * dim
        return AttentionWeights(
            query=self._matrix(f"{prefix}.attn_q.weight", 2 * query, hidden),
            key=self._matrix(f"{prefix}.attn_k.weight", kv, hidden),
            value=self._matrix(f"{prefix}.attn_v.weight", kv, hidden),
            out=self._matrix(f"{prefix}.attn_output.weight", hidden, query),
            q_norm=self._values(f"{prefix}.attn_q_norm.weight", dim),
            k_norm=self._values(f"{prefix}.attn_k_norm.weight", dim),
        )

    def moe(self, layer: int) -> MoeWeights:
        """See `WeightSource`."""
        config, prefix = self._config, f"blk.{layer}"
        return MoeWeights(
            router=self._matrix(f"{prefix}.ffn_gate_inp.weight", config.num_experts, config.hidden_size, Role.ROUTER),
            experts=self._experts(prefix),
            shared=self._mlp(prefix, "_shexp", config.shared_expert_intermediate_size),
            shared_gate=self._values(f"{prefix}.ffn_gate_inp_shexp.weight", config.hidden_size),
        )

    def mlp(self, layer: int) -> MlpWeights:
        """See `WeightSource`."""
        return self._mlp(f"blk.{layer}", "", self._config.intermediate_size)

    def finish(self) -> None:
        """See `WeightSource`."""
        self._inventory.finish(lambda name: name.startswith(self._ignored))

    def _mlp(self, prefix: str, suffix: str, size: int) -> MlpWeights:
        hidden = self._config.hidden_size
        return MlpWeights(
            gate=self._matrix(f"{prefix}.ffn_gate{suffix}.weight", size, hidden),
            up=self._matrix(f"{prefix}.ffn_up{suffix}.weight", size, hidden),
            down=self._matrix(f"{prefix}.ffn_down{suffix}.weight", hidden, size),
        )

    def _experts(self, prefix: str) -> MlpWeights:
        """Gate and up of all experts in a tensor each, or in one, gate before up."""
        hidden, size = self._config.hidden_size, self._config.moe_intermediate_size
        fused = f"{prefix}.ffn_gate_up_exps.weight"
        if self._inventory.get(fused):
            self._inventory.replaced(f"{prefix}.ffn_gate_exps.weight")
            self._inventory.replaced(f"{prefix}.ffn_up_exps.weight")
            gate, up = self._stacks(fused, (size, size), hidden)
        else:
            (gate,) = self._stacks(f"{prefix}.ffn_gate_exps.weight", (size,), hidden)
            (up,) = self._stacks(f"{prefix}.ffn_up_exps.weight", (size,), hidden)
        (down,) = self._stacks(f"{prefix}.ffn_down_exps.weight", (hidden,), size)
        return MlpWeights(gate, up, down)

    def _matrix(self, name: str, rows: int, columns: int, role: Role = Role.OTHER) -> Matrix:
        found = self._take(name, (rows, columns))
        return self._held(found, [found.data], rows, columns, role) if found else stand_in(rows, columns)

    def _stacks(self, name: str, heights: tuple[int, ...], columns: int) -> list[Matrix]:
        """All experts' matrices in one tensor [experts, sum of heights, columns], as a stack for each height."""
        found = self._take(name, (self._config.num_experts, sum(heights), columns))
        if found is None:
            return [stand_in(rows, columns) for rows in heights]
        split = zip(*(expert.split(heights) for expert in found.data), strict=True)
        return [
            self._held(found, parts, rows, columns, Role.EXPERT) for parts, rows in zip(split, heights, strict=True)
        ]

    def _held(self, found: StoredTensor, parts: Iterable[Tensor], rows: int, columns: int, role: Role) -> Matrix:
        """Bytes [rows, row bytes] as they are to be held; dense ones may be converted."""
        return self._modules.held(Matrix(BY_NAME[found.dtype], rows, columns, tuple(parts)), [found.name], role)

    def _values(self, name: str, *shape: int) -> Tensor:
        """A small tensor in fp32, in memory of its own."""
        found = self._take(name, shape)
        if found is None:
            return torch.empty(shape, device="meta")
        rows = found.data.view(-1, found.data.shape[-1])
        matrix = Matrix(BY_NAME[found.dtype], len(rows), shape[-1], (rows,))
        return matrix.dense().view(shape).to(self._device, torch.float32, copy=True)

    def _take(self, name: str, shape: tuple[int, ...]) -> StoredTensor | None:
        """A tensor of any format, its data as bytes [..., row bytes]; None if it is not there so, which is noted."""
        found = self._inventory.get(name)
        data = self._inventory.take(name, [without_outer_ones(shape)], BY_NAME)
        if found is None or data is None:
            return None
        return StoredTensor(name, found.dtype, shape, data.view(*shape[:-1], data.shape[-1]))


def _mapped(gguf: GgufFile) -> Iterator[StoredTensor]:
    """Every tensor with its bytes [..., row bytes]."""
    files: dict[Path, Tensor] = {}
    for name, tensor in gguf.tensors.items():
        if tensor.path not in files:
            try:
                files[tensor.path] = map_file(tensor.path)
            except OSError as error:
                raise LoadError(f"{tensor.path} cannot be read: {error.strerror or error}") from None
        data = files[tensor.path][tensor.offset : tensor.offset + tensor.num_bytes]
        yield StoredTensor(name, tensor.format.name, tensor.shape, data.view(*tensor.shape[:-1], -1))


def _check_dense(gguf: GgufFile, quantization: str) -> None:
    for tensor in gguf.tensors.values():
        if tensor.format not in DENSE:
            raise LoadError(
                f"{gguf.path}: --quantization {quantization} needs dense weights (bf16, fp16 or fp32), but"
                f" {tensor.name} is {tensor.format.name} already; leave the option out"
            )
