"""The tensors behind blocks and slots: one paged KV or one set of state slots a layer."""

from dataclasses import dataclass

import torch

from engine.batch import LayerMemory, PagedKV, RecurrentState
from engine.model.config import ModelConfig
from engine.pages import untouched_zeros
from engine.plan import Restore


@dataclass(frozen=True, slots=True)
class Storage:
    """Memory of all layers, in layer order."""

    layers: tuple[LayerMemory, ...]

    @classmethod
    def allocate(
        cls,
        config: ModelConfig,
        num_blocks: int,
        block_size: int,
        num_slots: int,
        kv_dtype: torch.dtype,
        device: torch.device,
    ) -> "Storage":
        """Zeroed memory, states in fp32. On a CPU its pages become real when first written."""

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            if device.type != "cpu":
                return torch.zeros(shape, dtype=dtype, device=device)
            return untouched_zeros(shape, dtype)

        kv_shape = (num_blocks, block_size, config.num_key_value_heads, config.head_dim)
        heads = (config.linear_num_value_heads, config.linear_key_head_dim, config.linear_value_head_dim)
        columns = (config.linear_conv_kernel_dim - 1, config.conv_dim)
        return cls(
            tuple(
                PagedKV(zeros(*kv_shape, dtype=kv_dtype), zeros(*kv_shape, dtype=kv_dtype))
                if kind == "full_attention"
                else RecurrentState(zeros(num_slots, *heads), zeros(num_slots, *columns))
                for kind in config.layer_types
            )
        )

    def restore(self, slot: int, restore: Restore) -> None:
        """Make a state slot, and a block if one is named, copies of what a sequence goes on from."""
        for memory in self.layers:
            if isinstance(memory, RecurrentState):
                memory.copy(restore.from_slot, slot)
            elif restore.block is not None:
                memory.copy_block(*restore.block)

    def reset_slot(self, slot: int) -> None:
        """Make a state slot that of an empty sequence, in every DeltaNet layer."""
        for memory in self.layers:
            if isinstance(memory, RecurrentState):
                memory.reset(slot)

    def block_parts(self, block_id: int) -> list[torch.Tensor]:
        """A KV block's keys and values, layer by layer, each contiguous: [block size, KV heads, head dim]."""
        paged = [memory for memory in self.layers if isinstance(memory, PagedKV)]
        return [part[block_id] for memory in paged for part in (memory.keys, memory.values)]

    def state_parts(self, slot: int) -> list[torch.Tensor]:
        """A slot's state, layer by layer, each part contiguous: see `RecurrentState`."""
        recurrent = [memory for memory in self.layers if isinstance(memory, RecurrentState)]
        return [part[slot] for memory in recurrent for part in (memory.delta, memory.conv)]
