"""Qwen3-Next, top to bottom: its layers, what each computes and the memory it needs.

Everything about the architecture is here, in `engine.layers` and in the operators it calls; nothing about it is
elsewhere.
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
from engine.model.config import ModelConfig
from engine.quant.matrix import Matrix
from engine.weights.source import WeightSource


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """h = x + mixer(norm(x)); out = h + feed-forward(norm(h)). The second norm is the feed-forward half's own."""

    input_norm: Tensor
    mixer: Attention | GatedDeltaNet
    feed_forward: SparseMoe | Mlp

    @classmethod
    def load(cls, config: ModelConfig, source: WeightSource, index: int) -> "Layer":
        is_attention = config.layer_types[index] == "full_attention"
        post_norm = source.post_norm(index)
        return cls(
            input_norm=source.input_norm(index),
            mixer=Attention.of(config, source.attention(index))
            if is_attention
            else GatedDeltaNet.of(config, source.delta_net(index)),
            feed_forward=Mlp(post_norm, config.rms_norm_eps, source.mlp(index))
            if index in config.dense_layers
            else SparseMoe.of(config, post_norm, source.moe(index)),
        )

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        return *self.mixer.projections, self.mixer.out, *self.feed_forward.matrices


@dataclass(frozen=True, slots=True, eq=False)
class Qwen3Next:
    """The whole model, ready to compute."""

    config: ModelConfig
    kernels: Kernels
    rope: Rope
    embedding: Matrix
    layers: tuple[Layer, ...]
    norm: Tensor
    lm_head: Matrix

    @classmethod
    def load(cls, config: ModelConfig, source: WeightSource, kernels: Kernels) -> "Qwen3Next":
        """Take every weight from a source; raises `LoadError` when it has not just what the configuration asks for."""
        embedding = source.embedding()
        model = cls(
            config=config,
            kernels=kernels,
            rope=Rope.of(config.rope, embedding.device),
            embedding=embedding,
            layers=tuple(Layer.load(config, source, index) for index in range(config.num_layers)),
            norm=source.final_norm(),
            lm_head=source.lm_head(),
        )
        source.finish()
        return model

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        """Every matrix once."""
        head = () if self.lm_head is self.embedding else (self.lm_head,)
        return self.embedding, *(matrix for layer in self.layers for matrix in layer.matrices), *head

    @torch.inference_mode()
    def forward(self, batch: TokenBatch, memory: Sequence[LayerMemory]) -> Tensor:
        """Compute a batch, advance its memory, and return its rows behind the last layer, fp32 [T, hidden]."""
        kernels, eps = self.kernels, self.config.rms_norm_eps
        rotation = self.rope.at(batch.positions)
        x = kernels.embed(self.embedding, batch.token_ids)
        for layer, layer_memory in zip(self.layers, memory, strict=True):
            projected = kernels.project(x, layer.input_norm, eps, layer.mixer.projections)
            mixed = self._mix(layer.mixer, projected, batch, rotation, layer_memory)
            x = kernels.add_projection(x, mixed, layer.mixer.out)
            x = self._feed_forward(layer.feed_forward, x)
        return x

    @torch.inference_mode()
    def logits(self, x: Tensor, rows: Tensor) -> Tensor:
        """The logits of some of the rows that `forward` has returned, fp32 [R, vocabulary]."""
        return self.kernels.project(x[rows], self.norm, self.config.rms_norm_eps, (self.lm_head,))

    def _mix(
        self,
        mixer: Attention | GatedDeltaNet,
        projected: Tensor,
        batch: TokenBatch,
        rotation: Rotation,
        memory: LayerMemory,
    ) -> Tensor:
        if isinstance(mixer, Attention):
            assert isinstance(memory, PagedKV)
            return self.kernels.attention_mix(mixer, projected, rotation, batch.kv_rows, memory, batch.spans)
        assert isinstance(memory, RecurrentState)
        mixed = []
        for segment in batch.segments:
            rows = projected[segment.start : segment.end]
            mixed.append(self.kernels.delta_net_mix(mixer, rows, memory, segment.spans))
            for from_slot, to_slot in segment.copies:
                memory.copy(from_slot, to_slot)
        return mixed[0] if len(mixed) == 1 else torch.cat(mixed)

    def _feed_forward(self, half: SparseMoe | Mlp, x: Tensor) -> Tensor:
        return self.kernels.add_moe(x, half) if isinstance(half, SparseMoe) else self.kernels.add_mlp(x, half)
