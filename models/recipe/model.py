"""DeepSeek-V3's architecture in plain PyTorch: latent attention, group-limited sigmoid gates with a balancing bias, one MTP layer.

All tokens of a batch lie in one row [N, hidden]; `Packing` says where each document begins. The residual stream is float32; matrix
products run in `dtype` (bfloat16 in training, anything for checks). Every expert is computed for every token and weighted by its
gate, zero where not chosen: at this size one large product is faster than gathering rows, and the result is the same.
Parameter names are Hugging Face's, except that the experts of a layer are stacked and the MTP layer is `mtp`; export.py renames.
"""
import json
import os
from types import SimpleNamespace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn


def load_config(folder=os.path.dirname(os.path.abspath(__file__))):
    with open(os.path.join(folder, "config.json")) as f:
        return SimpleNamespace(**json.load(f))


class Packing(NamedTuple):
    bounds: torch.Tensor    # [documents + 1] int32: where each document begins; repeated at the end for unused room
    longest: int
    cos: torch.Tensor       # [N, rope / 2]
    sin: torch.Tensor


class Linear(nn.Linear):
    """No bias; the float32 weight is cast to the input's type."""

    def __init__(self, a, b):
        super().__init__(a, b, bias=False)

    def forward(self, x):
        return F.linear(x, self.weight.to(x.dtype))


class RMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x, dtype):
        x = x.float()
        return (self.weight.float() * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps))).to(dtype)


def rope_angles(position, config):
    half = config.qk_rope_head_dim // 2
    frequency = config.rope_parameters["rope_theta"] ** (-torch.arange(half, device=position.device, dtype=torch.float32) / half)
    angle = position.float()[..., None] * frequency
    return angle.cos(), angle.sin()


def rotate(x, cos, sin):
    """Rotary embedding over interleaved pairs (2i, 2i + 1), as DeepSeek's checkpoints have them."""
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2).to(x.dtype)


def packed_attention(q, k, v, packing):
    """Causal attention inside each document: q, k [N, heads, d], v [N, heads, e]."""
    if q.is_cuda:  # the flash kernel wants values as wide as keys
        wide = F.pad(v, (0, q.shape[-1] - v.shape[-1]))
        out = torch.ops.aten._flash_attention_forward(q, k, wide, packing.bounds, packing.bounds, packing.longest, packing.longest,
                                                      0.0, True, False, scale=q.shape[-1] ** -0.5)[0]
        return out[..., :v.shape[-1]]
    at = torch.arange(q.shape[0])
    document = torch.searchsorted(packing.bounds, at, right=True)
    mask = (document[:, None] == document[None]) & (at[:, None] >= at[None])
    return F.scaled_dot_product_attention(q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1), attn_mask=mask).transpose(0, 1)


class Attention(nn.Module):
    """Multi-head latent attention. `latent` is what a cache keeps of a token; `expand` makes keys and values of it."""

    def __init__(self, c):
        super().__init__()
        self.heads, self.nope, self.rope, self.value, self.rank = (
            c.num_attention_heads, c.qk_nope_head_dim, c.qk_rope_head_dim, c.v_head_dim, c.kv_lora_rank)
        self.q_a_proj = Linear(c.hidden_size, c.q_lora_rank)
        self.q_a_layernorm = RMSNorm(c.q_lora_rank, c.rms_norm_eps)
        self.q_b_proj = Linear(c.q_lora_rank, self.heads * (self.nope + self.rope))
        self.kv_a_proj_with_mqa = Linear(c.hidden_size, self.rank + self.rope)
        self.kv_a_layernorm = RMSNorm(self.rank, c.rms_norm_eps)
        self.kv_b_proj = Linear(self.rank, self.heads * (self.nope + self.value))
        self.o_proj = Linear(self.heads * self.value, c.hidden_size)

    def query(self, x, cos, sin):
        q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x), x.dtype)).unflatten(-1, (self.heads, -1))
        nope, rope = q.split([self.nope, self.rope], -1)
        return nope, rotate(rope, cos[:, None], sin[:, None])

    def latent(self, x, cos, sin):
        c, rope = self.kv_a_proj_with_mqa(x).split([self.rank, self.rope], -1)
        return self.kv_a_layernorm(c, x.dtype), rotate(rope, cos, sin)

    def attend(self, query, latent, packing):
        (q_nope, q_rope), (c, k_rope) = query, latent
        k_nope, v = self.kv_b_proj(c).unflatten(-1, (self.heads, -1)).split([self.nope, self.value], -1)
        q = torch.cat((q_nope, q_rope), -1)
        k = torch.cat((k_nope, k_rope[:, None].expand(-1, self.heads, -1)), -1)
        return self.o_proj(packed_attention(q, k, v, packing).flatten(1))


class MLP(nn.Module):
    def __init__(self, hidden, width):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = Linear(hidden, width), Linear(hidden, width), Linear(width, hidden)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


def largest(x, k):
    """A mask of the k largest along the last axis, ties to the lower index. Compares all pairs: the axis is short, and this
    fuses into its neighbours where a sort would be a kernel of its own."""
    index = torch.arange(x.shape[-1], device=x.device)
    better = (x[..., None, :] > x[..., :, None]) | ((x[..., None, :] == x[..., :, None]) & (index[None, :] < index[:, None]))
    return better.sum(-1) < k


