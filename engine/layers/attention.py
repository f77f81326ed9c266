"""Gated full attention: what `attention_mix` needs to know."""

from dataclasses import dataclass

from engine.model.config import ModelConfig
from engine.quant.matrix import Matrix
from engine.weights.source import AttentionWeights


@dataclass(frozen=True, slots=True, eq=False)
class Attention:
    """One attention mixer.

    A projected row holds, in this order, for each query head its query and its output gate [num_heads, 2 * head_dim],
    then the keys and the values [num_kv_heads, head_dim] each. `eps` is that of the query's and key's norms.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    eps: float
    weights: AttentionWeights

    @classmethod
    def of(cls, config: ModelConfig, weights: AttentionWeights) -> "Attention":
        return cls(
            num_heads=config.num_attention_heads,
            num_kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            eps=config.rms_norm_eps,
            weights=weights,
        )

    @property
    def projections(self) -> tuple[Matrix, ...]:
        """Matrices whose outputs, one after the other, make a projected row."""
        return self.weights.query, self.weights.key, self.weights.value

    @property
    def out(self) -> Matrix:
        """[hidden, num_heads * head_dim]."""
        return self.weights.out
