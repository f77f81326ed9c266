"""The feed-forward half of a layer: a mixture of experts with a shared one, or a plain SwiGLU."""

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.kernels.exact import sigmoid
from engine.kernels.table import Kernels
from engine.layers.targets import Targets
from engine.model.config import ModelConfig


@dataclass(frozen=True, slots=True)
class Mlp:
    """One SwiGLU; the gate's rows stand before the up projection's."""

    gate_up: Tensor
    down: Tensor

    @classmethod
    def declare(cls, hidden: int, intermediate: int, targets: Targets, prefix: str) -> "Mlp":
        gate_up = targets.buffer(2 * intermediate, hidden)
        targets.view(f"{prefix}.gate_proj.weight", gate_up[:intermediate])
        targets.view(f"{prefix}.up_proj.weight", gate_up[intermediate:])
        return cls(gate_up, targets.new(f"{prefix}.down_proj.weight", hidden, intermediate))

    def __call__(self, x: Tensor, kernels: Kernels) -> Tensor:
        return kernels.swiglu(x, self.gate_up, self.down).to(x.dtype)


@dataclass(frozen=True, slots=True)
class SparseMoe:
    """Router in fp32, experts stacked [E, …], the shared expert with its own gate."""

    config: ModelConfig
    router: Tensor
    gate_up: Tensor
    down: Tensor
    shared: Mlp
    shared_gate: Tensor

    @classmethod
    def declare(cls, config: ModelConfig, targets: Targets, prefix: str) -> "SparseMoe":
        hidden, size, num_experts = config.hidden_size, config.moe_intermediate_size, config.num_experts
        gate_up = targets.buffer(num_experts, 2 * size, hidden)
        down = targets.buffer(num_experts, hidden, size)
        first, last = [], []
        for e in range(num_experts):
            expert = f"{prefix}.experts.{e}"
            targets.view(f"{expert}.gate_proj.weight", gate_up[e, :size])
            targets.view(f"{expert}.up_proj.weight", gate_up[e, size:])
            targets.view(f"{expert}.down_proj.weight", down[e])
            first += [f"{expert}.gate_proj.weight", f"{expert}.up_proj.weight"]
            last.append(f"{expert}.down_proj.weight")
        targets.alternative(f"{prefix}.experts.gate_up_proj", gate_up, first)
        targets.alternative(f"{prefix}.experts.down_proj", down, last)
        return cls(
            config,
            router=targets.new(f"{prefix}.gate.weight", num_experts, hidden, dtype=torch.float32),
            gate_up=gate_up,
            down=down,
            shared=Mlp.declare(hidden, config.shared_expert_intermediate_size, targets, f"{prefix}.shared_expert"),
            shared_gate=targets.new(f"{prefix}.shared_expert_gate.weight", 1, hidden),
        )

    def __call__(self, x: Tensor, kernels: Kernels) -> Tensor:
        """Routed experts plus sigmoid(shared gate) × shared expert, for rows x [T, hidden]."""
        x32 = x.float()
        logits = kernels.linear(x32, self.router)
        weights, experts = kernels.route(logits, self.config.num_experts_per_tok, self.config.norm_topk_prob)
        routed = kernels.moe(x, weights, experts, self.gate_up, self.down)
        gate = sigmoid((x32 * self.shared_gate.float()).sum(-1, keepdim=True))
        shared = kernels.swiglu(x, self.shared.gate_up, self.shared.down)
        return (routed + gate * shared).to(x.dtype)
