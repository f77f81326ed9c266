"""Weights of a checkpoint in hub layout: the names it uses, and where each goes.

Experts come one tensor each or all of a layer in one, see `_experts`. Norms are stored as distance from 1.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from engine.errors import LoadError
from engine.model.config import ModelConfig, read_model_config
from engine.quant.matrix import Matrix, dense_matrix
from engine.weights.conversion import Conversion, Role
from engine.weights.inventory import Inventory
from engine.weights.modules import DENSE_TYPES, Modules, stand_in
from engine.weights.safetensors import SafetensorsCheckpoint, StoredTensor
from engine.weights.source import AttentionWeights, DeltaNetWeights, HeadGroups, MlpWeights, MoeWeights

MULTI_TOKEN_HEAD = "mtp."  # of the Next-80B files, not used
LM_HEAD = "lm_head"
FUSED_EXPERTS = re.compile(r"\.mlp\.experts\.(?:gate_up|down)_proj(?P<kind>.*)")


@dataclass(frozen=True, slots=True)
class HubCheckpoint:
    """A model folder in hub layout, its config.json read."""

    folder: Path
    config: ModelConfig
    files: SafetensorsCheckpoint

    @property
    def paths(self) -> tuple[Path, ...]:
        return (*self.files.files, *sorted(self.folder.glob("*.json")))

    @property
    def num_bytes(self) -> int:
        return self.files.num_bytes

    def weights(self, conversion: Conversion, report: Callable[[int], None] = lambda num_bytes: None) -> "HubWeights":
        """Map the files; see `HubWeights`."""
        return HubWeights(self.config, self.files.tensors(), self.folder, conversion, report)


def open_hub(folder: Path) -> HubCheckpoint:
    """Read a model folder's configuration and find its files.

    Raises:
        LoadError: it has no configuration that is served, or lacks files.
    """
    return HubCheckpoint(folder, read_model_config(folder), SafetensorsCheckpoint.find(folder))


class HubWeights:
    """A `WeightSource` over a checkpoint's tensors."""

    def __init__(
        self,
        config: ModelConfig,
        tensors: Iterable[StoredTensor],
        source: Path,
        conversion: Conversion,
        report: Callable[[int], None] = lambda num_bytes: None,
    ) -> None:
        """`source` is what errors call the checkpoint; `report` is told the bytes of tensors as they are converted.

        Raises:
            LoadError: the weights are to be quantised and are already, or are so in a way that is not served.
        """
        self._config = config
        self._inventory = Inventory(tensors, source)
        self._device = conversion.device
        self._modules = Modules(self._inventory, conversion, config.gptq_zero_offset, report)
        self._embedding: Matrix | None = None
        self._check_fused_experts()
        if conversion.quantization != "none":
            self._modules.check_dense()

    def embedding(self) -> Matrix:
        """See `WeightSource`."""
        if self._embedding is None:
            size = self._config.vocab_size, self._config.hidden_size
            self._embedding = self._modules.one("model.embed_tokens", *size, Role.EMBEDDING)
        return self._embedding

    def lm_head(self) -> Matrix:
        """See `WeightSource`."""
        if self._config.tie_word_embeddings:
            return self.embedding()
        return self._modules.one(LM_HEAD, self._config.vocab_size, self._config.hidden_size)

    def final_norm(self) -> Tensor:
        """See `WeightSource`."""
        return self._factor("model.norm.weight", self._config.hidden_size)

    def input_norm(self, layer: int) -> Tensor:
        """See `WeightSource`."""
        return self._factor(f"model.layers.{layer}.input_layernorm.weight", self._config.hidden_size)

    def post_norm(self, layer: int) -> Tensor:
        """See `WeightSource`."""
        return self._factor(f"model.layers.{layer}.post_attention_layernorm.weight", self._config.hidden_size)

    def delta_net(self, layer: int) -> DeltaNetWeights:
        """See `WeightSource`. A key head's rows of in_proj_qkvz are its q, k, v and z; those of in_proj_ba its b, a."""
        config, prefix = self._config, f"model.layers.{layer}.linear_attn"
        key_heads, heads = config.linear_num_key_heads, config.linear_num_value_heads
        ratio, key_dim = heads // key_heads, config.linear_key_head_dim
        values = ratio * config.linear_value_head_dim
        stride = 2 * key_dim + 2 * values
        conv = self._values(f"{prefix}.conv1d.weight", (config.conv_dim, 1, config.linear_conv_kernel_dim))
        return DeltaNetWeights(
            projections=(
                self._modules.one(f"{prefix}.in_proj_qkvz", key_heads * stride, config.hidden_size),
                self._modules.one(f"{prefix}.in_proj_ba", 2 * heads, config.hidden_size, Role.BETA_AND_DECAY),
            ),
            query=HeadGroups(0, stride),
            key=HeadGroups(key_dim, stride),
            value=HeadGroups(2 * key_dim, stride),
            gate=HeadGroups(2 * key_dim + values, stride),
            ba=HeadGroups(key_heads * stride, 2 * ratio),
            conv=conv.squeeze(1),
            decay_rate=-torch.exp(self._values(f"{prefix}.A_log", (heads,))),
            dt_bias=self._values(f"{prefix}.dt_bias", (heads,)),
            norm=self._values(f"{prefix}.norm.weight", (config.linear_value_head_dim,)),
            out=self._modules.one(f"{prefix}.out_proj", config.hidden_size, heads * config.linear_value_head_dim),
        )

    def attention(self, layer: int) -> AttentionWeights:
        """See `WeightSource`."""
        config, prefix = self._config, f"model.layers.{layer}.self_attn"
        hidden, dim = config.hidden_size, config.head_dim
        query, kv = config.num_attention_heads * dim, config.num_key_value_heads * dim
        return AttentionWeights(
            query=self._modules.one(f"{prefix}.q_proj", 2 * query, hidden),
            key=self._modules.one(f"{prefix}.k_proj", kv, hidden),
            value=self._modules.one(f"{prefix}.v_proj", kv, hidden),
            out=self._modules.one(f"{prefix}.o_proj", hidden, query),
            q_norm=self._factor(f"{prefix}.q_norm.weight", dim),
            k_norm=self._factor(f"{prefix}.k_norm.weight", dim),
        )

    def moe(self, layer: int) -> MoeWeights:
        """See `WeightSource`."""
        config, prefix = self._config, f"model.layers.{layer}.mlp"
        hidden = config.hidden_size
        return MoeWeights(
            router=self._modules.one(f"{prefix}.gate", config.num_experts, hidden, Role.ROUTER),
            experts=self._experts(f"{prefix}.experts"),
            shared=self._mlp(f"{prefix}.shared_expert", config.shared_expert_intermediate_size),
            shared_gate=self._values(f"{prefix}.shared_expert_gate.weight", (1, hidden)).squeeze(0),
        )

    def mlp(self, layer: int) -> MlpWeights:
        """See `WeightSource`."""
        return self._mlp(f"model.layers.{layer}.mlp", self._config.intermediate_size)

    def finish(self) -> None:
        """See `WeightSource`."""
        ignored = (MULTI_TOKEN_HEAD, f"{LM_HEAD}.") if self._config.tie_word_embeddings else (MULTI_TOKEN_HEAD,)
        self._inventory.finish(lambda name: name.startswith(ignored))

    def _check_fused_experts(self) -> None:
        """Quantised releases keep a module for each expert; a tool that took all of them for one did not know them."""
        for name in self._inventory.names():
            fused, stored = FUSED_EXPERTS.search(name), self._inventory.get(name)
            if fused and stored and (fused["kind"] or stored.dtype not in DENSE_TYPES):
                raise LoadError(
                    f"{self._inventory.source}: {name} holds the quantised experts of a layer in one tensor; deltaloop"
                    " serves them in one module each, as the usual FP8, GPTQ, AWQ and compressed-tensors releases have"
                    " them: use such one, or the bf16 model with --quantization int8 or int4"
                )

    def _mlp(self, prefix: str, size: int) -> MlpWeights:
        hidden = self._config.hidden_size
        return MlpWeights(
            gate=self._modules.one(f"{prefix}.gate_proj", size, hidden),
            up=self._modules.one(f"{prefix}.up_proj", size, hidden),
            down=self._modules.one(f"{prefix}.down_proj", hidden, size),
        )

    def _experts(self, prefix: str) -> MlpWeights:
        """gate_up_proj [experts, 2 * size, hidden], gate before up, and down_proj; or one module for each expert."""
        hidden, size = self._config.hidden_size, self._config.moe_intermediate_size
        if self._inventory.get(f"{prefix}.gate_up_proj"):
            gate, up = self._fused(prefix, "gate_up_proj", ("gate_proj", "up_proj"), size, hidden)
        else:
            gate, up = (self._one_each(prefix, kind, size, hidden) for kind in ("gate_proj", "up_proj"))
        if self._inventory.get(f"{prefix}.down_proj"):
            (down,) = self._fused(prefix, "down_proj", ("down_proj",), hidden, size)
        else:
            down = self._one_each(prefix, "down_proj", hidden, size)
        return MlpWeights(gate, up, down)

    def _one_each(self, prefix: str, kind: str, rows: int, columns: int) -> Matrix:
        names = [f"{prefix}.{expert}.{kind}" for expert in range(self._config.num_experts)]
        return self._modules.stack(names, rows, columns, Role.EXPERT)

    def _fused(self, prefix: str, name: str, kinds: tuple[str, ...], rows: int, columns: int) -> list[Matrix]:
        """Stacks [rows, columns] of each kind, which stand one above the other in one tensor."""
        for expert in range(self._config.num_experts):
            for kind in kinds:
                self._inventory.replaced(f"{prefix}.{expert}.{kind}.weight")
        shape = (self._config.num_experts, len(kinds) * rows, columns)
        values = self._inventory.take(f"{prefix}.{name}", [shape], DENSE_TYPES)
        if values is None:
            return [stand_in(rows, columns) for _ in kinds]
        stacks = zip(*(expert.split(rows) for expert in values), strict=True)
        return [self._modules.held(dense_matrix(*parts), [f"{prefix}.{name}"], Role.EXPERT) for parts in stacks]

    def _values(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A small tensor in fp32."""
        values = self._inventory.take(name, [shape], DENSE_TYPES)
        return torch.empty(shape, device="meta") if values is None else values.to(self._device, torch.float32)

    def _factor(self, name: str, size: int) -> Tensor:
        return 1.0 + self._values(name, (size,))
