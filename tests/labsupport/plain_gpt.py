"""Two GPTs written the straightforward way, to hold `labsupport.nn` against.

`PlainGPT` is the same architecture, spelled out. `PlainGPT2` is the other
usual one: LayerNorm, GELU, learned positions, biases.

Shape suffixes: B sequences, T tokens, D width, H heads, K head width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labsupport.nn import GPT, GPTConfig


class PlainNorm(nn.Module):
    def __init__(self, d_model: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class PlainAttention(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        D, K = config.d_model, config.d_head
        self.heads = config.n_heads
        self.q = nn.Linear(D, D, bias=False)
        self.k = nn.Linear(D, D, bias=False)
        self.v = nn.Linear(D, D, bias=False)
        self.out = nn.Linear(D, D, bias=False)
        speed = config.rope_base ** (-torch.arange(0, K, 2) / K)
        angle = torch.outer(torch.arange(config.max_len), speed)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def rotate(self, x_BHTK: Tensor) -> Tensor:
        T = x_BHTK.shape[2]
        cos, sin = self.cos[:T], self.sin[:T]
        even, odd = x_BHTK[..., 0::2], x_BHTK[..., 1::2]
        turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
        return turned.flatten(-2)

    def forward(self, x_BTD: Tensor) -> Tensor:
        B, T, D = x_BTD.shape
        q, k, v = (
            layer(x_BTD).view(B, T, self.heads, -1).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        y = F.scaled_dot_product_attention(
            self.rotate(q), self.rotate(k), v, is_causal=True
        )
        return self.out(y.transpose(1, 2).reshape(B, T, D))


class HalfTurnAttention(PlainAttention):
    """The rotation of the Llama models in `transformers`: halves, not pairs."""

    def rotate(self, x_BHTK: Tensor) -> Tensor:
        T = x_BHTK.shape[2]
        cos = torch.cat([self.cos[:T], self.cos[:T]], dim=-1)
        sin = torch.cat([self.sin[:T], self.sin[:T]], dim=-1)
        first, second = x_BHTK.chunk(2, dim=-1)
        return x_BHTK * cos + torch.cat([-second, first], dim=-1) * sin


class PlainBlock(nn.Module):
    def __init__(self, config: GPTConfig, attention: type[PlainAttention]) -> None:
        super().__init__()
        D, F_ = config.d_model, config.ffn_width
        self.norm1 = PlainNorm(D, config.eps)
        self.attention = attention(config)
        self.norm2 = PlainNorm(D, config.eps)
        self.gate = nn.Linear(D, F_, bias=False)
        self.up = nn.Linear(D, F_, bias=False)
        self.down = nn.Linear(F_, D, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class PlainGPT(nn.Module):
    """The architecture of `labsupport.nn.GPT`, one line after the other."""

    def __init__(
        self, config: GPTConfig, attention: type[PlainAttention] = PlainAttention
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList(
            PlainBlock(config, attention) for _ in range(config.n_layers)
        )
        self.norm = PlainNorm(config.d_model, config.eps)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    def copy_from(self, gpt: GPT) -> None:
        """Take over the weights of a GPT of the same shape."""
        theirs = gpt.state_dict()
        ours = {
            "embedding.weight": theirs["embedding.weight"],
            "norm.weight": theirs["norm.weight"],
            "head.weight": theirs["head.weight"],
        }
        for i in range(len(self.blocks)):
            block = f"blocks.{i}."
            ours[block + "norm1.weight"] = theirs[block + "attention_norm.weight"]
            ours[block + "norm2.weight"] = theirs[block + "ffn_norm.weight"]
            ours[block + "attention.out.weight"] = theirs[
                block + "attention.out.weight"
            ]
            qkv = theirs[block + "attention.qkv.weight"].chunk(3)
            for name, weight in zip("qkv", qkv, strict=True):
                ours[f"{block}attention.{name}.weight"] = weight
            for name in ("gate", "up", "down"):
                ours[f"{block}{name}.weight"] = theirs[f"{block}ffn.{name}.weight"]
        self.load_state_dict(ours)


class GPT2Block(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        D = config.d_model
        self.heads = config.n_heads
        self.norm1, self.norm2 = nn.LayerNorm(D), nn.LayerNorm(D)
        self.qkv, self.out = nn.Linear(D, 3 * D), nn.Linear(D, D)
        self.up, self.down = nn.Linear(D, 4 * D), nn.Linear(4 * D, D)

    def forward(self, x: Tensor) -> Tensor:
        B, T, D = x.shape
        q, k, v = (
            part.view(B, T, self.heads, -1).transpose(1, 2)
            for part in self.qkv(self.norm1(x)).split(D, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(B, T, D))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class PlainGPT2(nn.Module):
    """LayerNorm, GELU, learned positions: as many weights, other parts."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.positions = nn.Embedding(config.max_len, config.d_model)
        self.blocks = nn.ModuleList(GPT2Block(config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.d_model)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        where = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.embedding(tokens) + self.positions(where)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))
