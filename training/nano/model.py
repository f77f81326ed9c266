"""A trainable `qwen3_next` for a CPU: the mathematics of the published architecture, arranged for speed in training.

What differs from a serving implementation is only the arrangement: whole batches of equal length, the chunked form of
the delta rule, and the matrices of all experts held in one tensor and applied in one product. `export.py` writes the
weights under the hub's names. This module knows nothing of data or files.
"""

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHUNK = 64


@dataclass(frozen=True, slots=True)
class NanoConfig:
    """The sizes of the model, under the names that config.json uses."""

    vocab_size: int
    hidden_size: int = 256
    num_hidden_layers: int = 8
    full_attention_interval: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    partial_rotary_factor: float = 0.25
    rope_theta: float = 5_000_000.0
    linear_num_key_heads: int = 2
    linear_num_value_heads: int = 4
    linear_key_head_dim: int = 64
    linear_value_head_dim: int = 64
    linear_conv_kernel_dim: int = 4
    num_experts: int = 16
    num_experts_per_tok: int = 4
    moe_intermediate_size: int = 64
    shared_expert_intermediate_size: int = 128
    rms_norm_eps: float = 1e-6

    def is_attention(self, layer: int) -> bool:
        return (layer + 1) % self.full_attention_interval == 0

    def as_dict(self) -> dict[str, int | float]:
        return asdict(self)


class ZeroCentredNorm(nn.Module):
    """RMSNorm whose stored weight is the distance from one."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (scaled * (1.0 + self.weight)).to(x.dtype)


class GatedNorm(nn.Module):
    """RMSNorm with a plain weight, then a SiLU gate."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        normed = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * normed * F.silu(gate.float())