class Gate(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.weight = nn.Parameter(torch.empty(c.n_routed_experts, c.hidden_size))
        self.register_buffer("e_score_correction_bias", torch.zeros(c.n_routed_experts))

    def forward(self, x):
        """Gate values [N, experts], zero where not chosen, and the choice as a mask. The bias chooses; it never weights."""
        c = self.c
        score = F.linear(x.float(), self.weight.float()).sigmoid()
        biased = score + self.e_score_correction_bias
        groups = biased.detach().unflatten(-1, (c.n_group, -1))
        group_score = torch.where(largest(groups, 2), groups, 0.0).sum(-1)
        open_groups = largest(group_score, c.topk_group)[..., None].expand_as(groups).flatten(-2)
        chosen = largest(torch.where(open_groups, biased.detach(), float("-inf")), c.num_experts_per_tok)
        value = torch.where(chosen, score, 0.0)
        return value / (value.sum(-1, keepdim=True) + 1e-20) * c.routed_scaling_factor, chosen


class Experts(nn.Module):
    def __init__(self, c):
        super().__init__()
        e, h, w = c.n_routed_experts, c.hidden_size, c.moe_intermediate_size
        self.gate_proj = nn.Parameter(torch.empty(e, w, h))
        self.up_proj = nn.Parameter(torch.empty(e, w, h))
        self.down_proj = nn.Parameter(torch.empty(e, h, w))

    def forward(self, x, value):
        e, w, h = self.gate_proj.shape
        gate = F.linear(x, self.gate_proj.to(x.dtype).reshape(e * w, h))
        up = F.linear(x, self.up_proj.to(x.dtype).reshape(e * w, h))
        act = (F.silu(gate) * up).unflatten(-1, (e, w)) * value[..., None].to(x.dtype)
        return act.flatten(-2) @ self.down_proj.to(x.dtype).transpose(1, 2).reshape(e * w, h)


class MoE(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate, self.experts = Gate(c), Experts(c)
        self.shared_experts = MLP(c.hidden_size, c.moe_intermediate_size * c.n_shared_experts)

    def forward(self, x):
        value, chosen = self.gate(x)
        return self.experts(x, value) + self.shared_experts(x), chosen


class Layer(nn.Module):
    def __init__(self, c, dense):
        super().__init__()
        self.input_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.self_attn = Attention(c)
        self.post_attention_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.mlp = MLP(c.hidden_size, c.intermediate_size) if dense else MoE(c)

    def feed_forward(self, h, dtype):
        """The residual after the MLP, and which experts each token took (None in a dense layer)."""
        x = self.post_attention_layernorm(h, dtype)
        out, chosen = self.mlp(x) if isinstance(self.mlp, MoE) else (self.mlp(x), None)
        return h + out.float(), chosen

    def forward(self, h, packing, dtype, real):
        """`real` [N] is 1 for tokens that count in the experts' load, which comes back as [experts]."""
        x = self.input_layernorm(h, dtype)
        a, cos, sin = self.self_attn, packing.cos, packing.sin
        h = h + a.attend(a.query(x, cos, sin), a.latent(x, cos, sin), packing).float()
        h, chosen = self.feed_forward(h, dtype)
        return h, None if chosen is None else (chosen * real[:, None]).sum(0)


class MTP(nn.Module):
    """Predicts the token after next from a position's final hidden state and the next token's embedding."""

    def __init__(self, c):
        super().__init__()
        self.enorm, self.hnorm = RMSNorm(c.hidden_size, c.rms_norm_eps), RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.eh_proj = Linear(2 * c.hidden_size, c.hidden_size)
        self.layer = Layer(c, dense=False)
        self.norm = RMSNorm(c.hidden_size, c.rms_norm_eps)

    def join(self, hidden, embedding, dtype):
        return self.eh_proj(torch.cat((self.enorm(embedding, dtype), self.hnorm(hidden, dtype)), -1)).float()


class Model(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        self.layers = nn.ModuleList(Layer(c, dense=i < c.first_k_dense_replace) for i in range(c.num_hidden_layers))
        self.norm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.lm_head = Linear(c.hidden_size, c.vocab_size)
        self.mtp = MTP(c)
        for name, p in self.named_parameters():
            if p.ndim >= 2:
                nn.init.normal_(p, 0, c.initializer_range)

    def moe_layers(self):
        return [l for l in [*self.layers, self.mtp.layer] if isinstance(l.mlp, MoE)]

    def packing(self, position, bounds, longest):
        return Packing(bounds, longest, *rope_angles(position, self.c))

    def forward(self, ids, position, bounds, longest, dtype=torch.bfloat16, mtp=True, detach=False):
        """Final hidden states [N, hidden] of the main model and of the MTP layer, and the experts' loads [MoE layers, experts].
        With `detach`, what the MTP layer learns leaves the main model alone."""
        packing = self.packing(position, bounds, longest)
        embedding = self.embed_tokens(ids)
        real = (ids != self.c.pad_token_id).to(torch.int32)
        h, loads = embedding.float(), []
        for layer in self.layers:
            h, load = layer(h, packing, dtype, real)
            loads.append(load)
        h = self.norm(h, dtype)
        h2 = None
        if mtp:  # the token after a document's last is another document's; no loss is taken there
            m = self.mtp.join(h.detach() if detach else h, (embedding.detach() if detach else embedding).roll(-1, 0), dtype)
            m, load = self.mtp.layer(m, packing, dtype, real)
            loads.append(load)
            h2 = self.mtp.norm(m, dtype)
        return h, h2, torch.stack([l for l in loads if l is not None])
