"""The model's two norms in plain torch, fp32."""

import torch
from torch import Tensor

from engine.kernels.exact import silu


def rms_norm(x: Tensor, factor: Tensor, eps: float) -> Tensor:
    """x · rsqrt(mean(x²) + eps) · factor, over the last dimension; a zero-centred weight w is a factor 1 + w.

    Shapes: x fp32 [..., D], factor fp32 [D]; returns a new tensor of x's shape.
    """
    return x * _inverse_rms(x, eps) * factor


def gated_rms_norm(x: Tensor, gate: Tensor, factor: Tensor, eps: float) -> Tensor:
    """factor · x · rsqrt(mean(x²) + eps) · silu(gate), over the last dimension.

    Shapes: x and gate fp32 [..., D], factor fp32 [D]; returns x's shape.
    """
    return factor * (x * _inverse_rms(x, eps)) * silu(gate)


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    return torch.rsqrt((x * x).mean(-1, keepdim=True) + eps)