class Attention(nn.Module):
    """Causal grouped-query attention with normalised q and k, partial RoPE and an output gate."""

    def __init__(self, config: NanoConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, self.heads * self.dim * 2, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, self.kv_heads * self.dim, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, self.kv_heads * self.dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.dim, config.hidden_size, bias=False)
        self.q_norm = ZeroCentredNorm(self.dim, config.rms_norm_eps)
        self.k_norm = ZeroCentredNorm(self.dim, config.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, _ = x.shape
        query, gate = self.q_proj(x).view(batch, length, self.heads, 2 * self.dim).chunk(2, dim=-1)
        key = self.k_proj(x).view(batch, length, self.kv_heads, self.dim)
        value = self.v_proj(x).view(batch, length, self.kv_heads, self.dim).transpose(1, 2)
        query = rotate(self.q_norm(query).transpose(1, 2), cos, sin)
        key = rotate(self.k_norm(key).transpose(1, 2), cos, sin)
        repeats = self.heads // self.kv_heads
        mixed = F.scaled_dot_product_attention(
            query, key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1), is_causal=True
        )
        mixed = mixed.transpose(1, 2) * torch.sigmoid(gate)
        out: Tensor = self.o_proj(mixed.reshape(batch, length, -1))
        return out


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first dimensions of x [..., T, D] by position; cos and sin are [T, rotated / 2]."""
    half = cos.shape[-1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), -1)
    return torch.cat((turned.to(x.dtype), rest), -1)


class GatedDeltaNet(nn.Module):
    """The linear-attention mixer: short convolution, gated delta rule, gated norm."""

    def __init__(self, config: NanoConfig) -> None:
        super().__init__()
        self.key_heads, self.value_heads = config.linear_num_key_heads, config.linear_num_value_heads
        self.key_dim, self.value_dim = config.linear_key_head_dim, config.linear_value_head_dim
        self.keys, self.values = self.key_heads * self.key_dim, self.value_heads * self.value_dim
        self.in_proj_qkvz = nn.Linear(config.hidden_size, 2 * self.keys + 2 * self.values, bias=False)
        self.in_proj_ba = nn.Linear(config.hidden_size, 2 * self.value_heads, bias=False)
        self.conv1d = nn.Parameter(torch.empty(config.linear_conv_kernel_dim, 2 * self.keys + self.values))
        self.A_log = nn.Parameter(torch.empty(self.value_heads).uniform_(0.5, 8.0).log())
        self.dt_bias = nn.Parameter(torch.empty(self.value_heads).uniform_(-5.0, -2.0))
        self.norm = GatedNorm(self.value_dim, config.rms_norm_eps)
        self.out_proj = nn.Linear(self.values, config.hidden_size, bias=False)
        nn.init.uniform_(self.conv1d, -0.5, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        ratio = self.value_heads // self.key_heads
        widths = [self.key_dim, self.key_dim, ratio * self.value_dim, ratio * self.value_dim]
        q, k, v, z = self.in_proj_qkvz(x).view(batch, length, self.key_heads, sum(widths)).split(widths, -1)
        b, a = self.in_proj_ba(x).view(batch, length, self.key_heads, 2 * ratio).float().chunk(2, -1)
        mixed = self.convolve(torch.cat([part.reshape(batch, length, -1) for part in (q, k, v)], -1))
        q, k, v = mixed.split([self.keys, self.keys, self.values], -1)
        beta = torch.sigmoid(b).reshape(batch, length, self.value_heads)
        decay = -self.A_log.exp() * F.softplus(a.reshape(batch, length, self.value_heads) + self.dt_bias)
        out = delta_rule(
            unit(q.view(batch, length, self.key_heads, -1)).repeat_interleave(ratio, 2) * self.key_dim**-0.5,
            unit(k.view(batch, length, self.key_heads, -1)).repeat_interleave(ratio, 2),
            v.view(batch, length, self.value_heads, -1).float(),
            beta,
            decay,
        )
        gated = self.norm(out, z.reshape(batch, length, self.value_heads, -1))
        projected: Tensor = self.out_proj(gated.reshape(batch, length, -1).to(x.dtype))
        return projected

    def convolve(self, channels: Tensor) -> Tensor:
        """Depthwise causal convolution over time, as a sum of shifted products, then SiLU."""
        taps = self.conv1d.shape[0]
        padded = F.pad(channels, (0, 0, taps - 1, 0))
        length = channels.shape[1]
        weight = self.conv1d.to(channels.dtype)
        total = padded[:, :length] * weight[0]
        for tap in range(1, taps):
            total = total + padded[:, tap : tap + length] * weight[tap]
        return F.silu(total)


def unit(x: Tensor) -> Tensor:
    """Vectors of length one, in fp32."""
    wide = x.float()
    return wide * torch.rsqrt(wide.square().sum(-1, keepdim=True) + 1e-6)


def delta_rule(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, decay: Tensor) -> Tensor:
    """The gated delta rule over chunks of 64 tokens, from a zero state.

    q, k [B, T, H, Dk] and v [B, T, H, Dv] in fp32, beta and decay (a logarithm, at most 0) [B, T, H]; gives
    [B, T, H, Dv]. Inside a chunk the recurrence is a unit triangular system; between chunks a state
    [Dk, Dv] is carried.
    """
    batch, length, heads, _ = v.shape
    pad = -length % CHUNK

    def chunks(x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0) * (x.dim() - 2) + (0, pad)).transpose(1, 2)
        return x.reshape(batch * heads, -1, CHUNK, *x.shape[3:])

    q, k, v, beta, decay = chunks(q), chunks(k), chunks(v), chunks(beta), chunks(decay)
    total = decay.cumsum(-1)
    causal = torch.ones(CHUNK, CHUNK, dtype=torch.bool).tril()
    between = (total[..., :, None] - total[..., None, :]).masked_fill(~causal, float("-inf")).exp()
    grown = total.exp()[..., None]
    scaled_k = k * beta[..., None]
    system = (scaled_k @ k.transpose(-1, -2)) * between
    right = torch.cat((v * beta[..., None], scaled_k * grown), -1)
    solved = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
    fresh, seen = solved.split([v.shape[-1], k.shape[-1]], -1)
    inside = (q @ k.transpose(-1, -2)) * between
    query = q * grown
    key = (k * (total[..., -1:] - total).exp()[..., None]).transpose(-1, -2)
    last = total[..., -1].exp()[..., None, None]
    state = v.new_zeros(v.shape[0], k.shape[-1], v.shape[-1])
    outputs = []
    parts = (fresh, seen, query, inside, key, last)
    for fresh_, seen_, query_, inside_, key_, last_ in zip(*(part.unbind(1) for part in parts), strict=True):
        update = torch.baddbmm(fresh_, seen_, state, alpha=-1)
        outputs.append(torch.baddbmm(torch.bmm(query_, state), inside_, update))
        state = torch.baddbmm(state * last_, key_, update)
    mixed = torch.stack(outputs, 1).reshape(batch, heads, -1, v.shape[-1])
    return mixed.transpose(1, 2)[:, :length]


class MoE(nn.Module):
    """Routed experts and one shared expert behind a scalar gate.

    Every expert is computed for every token and the ones not chosen get weight zero. At this size one wide product is
    several times faster than sorting tokens by expert, and the result is the same.
    """

    def __init__(self, config: NanoConfig) -> None:
        super().__init__()
        self.experts, self.top = config.num_experts, config.num_experts_per_tok
        inner, hidden, shared = config.moe_intermediate_size, config.hidden_size, config.shared_expert_intermediate_size
        self.gate = nn.Linear(hidden, self.experts, bias=False)
        self.gate_up = nn.Parameter(torch.randn(2, self.experts, inner, hidden) * hidden**-0.5)
        self.down = nn.Parameter(torch.randn(self.experts, hidden, inner) * inner**-0.5 * 0.5)
        self.shared_gate_up = nn.Linear(hidden, 2 * shared, bias=False)
        self.shared_down = nn.Linear(shared, hidden, bias=False)
        self.shared_expert_gate = nn.Linear(hidden, 1, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The mixture's output and the load-balancing loss (1 when experts are used evenly)."""
        flat = x.reshape(-1, x.shape[-1])
        probabilities = self.gate(flat).float().softmax(-1)
        weight, chosen = probabilities.topk(self.top, dim=-1)
        weight = weight / weight.sum(-1, keepdim=True)
        used = torch.zeros_like(probabilities).scatter(1, chosen, weight)
        share = (used.detach() > 0).float().mean(0) / self.top
        balance = self.experts * (share * probabilities.mean(0)).sum()
        gate, up = self.shared_gate_up(flat).chunk(2, -1)
        shared = self.shared_down(F.silu(gate) * up) * torch.sigmoid(self.shared_expert_gate(flat))
        gate, up = F.linear(flat, self.gate_up.flatten(0, 2)).chunk(2, -1)
        inner = (F.silu(gate) * up).view(flat.shape[0], self.experts, -1) * used.to(gate.dtype)[..., None]
        routed = F.linear(inner.flatten(1), self.down.transpose(0, 1).flatten(1))
        return (shared + routed).view_as(x), balance


