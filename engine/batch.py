"""The device-side contract between runner, model and kernels: what is computed and the two kinds of memory.

Rows of a batch are tokens, packed: sequence after sequence, no padding. Everything is explicit; nothing here knows
where a plan comes from.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Span:
    """The rows of one sequence: `start` … `start + num_rows - 1` of the batch, at positions `position` onward.

    `block_ids` is its block table as int64 [num blocks] on the device; `slot` its state slot.
    """

    start: int
    num_rows: int
    position: int
    slot: int
    block_ids: Tensor

    @property
    def end(self) -> int:
        return self.start + self.num_rows

    @property
    def context_len(self) -> int:
        """Positions visible to the span's last row."""
        return self.position + self.num_rows


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows `start` … `end - 1` of a batch, as spans counted from `start`, and states to be copied after them.

    A DeltaNet layer computes segment after segment: a state cannot be had of the middle of a span.
    """

    start: int
    end: int
    spans: tuple[Span, ...]
    copies: tuple[tuple[int, int], ...] = ()  # from slot, to slot


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """One step's tokens.

    Attributes:
        token_ids, positions: int64 [T].
        kv_rows: int64 [T], where each token's K and V go in the flattened cache: block id × block size + offset.
        spans: the sequences, covering all rows in order.
        segments: the same, cut where a state is copied.
        sample_rows: int64 [R], rows whose logits say what may follow.
        score_rows: int64 [S], rows whose logits say how likely the token was that did follow.
    """

    token_ids: Tensor
    positions: Tensor
    kv_rows: Tensor
    spans: tuple[Span, ...]
    segments: tuple[Segment, ...]
    sample_rows: Tensor
    score_rows: Tensor


@dataclass(frozen=True, slots=True)
class PagedKV:
    """K and V of one full-attention layer: bf16 or fp32 [num blocks, block size, KV heads, head dim] each."""

    keys: Tensor
    values: Tensor

    @property
    def block_size(self) -> int:
        return self.keys.shape[1]

    def copy_block(self, from_block: int, to_block: int) -> None:
        """Make a block what another is."""
        self.keys[to_block].copy_(self.keys[from_block])
        self.values[to_block].copy_(self.values[from_block])

    def write(self, rows: Tensor, keys: Tensor, values: Tensor) -> None:
        """Store keys and values [T, KV heads, head dim] at flattened rows [T], rounded to the cache's dtype."""
        self.keys.flatten(0, 1).index_copy_(0, rows, keys.to(self.keys.dtype))
        self.values.flatten(0, 1).index_copy_(0, rows, values.to(self.values.dtype))


@dataclass(frozen=True, slots=True)
class RecurrentState:
    """State slots of one DeltaNet layer.

    Attributes:
        delta: S, fp32 [slots, value heads, key dim, value dim].
        conv: the last inputs of the causal convolution, oldest first, fp32 [slots, kernel - 1, channels].
    """

    delta: Tensor
    conv: Tensor

    def reset(self, slot: int) -> None:
        """Make a slot the state before the first token."""
        self.delta[slot].zero_()
        self.conv[slot].zero_()

    def copy(self, from_slot: int, to_slot: int) -> None:
        """Make a slot what another is."""
        self.delta[to_slot].copy_(self.delta[from_slot])
        self.conv[to_slot].copy_(self.conv[from_slot])


LayerMemory = PagedKV | RecurrentState


def dtype_named(name: str) -> torch.dtype:
    """The torch dtype of a name such as "bfloat16"."""
    dtype = getattr(torch, name.removeprefix("torch."), None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{name!r} is not a dtype")
    return dtype
