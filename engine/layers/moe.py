"""The feed-forward half of a layer, its norm included: a mixture of experts with a shared one, or a plain SwiGLU."""

from dataclasses import dataclass

from torch import Tensor

from engine.model.config import ModelConfig
from engine.quant.matrix import Matrix
from engine.weights.source import MlpWeights, MoeWeights


@dataclass(frozen=True, slots=True, eq=False)
class Mlp:
    """A SwiGLU behind its norm: `norm` is the factor, fp32 [hidden]."""

    norm: Tensor
    eps: float
    weights: MlpWeights

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        return _matrices(self.weights)


@dataclass(frozen=True, slots=True, eq=False)
class SparseMoe:
    """A mixture of experts behind its norm: `top_k` are chosen, their weights made to sum to one if `normalise`."""

    norm: Tensor
    eps: float
    top_k: int
    normalise: bool
    weights: MoeWeights

    @classmethod
    def of(cls, config: ModelConfig, norm: Tensor, weights: MoeWeights) -> "SparseMoe":
        return cls(norm, config.rms_norm_eps, config.num_experts_per_tok, config.norm_topk_prob, weights)

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        return self.weights.router, *_matrices(self.weights.experts), *_matrices(self.weights.shared)


def _matrices(weights: MlpWeights) -> tuple[Matrix, ...]:
    return weights.gate, weights.up, weights.down