class Layer(nn.Module):
    """A mixer and a mixture of experts, each behind a norm and added to its input."""

    def __init__(self, config: NanoConfig, index: int) -> None:
        super().__init__()
        self.input_layernorm = ZeroCentredNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = ZeroCentredNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config) if config.is_attention(index) else None
        self.linear_attn = None if config.is_attention(index) else GatedDeltaNet(config)
        self.mlp = MoE(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        normed = self.input_layernorm(x)
        if self.self_attn is not None:
            x = x + self.self_attn(normed, cos, sin)
        else:
            assert self.linear_attn is not None
            x = x + self.linear_attn(normed)
        mixed, balance = self.mlp(self.post_attention_layernorm(x))
        return x + mixed, balance


class Nano(nn.Module):
    """Token ids [B, T] to hidden states [B, T, H] after the last norm; `lm_head` is applied by the caller."""

    def __init__(self, config: NanoConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, index) for index in range(config.num_hidden_layers))
        self.norm = ZeroCentredNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        nn.init.normal_(self.embed_tokens.weight, std=0.5)
        nn.init.normal_(self.lm_head.weight, std=0.02)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        x = self.embed_tokens(ids).to(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None)
        cos, sin = self.angles(ids.shape[1])
        balance = x.new_zeros((), dtype=torch.float32)
        for layer in self.layers:
            x, extra = layer(x, cos, sin)
            balance = balance + extra / len(self.layers)
        return self.norm(x), balance

    def angles(self, length: int) -> tuple[Tensor, Tensor]:
        rotated = int(self.config.head_dim * self.config.partial_rotary_factor)
        inverse = self.config.rope_theta ** (-torch.arange(0, rotated, 2).float() / rotated)
        angle = torch.arange(length).float()[:, None] * inverse
        return angle.cos(), angle.sin()
