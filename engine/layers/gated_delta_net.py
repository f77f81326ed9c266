"""Gated DeltaNet, linear attention with a recurrent state: what `delta_net_mix` needs to know."""

from dataclasses import dataclass

from engine.model.config import ModelConfig
from engine.quant.matrix import Matrix
from engine.weights.source import DeltaNetWeights


@dataclass(frozen=True, slots=True, eq=False)
class GatedDeltaNet:
    """One DeltaNet mixer; its weights say where the parts of a projected row are. `eps` is that of the output norm."""

    num_key_heads: int
    num_value_heads: int
    key_dim: int
    value_dim: int
    eps: float
    weights: DeltaNetWeights

    @classmethod
    def of(cls, config: ModelConfig, weights: DeltaNetWeights) -> "GatedDeltaNet":
        return cls(
            num_key_heads=config.linear_num_key_heads,
            num_value_heads=config.linear_num_value_heads,
            key_dim=config.linear_key_head_dim,
            value_dim=config.linear_value_head_dim,
            eps=config.rms_norm_eps,
            weights=weights,
        )

    @property
    def projections(self) -> tuple[Matrix, ...]:
        """Matrices whose outputs, one after the other, make a projected row."""
        return self.weights.projections

    @property
    def out(self) -> Matrix:
        """[hidden, num_value_heads * value_dim]."""
        return self.weights.out
