"""The model's two norms in plain torch: fp32 inside, one cast at the end."""

import torch
from torch import Tensor

from engine.kernels.exact import silu


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Zero-centred RMS norm: x · rsqrt(mean(x²) + eps) · (1 + weight), over the last dimension.

    Shapes: x [..., D], weight [D]; returns x's shape and dtype.
    """
    x32 = x.float()
    return (x32 * _inverse_rms(x32, eps) * (1.0 + weight.float())).to(x.dtype)


def gated_rms_norm(x: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Plain RMS norm, then gated: weight · x · rsqrt(mean(x²) + eps) · silu(gate), over the last dimension.

    Shapes: x fp32 [..., D], gate [..., D], weight [D]; returns x's shape in gate's dtype.
    """
    return (weight.float() * (x * _inverse_rms(x, eps)) * silu(gate.float())).to(gate.dtype)


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    return torch.rsqrt((x * x).mean(-1, keepdim=True) + eps)
