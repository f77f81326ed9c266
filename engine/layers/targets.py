"""`Targets`: where each tensor of a checkpoint goes.

A layer allocates its weights here under their checkpoint names; the loader then fills them and checks that nothing
is missing, left over or of another shape. Stacked experts are views into one buffer, so a per-expert file and a
fused one fill the same memory, and nothing is held twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Fused:
    """A tensor that some checkpoints hold in place of several."""

    tensor: Tensor
    parts: tuple[str, ...]


@dataclass(slots=True)
class Targets:
    """Destinations by checkpoint name. `dtype` and `device` are those of ordinary weights."""

    dtype: torch.dtype
    device: torch.device
    tensors: dict[str, Tensor] = field(default_factory=dict)
    fused: dict[str, Fused] = field(default_factory=dict)

    def buffer(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Memory without a name, for views."""
        return torch.empty(shape, dtype=dtype or self.dtype, device=self.device)

    def new(self, name: str, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Memory for one tensor of the checkpoint."""
        return self.view(name, self.buffer(*shape, dtype=dtype))

    def view(self, name: str, tensor: Tensor) -> Tensor:
        """Let a checkpoint tensor fill this (part of a) tensor."""
        self.tensors[name] = tensor
        return tensor

    def alternative(self, name: str, tensor: Tensor, parts: Sequence[str]) -> None:
        """A fused tensor that may come in place of `parts`."""
        self.fused[name] = Fused(tensor, tuple(parts))
