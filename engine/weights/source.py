"""`WeightSource`: a model's weights by what they are for, whatever the checkpoint calls them and how it stores them.

One implementation for hub folders, one for GGUF files. A source notes what it lacks or finds misshapen, hands out an
empty stand-in, and tells everything at once in `finish`.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from engine.quant.matrix import Matrix


@dataclass(frozen=True, slots=True)
class HeadGroups:
    """Where the parts of one kind stand in a projected row: key head g's start at `offset + g * stride`."""

    offset: int
    stride: int


@dataclass(frozen=True, slots=True)
class DeltaNetWeights:
    """Weights of a Gated DeltaNet. Value head `g * ratio + j` belongs to key head g.

    Attributes:
        projections: matrices [., hidden] whose outputs, one after the other, make a projected row: q, k, v, z at the
            places below, then at `ba` for each key head all its b and all its a (stride 2 * ratio).
        conv: fp32 [channels, kernel]; channels are all q, all k, all v in head order.
        decay_rate: -exp(A_log), fp32 [value heads].
        dt_bias: fp32 [value heads].
        norm: fp32 [value head dim], the factor itself.
        out: [hidden, value heads * value head dim].
    """

    projections: tuple[Matrix, ...]
    query: HeadGroups
    key: HeadGroups
    value: HeadGroups
    gate: HeadGroups
    ba: HeadGroups
    conv: Tensor
    decay_rate: Tensor
    dt_bias: Tensor
    norm: Tensor
    out: Matrix


@dataclass(frozen=True, slots=True)
class AttentionWeights:
    """Weights of gated attention. `query` holds, head by head, the query's rows and then the output gate's.

    q_norm and k_norm are factors (1 + the checkpoint's weight), fp32 [head dim].
    """

    query: Matrix
    key: Matrix
    value: Matrix
    out: Matrix
    q_norm: Tensor
    k_norm: Tensor


@dataclass(frozen=True, slots=True)
class MlpWeights:
    """A SwiGLU's projections [intermediate, hidden] twice and [hidden, intermediate]; stacked for experts."""

    gate: Matrix
    up: Matrix
    down: Matrix


@dataclass(frozen=True, slots=True)
class MoeWeights:
    """A mixture of experts: router [experts, hidden], the stacks, the shared expert and its gate fp32 [hidden]."""

    router: Matrix
    experts: MlpWeights
    shared: MlpWeights
    shared_gate: Tensor


class WeightSource(Protocol):
    """All methods may be called once for each weight; `layer` counts from 0. Norms are fp32 factors (1 + weight)."""

    def embedding(self) -> Matrix:
        """[vocabulary, hidden]."""
        ...

    def lm_head(self) -> Matrix:
        """[vocabulary, hidden]; the embedding when these are tied."""
        ...

    def final_norm(self) -> Tensor:
        """The norm before lm_head, fp32 [hidden]."""
        ...

    def input_norm(self, layer: int) -> Tensor:
        """The norm before a layer's mixer, fp32 [hidden]."""
        ...

    def post_norm(self, layer: int) -> Tensor:
        """The norm before a layer's feed-forward half, fp32 [hidden]."""
        ...

    def delta_net(self, layer: int) -> DeltaNetWeights:
        """A linear-attention layer's mixer."""
        ...

    def attention(self, layer: int) -> AttentionWeights:
        """A full-attention layer's mixer."""
        ...

    def moe(self, layer: int) -> MoeWeights:
        """A layer's mixture of experts."""
        ...

    def mlp(self, layer: int) -> MlpWeights:
        """The SwiGLU of a layer without experts."""
        ...

    def finish(self) -> None:
        """Raise `LoadError` naming what was missing, had another shape, or was never asked for."""
        ...
