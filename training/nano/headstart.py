"""An initialisation that copies: the model begins with an induction circuit instead of having to discover one.

Tool calls are made of names and values that stand in the prompt, so copying is most of the job. Left to itself a model
finds out how (match the current token with an earlier one, take what followed) only after many millions of tokens; here
the circuit is written into the weights at the start and training keeps and refines it.

    layer 0, DeltaNet     forgets at once and takes v from the previous token: writes Q e(t-1) beside e(t)
    layer 3, attention    query K e(t), key K Qᵀ(…): looks where the previous token was this one; writes R e(s)
    lm_head               reads R e(s) as token s

K, Q and R are random and orthonormal, so the three do not disturb each other much. One dimension of the embedding is
the same for all tokens: a constant that the output gate of layer 0 reads. The other layers begin by adding nothing.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from .model import Attention, GatedDeltaNet, Layer, Nano

PREVIOUS, CURRENT = -2, -1  # taps of the convolution
SHARPNESS = 1.5  # weight of the q and k norms: their scale is 1 + this
LINEAR = 0.4  # small enough for SiLU to be nearly a line
GATE = 4.0
WRITTEN = 0.5  # size of what layer 0 writes, the same as the embedding's
LOGIT_SCALE = 0.12


def orthonormal(rows: int, columns: int) -> Tensor:
    """Random rows of length one at right angles (rows ≤ columns)."""
    basis: Tensor = torch.linalg.qr(torch.randn(columns, rows))[0]
    return basis.mT.contiguous()


@torch.no_grad()
def write_copying_circuit(model: Nano) -> None:
    """Overwrite the freshly initialised weights with the circuit."""
    hidden = model.config.hidden_size
    carried, answered = orthonormal(hidden, hidden), orthonormal(hidden, hidden)
    embeddings = model.embed_tokens.weight
    embeddings[:, 0] = 1.0
    layers = [cast(Layer, layer) for layer in model.layers]
    for layer in layers:
        layer.mlp.down.zero_()
        layer.mlp.shared_down.weight.zero_()
        if layer.self_attn is not None:
            layer.self_attn.o_proj.weight.zero_()
        if layer.linear_attn is not None:
            layer.linear_attn.out_proj.weight.zero_()
    first, matching = layers[0].linear_attn, layers[model.config.full_attention_interval - 1].self_attn
    assert first is not None
    assert matching is not None
    constant = embeddings[:, 0].mean() * embeddings.square().mean().rsqrt()  # what the first norm makes of it
    _carry_previous_token(first, carried, WRITTEN / float(F.silu(GATE * constant)))
    _match_and_answer(matching, carried, answered)
    centred = embeddings - embeddings.mean(0)
    model.lm_head.weight.copy_(LOGIT_SCALE * centred @ answered.mT)


def _carry_previous_token(mixer: GatedDeltaNet, carried: Tensor, scale: float) -> None:
    hidden = carried.shape[0]
    keys, ratio = mixer.key_dim, mixer.value_heads // mixer.key_heads
    values = ratio * mixer.value_dim
    projection = orthonormal(hidden, hidden)[: mixer.values]
    grouped = mixer.in_proj_qkvz.weight.view(mixer.key_heads, -1, hidden)
    for head, group in enumerate(grouped):
        query = torch.randn(keys, hidden) * hidden**-0.5
        group[:keys] = query
        group[keys : 2 * keys] = query
        group[2 * keys : 2 * keys + values] = LINEAR * projection[head * values : (head + 1) * values]
        gate = group[2 * keys + values :]
        gate.zero_()
        gate[:, 0] = GATE
    mixer.in_proj_ba.weight.zero_()
    mixer.A_log.fill_(2.0)
    mixer.dt_bias.fill_(1.0)  # a decay of e^-9.7: nothing of the state survives a step
    mixer.conv1d.zero_()
    mixer.conv1d[CURRENT, : 2 * mixer.keys] = 1.0
    mixer.conv1d[PREVIOUS, 2 * mixer.keys :] = 1.0
    mixer.out_proj.weight.copy_(scale * carried @ projection.mT)


def _match_and_answer(mixer: Attention, carried: Tensor, answered: Tensor) -> None:
    hidden, dim = carried.shape[0], mixer.dim
    group = mixer.heads // mixer.kv_heads
    queries = mixer.q_proj.weight.view(mixer.heads, 2 * dim, hidden)
    values = orthonormal(hidden, hidden)[: mixer.kv_heads * dim]
    for kv_head in range(mixer.kv_heads):
        match = orthonormal(dim, hidden)
        match[: dim // 4] = 0.0  # the rotated dimensions
        match[:, 0] = 0.0  # the constant
        mixer.k_proj.weight[kv_head * dim : (kv_head + 1) * dim] = match @ carried.mT
        for head in range(kv_head * group, (kv_head + 1) * group):
            queries[head, :dim] = match
            queries[head, dim:] = 0.0
            part = values[kv_head * dim : (kv_head + 1) * dim]
            mixer.o_proj.weight[:, head * dim : (head + 1) * dim] = 4.0 / group * answered @ part.mT
    mixer.v_proj.weight.copy_(values)
    mixer.q_norm.weight.fill_(SHARPNESS)
    mixer.k_norm.weight.fill_(SHARPNESS)
