"""Gated DeltaNet: linear attention with a recurrent state."""

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.batch import RecurrentState, TokenBatch
from engine.kernels.exact import sigmoid, softplus
from engine.kernels.table import Kernels
from engine.layers.targets import Targets
from engine.model.config import ModelConfig

L2_EPS = 1e-6


@dataclass(frozen=True, slots=True)
class GatedDeltaNet:
    """Weights as in the checkpoint: in_proj_qkvz and in_proj_ba are grouped by key head."""

    config: ModelConfig
    in_proj_qkvz: Tensor
    in_proj_ba: Tensor
    conv: Tensor
    a_log: Tensor
    dt_bias: Tensor
    norm: Tensor
    out_proj: Tensor

    @classmethod
    def declare(cls, config: ModelConfig, targets: Targets, prefix: str) -> "GatedDeltaNet":
        hidden, value_heads = config.hidden_size, config.linear_num_value_heads
        value = value_heads * config.linear_value_head_dim
        conv = targets.new(f"{prefix}.conv1d.weight", config.conv_dim, 1, config.linear_conv_kernel_dim)
        return cls(
            config,
            in_proj_qkvz=targets.new(f"{prefix}.in_proj_qkvz.weight", config.conv_dim + value, hidden),
            in_proj_ba=targets.new(f"{prefix}.in_proj_ba.weight", 2 * value_heads, hidden),
            conv=conv.squeeze(1),
            a_log=targets.new(f"{prefix}.A_log", value_heads, dtype=torch.float32),
            dt_bias=targets.new(f"{prefix}.dt_bias", value_heads, dtype=torch.float32),
            norm=targets.new(f"{prefix}.norm.weight", config.linear_value_head_dim),
            out_proj=targets.new(f"{prefix}.out_proj.weight", hidden, value),
        )

    def __call__(self, x: Tensor, batch: TokenBatch, memory: RecurrentState, kernels: Kernels) -> Tensor:
        """Rows x [T, hidden] through projections, convolution, delta rule and gated norm; advances the states."""
        config = self.config
        inputs, gate, beta, decay = self._project(x, kernels)
        mixed = kernels.causal_conv(inputs, self.conv, memory.conv, batch.spans)
        keys = config.linear_num_key_heads * config.linear_key_head_dim
        query = _l2_norm(mixed[:, :keys].unflatten(1, (config.linear_num_key_heads, -1)))
        key = _l2_norm(mixed[:, keys : 2 * keys].unflatten(1, (config.linear_num_key_heads, -1)))
        value = mixed[:, 2 * keys :].unflatten(1, (config.linear_num_value_heads, -1))
        query = query * config.linear_key_head_dim**-0.5
        out = kernels.gated_delta_rule(query, key, value, decay, beta, memory.delta, batch.spans)
        out = kernels.gated_rms_norm(out, gate, self.norm, config.rms_norm_eps)
        return kernels.linear(out.flatten(1), self.out_proj)

    def _project(self, x: Tensor, kernels: Kernels) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Convolution inputs [T, conv dim], output gate [T, Hv, dv], β and decay α = e^γ, fp32 [T, Hv]."""
        config = self.config
        num_rows, key_heads, value_heads = x.shape[0], config.linear_num_key_heads, config.linear_num_value_heads
        key_dim, value_dim = config.linear_key_head_dim, config.linear_value_head_dim
        group = value_heads // key_heads
        qkvz = kernels.linear(x, self.in_proj_qkvz).view(num_rows, key_heads, -1)
        query, key, value, gate = qkvz.split([key_dim, key_dim, group * value_dim, group * value_dim], dim=-1)
        inputs = torch.cat([query.flatten(1), key.flatten(1), value.flatten(1)], dim=-1)
        ba = kernels.linear(x, self.in_proj_ba).view(num_rows, key_heads, 2, group).float()
        b, a = ba[:, :, 0].flatten(1), ba[:, :, 1].flatten(1)
        decay = torch.exp(-torch.exp(self.a_log) * softplus(a + self.dt_bias))
        return inputs, gate.reshape(num_rows, value_heads, value_dim), sigmoid(b), decay


def _l2_norm(x: Tensor) -> Tensor:
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + L2_EPS)
