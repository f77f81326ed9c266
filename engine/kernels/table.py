"""`Kernels`: the operators a model calls, chosen once when it is loaded."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from engine.kernels.causal_conv.reference import causal_conv
from engine.kernels.gated_delta_rule.reference import gated_delta_rule
from engine.kernels.linear.reference import linear
from engine.kernels.moe.reference import moe, route, swiglu
from engine.kernels.norm.reference import gated_rms_norm, rms_norm
from engine.kernels.paged_attention.reference import paged_attention


@dataclass(frozen=True, slots=True)
class Kernels:
    """One implementation of each operator. Contracts stand at the references in `engine.kernels.*.reference`."""

    name: str
    linear: Callable[..., Tensor]
    rms_norm: Callable[..., Tensor]
    gated_rms_norm: Callable[..., Tensor]
    causal_conv: Callable[..., Tensor]
    gated_delta_rule: Callable[..., Tensor]
    paged_attention: Callable[..., Tensor]
    route: Callable[..., tuple[Tensor, Tensor]]
    moe: Callable[..., Tensor]
    swiglu: Callable[..., Tensor]


def reference_kernels() -> Kernels:
    """Plain torch for everything; runs wherever torch does."""
    return Kernels(
        name="torch reference",
        linear=linear,
        rms_norm=rms_norm,
        gated_rms_norm=gated_rms_norm,
        causal_conv=causal_conv,
        gated_delta_rule=gated_delta_rule,
        paged_attention=paged_attention,
        route=route,
        moe=moe,
        swiglu=swiglu,
    )
