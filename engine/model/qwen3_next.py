"""Qwen3-Next, top to bottom: its layers, the memory each needs, and its checkpoint names.

Everything about the architecture is here or in `engine.layers`; nothing about it is elsewhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.batch import LayerMemory, PagedKV, RecurrentState, TokenBatch
from engine.kernels.table import Kernels
from engine.layers.attention import Attention
from engine.layers.gated_delta_net import GatedDeltaNet
from engine.layers.moe import Mlp, SparseMoe
from engine.layers.rope import Rope, Rotation
from engine.layers.targets import Targets
from engine.model.config import ModelConfig

IGNORED_PREFIXES = ("mtp.",)  # the multi-token-prediction head of the Next-80B files


@dataclass(frozen=True, slots=True)
class Layer:
    """h = x + mixer(norm(x)); out = h + feed-forward(norm(h))."""

    input_norm: Tensor
    mixer: Attention | GatedDeltaNet
    post_norm: Tensor
    feed_forward: SparseMoe | Mlp

    @classmethod
    def declare(cls, config: ModelConfig, targets: Targets, index: int) -> "Layer":
        prefix = f"model.layers.{index}"
        is_attention = config.layer_types[index] == "full_attention"
        return cls(
            input_norm=targets.new(f"{prefix}.input_layernorm.weight", config.hidden_size),
            mixer=Attention.declare(config, targets, f"{prefix}.self_attn")
            if is_attention
            else GatedDeltaNet.declare(config, targets, f"{prefix}.linear_attn"),
            post_norm=targets.new(f"{prefix}.post_attention_layernorm.weight", config.hidden_size),
            feed_forward=Mlp.declare(config.hidden_size, config.intermediate_size, targets, f"{prefix}.mlp")
            if index in config.dense_layers
            else SparseMoe.declare(config, targets, f"{prefix}.mlp"),
        )


@dataclass(frozen=True, slots=True)
class Qwen3Next:
    """The whole model. Weights are declared first and filled by the loader."""

    config: ModelConfig
    kernels: Kernels
    rope: Rope
    embedding: Tensor
    layers: tuple[Layer, ...]
    norm: Tensor
    lm_head: Tensor

    @classmethod
    def declare(cls, config: ModelConfig, targets: Targets, kernels: Kernels) -> "Qwen3Next":
        embedding = targets.new("model.embed_tokens.weight", config.vocab_size, config.hidden_size)
        tied = config.tie_word_embeddings
        return cls(
            config=config,
            kernels=kernels,
            rope=Rope.of(config.rope, targets.device),
            embedding=embedding,
            layers=tuple(Layer.declare(config, targets, i) for i in range(config.num_layers)),
            norm=targets.new("model.norm.weight", config.hidden_size),
            lm_head=embedding if tied else targets.new("lm_head.weight", config.vocab_size, config.hidden_size),
        )

    @torch.inference_mode()
    def forward(self, batch: TokenBatch, memory: Sequence[LayerMemory]) -> Tensor:
        """Compute a batch, advance its memory, and return the logits of its sample rows, fp32 [R, vocabulary]."""
        kernels, eps = self.kernels, self.config.rms_norm_eps
        rotation = self.rope.at(batch.positions)
        x = self.embedding[batch.token_ids]
        for layer, layer_memory in zip(self.layers, memory, strict=True):
            x = x + self._mix(layer, kernels.rms_norm(x, layer.input_norm, eps), batch, rotation, layer_memory)
            x = x + layer.feed_forward(kernels.rms_norm(x, layer.post_norm, eps), kernels)
        sampled = kernels.rms_norm(x[batch.sample_rows], self.norm, eps)
        return kernels.linear(sampled, self.lm_head).float()

    def _mix(self, layer: Layer, x: Tensor, batch: TokenBatch, rotation: Rotation, memory: LayerMemory) -> Tensor:
        if isinstance(layer.mixer, Attention):
            assert isinstance(memory, PagedKV)
            return layer.mixer(x, batch, rotation, memory, self.kernels)
        assert isinstance(memory, RecurrentState)
        return layer.mixer(x, batch, memory, self.kernels)
