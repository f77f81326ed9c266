"""Gated full attention."""

from dataclasses import dataclass

from torch import Tensor

from engine.batch import PagedKV, TokenBatch
from engine.kernels.exact import sigmoid
from engine.kernels.table import Kernels
from engine.layers.rope import Rotation
from engine.layers.targets import Targets
from engine.model.config import ModelConfig


@dataclass(frozen=True, slots=True)
class Attention:
    """Weights as in the checkpoint: q_proj holds, head by head, the query's rows and then the output gate's."""

    config: ModelConfig
    q_proj: Tensor
    k_proj: Tensor
    v_proj: Tensor
    o_proj: Tensor
    q_norm: Tensor
    k_norm: Tensor

    @classmethod
    def declare(cls, config: ModelConfig, targets: Targets, prefix: str) -> "Attention":
        hidden, dim = config.hidden_size, config.head_dim
        query, kv = config.num_attention_heads * dim, config.num_key_value_heads * dim
        return cls(
            config,
            q_proj=targets.new(f"{prefix}.q_proj.weight", 2 * query, hidden),
            k_proj=targets.new(f"{prefix}.k_proj.weight", kv, hidden),
            v_proj=targets.new(f"{prefix}.v_proj.weight", kv, hidden),
            o_proj=targets.new(f"{prefix}.o_proj.weight", hidden, query),
            q_norm=targets.new(f"{prefix}.q_norm.weight", dim),
            k_norm=targets.new(f"{prefix}.k_norm.weight", dim),
        )

    def __call__(self, x: Tensor, batch: TokenBatch, rotation: Rotation, memory: PagedKV, kernels: Kernels) -> Tensor:
        """o_proj( attention(q, k, v) ⊙ sigmoid(gate) ) for rows x [T, hidden], whose K and V join the cache."""
        config, eps = self.config, self.config.rms_norm_eps
        heads = (x.shape[0], -1, config.head_dim)
        query, gate = kernels.linear(x, self.q_proj).view(x.shape[0], config.num_attention_heads, -1).chunk(2, dim=-1)
        key = kernels.linear(x, self.k_proj).view(heads)
        value = kernels.linear(x, self.v_proj).view(heads)
        query = rotation.apply(kernels.rms_norm(query.float(), self.q_norm, eps))
        key = rotation.apply(kernels.rms_norm(key.float(), self.k_norm, eps))
        memory.write(batch.kv_rows, key.to(memory.keys.dtype), value)
        out = kernels.paged_attention(query, memory, batch.spans) * sigmoid(gate.float())
        return kernels.linear(out.flatten(1).to(x.dtype), self.o_proj)
