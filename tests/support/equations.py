"""The model's equations in fp64, token by token and as plainly as they can be written: the truth for parity tests."""

import math

import torch
from torch import Tensor
from transformers import Qwen3NextConfig


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + eps) * (1 + weight)


def _l2(x: Tensor) -> Tensor:
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + 1e-6)


def _silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def _inverse_frequencies(config: Qwen3NextConfig) -> tuple[Tensor, float]:
    rope = config.rope_parameters
    dim, theta = int(config.head_dim * rope["partial_rotary_factor"]), rope["rope_theta"]
    inverse = torch.tensor([theta ** (-2 * i / dim) for i in range(dim // 2)], dtype=torch.float64)
    if rope["rope_type"] == "default":
        return inverse, 1.0
    assert rope["rope_type"] == "yarn"
    original = rope["original_max_position_embeddings"]

    def index(rotations: float) -> float:
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = max(math.floor(index(32)), 0), min(math.ceil(index(1)), dim - 1)
    share = torch.tensor([min(max((i - low) / max(high - low, 1e-3), 0), 1) for i in range(dim // 2)])
    scaled = inverse / rope["factor"] * share + inverse * (1 - share)
    return scaled.double(), 0.1 * math.log(rope["factor"]) + 1


class Equations:
    """Logits of a token sequence from a transformers model's weights."""

    def __init__(self, weights: dict[str, Tensor], config: Qwen3NextConfig) -> None:
        self.w = {name: tensor.double() for name, tensor in weights.items()}
        self.c = config
        self.inverse, self.factor = _inverse_frequencies(config)

    def logits(self, ids: list[int]) -> Tensor:
        """fp64 [T, vocabulary]."""
        self.kv: dict[int, list[tuple[Tensor, Tensor]]] = {}
        self.state: dict[int, Tensor] = {}
        self.columns: dict[int, list[Tensor]] = {}
        return torch.stack([self._step(token, position) for position, token in enumerate(ids)])

    def _step(self, token: int, position: int) -> Tensor:
        w, c = self.w, self.c
        x = w["model.embed_tokens.weight"][token]
        for layer, kind in enumerate(c.layer_types):
            p = f"model.layers.{layer}."
            h = _norm(x, w[p + "input_layernorm.weight"], c.rms_norm_eps)
            mixed = self._attention(layer, h, position) if kind == "full_attention" else self._delta_net(layer, h)
            x = x + mixed
            x = x + self._feed_forward(p + "mlp.", _norm(x, w[p + "post_attention_layernorm.weight"], c.rms_norm_eps))
        head = w.get("lm_head.weight", w["model.embed_tokens.weight"])
        return head @ _norm(x, w["model.norm.weight"], c.rms_norm_eps)

    def _rotate(self, x: Tensor, position: int) -> Tensor:
        half = len(self.inverse)
        cos, sin = torch.cos(position * self.inverse) * self.factor, torch.sin(position * self.inverse) * self.factor
        a, b, rest = x[:, :half], x[:, half : 2 * half], x[:, 2 * half :]
        return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)

    def _attention(self, layer: int, x: Tensor, position: int) -> Tensor:
        w, c, p = self.w, self.c, f"model.layers.{layer}.self_attn."
        heads, kv_heads, dim = c.num_attention_heads, c.num_key_value_heads, c.head_dim
        query, gate = (w[p + "q_proj.weight"] @ x).view(heads, 2 * dim).split(dim, -1)
        key = (w[p + "k_proj.weight"] @ x).view(kv_heads, dim)
        value = (w[p + "v_proj.weight"] @ x).view(kv_heads, dim)
        query = self._rotate(_norm(query, w[p + "q_norm.weight"], c.rms_norm_eps), position)
        key = self._rotate(_norm(key, w[p + "k_norm.weight"], c.rms_norm_eps), position)
        self.kv.setdefault(layer, []).append((key, value))
        out = []
        for h in range(heads):
            kv = h // (heads // kv_heads)
            keys = torch.stack([k[kv] for k, _ in self.kv[layer]])
            values = torch.stack([v[kv] for _, v in self.kv[layer]])
            out.append(torch.softmax(keys @ query[h] / math.sqrt(dim), 0) @ values)
        return w[p + "o_proj.weight"] @ (torch.stack(out) * torch.sigmoid(gate)).flatten()

    def _delta_net(self, layer: int, x: Tensor) -> Tensor:
        w, c, p = self.w, self.c, f"model.layers.{layer}.linear_attn."
        key_heads, value_heads = c.linear_num_key_heads, c.linear_num_value_heads
        dk, dv, r = c.linear_key_head_dim, c.linear_value_head_dim, value_heads // key_heads
        q, k, v, z = (w[p + "in_proj_qkvz.weight"] @ x).view(key_heads, -1).split([dk, dk, r * dv, r * dv], -1)
        b, a = (w[p + "in_proj_ba.weight"] @ x).view(key_heads, 2 * r).split(r, -1)
        column = torch.cat([q.flatten(), k.flatten(), v.flatten()])
        width = c.linear_conv_kernel_dim
        history = self.columns.setdefault(layer, [torch.zeros_like(column)] * (width - 1))
        window = [*history, column]
        self.columns[layer] = window[1:]
        mixed = _silu(sum(w[p + "conv1d.weight"][:, 0, j] * window[j] for j in range(width)))
        q = _l2(mixed[: key_heads * dk].view(key_heads, dk)) / math.sqrt(dk)
        k = _l2(mixed[key_heads * dk : 2 * key_heads * dk].view(key_heads, dk))
        v = mixed[2 * key_heads * dk :].view(value_heads, dv)
        beta = torch.sigmoid(b.flatten())
        log_decay = -torch.exp(w[p + "A_log"]) * torch.log1p(torch.exp(a.flatten() + w[p + "dt_bias"]))
        state = self.state.setdefault(layer, torch.zeros(value_heads, dk, dv, dtype=torch.float64))
        out = torch.empty(value_heads, dv, dtype=torch.float64)
        for h in range(value_heads):
            s = state[h] * torch.exp(log_decay[h])
            delta = beta[h] * (v[h] - s.T @ k[h // r])
            state[h] = s + torch.outer(k[h // r], delta)
            out[h] = state[h].T @ q[h // r]
        normed = out * torch.rsqrt((out * out).mean(-1, keepdim=True) + c.rms_norm_eps) * w[p + "norm.weight"]
        return w[p + "out_proj.weight"] @ (normed * _silu(z.reshape(value_heads, dv))).flatten()

    def _feed_forward(self, p: str, x: Tensor) -> Tensor:
        w, c = self.w, self.c
        if p + "gate.weight" not in w:
            return self._swiglu(p, x)
        weights, experts = torch.softmax(w[p + "gate.weight"] @ x, 0).topk(c.num_experts_per_tok)
        if c.norm_topk_prob:
            weights = weights / weights.sum()
        out = torch.sigmoid(w[p + "shared_expert_gate.weight"] @ x) * self._swiglu(p + "shared_expert.", x)
        for weight, expert in zip(weights, experts, strict=True):
            gate, up = (w[p + "experts.gate_up_proj"][expert] @ x).chunk(2)
            out = out + weight * (w[p + "experts.down_proj"][expert] @ (_silu(gate) * up))
        return out

    def _swiglu(self, p: str, x: Tensor) -> Tensor:
        w = self.w
        hidden = _silu(w[p + "gate_proj.weight"] @ x) * (w[p + "up_proj.weight"] @ x)
        return w[p + "down_proj.weight"] @ hidden
