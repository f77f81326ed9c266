"""Rotary position embedding, with YaRN."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.model.config import RopeConfig, YarnConfig


@dataclass(frozen=True, slots=True)
class Rotation:
    """cos and sin of a batch's positions, fp32 [T, rotary dim / 2]. Computed once a batch, used by every layer."""

    cos: Tensor
    sin: Tensor


@dataclass(frozen=True, slots=True)
class Rope:
    """Inverse frequencies, fp32 [rotary dim / 2], and the factor YaRN puts on cos and sin."""

    inverse_frequencies: Tensor
    factor: float

    @classmethod
    def of(cls, config: RopeConfig, device: torch.device) -> "Rope":
        exponents = torch.arange(0, config.rotary_dim, 2, dtype=torch.float32) / config.rotary_dim
        inverse = 1.0 / config.theta**exponents
        if config.yarn is None:
            return cls(inverse.to(device), 1.0)
        keep = 1.0 - _interpolated_share(config, config.yarn)
        mixed = inverse / config.yarn.factor * (1.0 - keep) + inverse * keep
        return cls(mixed.to(device), _attention_factor(config.yarn))

    def at(self, positions: Tensor) -> Rotation:
        """cos and sin for int64 positions [T]."""
        angles = positions.unsqueeze(1).float() * self.inverse_frequencies
        return Rotation(angles.cos() * self.factor, angles.sin() * self.factor)


def _interpolated_share(config: RopeConfig, yarn: YarnConfig) -> Tensor:
    """YaRN's ramp: 0 where a frequency turns often within the original context, 1 where it hardly turns."""

    def dimension(rotations: float) -> float:
        turns = yarn.original_max_position_embeddings / (rotations * 2 * math.pi)
        return config.rotary_dim * math.log(turns) / (2 * math.log(config.theta))

    low, high = dimension(yarn.beta_fast), dimension(yarn.beta_slow)
    if yarn.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, config.rotary_dim - 1)
    if low == high:
        high += 0.001
    ramp = (torch.arange(config.rotary_dim // 2, dtype=torch.float32) - low) / (high - low)
    return ramp.clamp(0.0, 1.0)


def _attention_factor(yarn: YarnConfig) -> float:
    if yarn.attention_factor is not None:
        return yarn.attention_factor
    return 0.1 * math.log(yarn.factor) + 1.0 if yarn.factor > 1.0 else 1.0
