"""`Kernels`: the operators a model calls, chosen once when it is loaded. One call is one block of the model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.batch import PagedKV, RecurrentState, Span
from engine.kernels.attention_mix.reference import attention_mix
from engine.kernels.delta_net_mix.reference import delta_net_mix
from engine.kernels.embedding.reference import embed
from engine.kernels.linear.reference import add_projection, project
from engine.kernels.moe.reference import add_mlp, add_moe
from engine.kernels.norm.reference import rms_norm
from engine.kernels.sampling.reference import sample
from engine.layers.attention import Attention
from engine.layers.gated_delta_net import GatedDeltaNet
from engine.layers.moe import Mlp, SparseMoe
from engine.layers.rope import Rotation
from engine.quant.formats import Format
from engine.quant.matrix import Matrix
from engine.quant.quantise import quantise
from engine.sampling.draw import Draw, Drawn, NoToken


@dataclass(frozen=True, slots=True)
class Kernels:
    """One implementation of each operator. Contracts stand at the references in `engine.kernels.*.reference`, those of
    `quantise` and `pack`, which loading calls, in `engine.quant`.

    Rows x are fp32 [T, hidden]. The three that add return the sum and may write it into x. Those with one `version`
    compute the same bits on the same machine.
    """

    name: str
    version: str
    embed: Callable[[Matrix, Tensor], Tensor]  # matrix, ids
    rms_norm: Callable[[Tensor, Tensor, float], Tensor]  # x, factor, eps
    project: Callable[[Tensor, Tensor | None, float, Sequence[Matrix]], Tensor]  # x, norm's factor, its eps, matrices
    add_projection: Callable[[Tensor, Tensor, Matrix], Tensor]  # x, y, matrix
    delta_net_mix: Callable[[GatedDeltaNet, Tensor, RecurrentState, Sequence[Span]], Tensor]  # second: projected
    attention_mix: Callable[[Attention, Tensor, Rotation, Tensor, PagedKV, Sequence[Span]], Tensor]  # fourth: kv_rows
    add_moe: Callable[[Tensor, SparseMoe], Tensor]
    add_mlp: Callable[[Tensor, Mlp], Tensor]
    sample: Callable[[Tensor, Sequence[Draw], int], Sequence[Drawn | NoToken]]  # logits; third: num_used_tokens
    quantise: Callable[[Matrix, Format], Matrix]
    pack: Callable[[Matrix], Matrix] | None  # where it is, its parts one after the other; None: nothing is packed
    repack: Callable[[Matrix], None] | None  # a copy, with which the kernels compute from now on


def reference_kernels() -> Kernels:
    """Plain torch for everything; runs wherever torch does."""
    return Kernels(
        name="torch reference",
        version=f"torch {torch.__version__} with {torch.get_num_threads()} threads",
        embed=embed,
        rms_norm=rms_norm,
        project=project,
        add_projection=add_projection,
        delta_net_mix=delta_net_mix,
        attention_mix=attention_mix,
        add_moe=add_moe,
        add_mlp=add_mlp,
        sample=sample,
        quantise=quantise,
        pack=None,
        repack=None,
    )
