"""The small GPT that all labs train, made of parts that can be exchanged.

A decoder-only transformer as in Llama: RMSNorm before every branch, rotary
positions, SwiGLU, no biases. Five parts are arguments of `GPT`, so that a lab
can plug in its own and leave the rest alone:

    GPT(config, norm=RMSNorm, residual=Residual, ffn=SwiGLU, linear=nn.Linear,
        attention=CausalSelfAttention)

    norm(d_model, eps)         -> module, (..., D) -> (..., D)
    residual(config, branch)   -> module with `expand`, `forward`, `collapse`;
                                  `branch` counts 0 .. 2 * n_layers - 1
    ffn(config, linear)        -> module, (B, T, D) -> (B, T, D)
    linear(n_in, n_out, bias=False) -> module, (..., n_in) -> (..., n_out)
    attention(config, linear)  -> module, (B, T, D) -> (B, T, D)

Shape suffixes: B sequences, T tokens, D model width, H heads, K width of a
head (D = H K), F width of the feed-forward layer, V vocabulary, R = K / 2
rotated pairs. So x_BTD is a tensor of shape (B, T, D).

Some choices look odd and are there for speed on a CPU; the comment beside each
says which. `python -m tests.labsupport.bench_nn` measures them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labsupport.errors import LabError


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT.

    Attributes:
        vocab_size: V; 256 for bytes.
        d_model: D, the width of the residual stream.
        n_layers: blocks, each with an attention and a feed-forward branch.
        n_heads: H; divides D into heads of an even width.
        d_ff: F; None for the multiple of 32 nearest to 8/3 D, which gives a
            SwiGLU as many weights as a plain FFN of width 4 D.
        max_len: the longest sequence, in tokens.
        rope_base: the slowest pair turns by about 1 / rope_base per token.
        eps: added to the mean square in RMSNorm.
        tied: whether the output layer shares the embedding's weights.

    Raises:
        LabError: sizes below 1, or heads that do not divide D into even widths.
    """

    vocab_size: int = 256
    d_model: int = 128
    n_layers: int = 4
    n_heads: int = 4
    d_ff: int | None = None
    max_len: int = 256
    rope_base: float = 10_000.0
    eps: float = 1e-6
    tied: bool = False

    def __post_init__(self) -> None:
        for name in ("vocab_size", "d_model", "n_layers", "n_heads", "max_len"):
            if getattr(self, name) < 1:
                raise LabError(f"GPTConfig.{name}={getattr(self, name)}: at least 1.")
        if self.d_model % (2 * self.n_heads):
            raise LabError(
                f"GPTConfig: d_model={self.d_model} must be a multiple of "
                f"2 * n_heads = {2 * self.n_heads}, for heads of an even width."
            )

    @property
    def d_head(self) -> int:
        """K, the width of one head."""
        return self.d_model // self.n_heads

    @property
    def ffn_width(self) -> int:
        """F, with the default worked out."""
        return self.d_ff or max(32, 32 * round(self.d_model * 8 / 3 / 32))


class RMSNorm(nn.Module):
    """y = x / sqrt(mean(x²) + eps) * weight, over the last dimension.

    Source: Zhang and Sennrich, 2019 (arXiv 1910.07467).
    """

    def __init__(self, d_model: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


class FunctionNorm(nn.Module):
    """A norm that owns the weight and leaves the arithmetic to a function."""

    def __init__(
        self,
        function: Callable[[Tensor, Tensor, float], Tensor],
        d_model: int,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.eps = eps
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.weight, self.eps)


def norm_from(
    function: Callable[[Tensor, Tensor, float], Tensor],
) -> Callable[[int, float], nn.Module]:
    """Make a part for `GPT(norm=...)` of a function `f(x_BTD, weight_D, eps)`."""
    return partial(FunctionNorm, function)


class RotaryEmbedding(nn.Module):
    """Turn pair r of the token at position t by the angle t * base^(-2r/K).

    A dot product of two turned vectors depends on their distance alone.
    Source: Su et al., 2021 (arXiv 2104.09864).
    """

    turn_TR2: Tensor

    def __init__(self, d_head: int, max_len: int, base: float) -> None:
        super().__init__()
        speed_R = base ** (-torch.arange(0, d_head, 2) / d_head)
        angle_TR = torch.outer(torch.arange(max_len), speed_R)
        # Cosine and sine, not complex numbers: `model.half()` would drop their
        # imaginary part.
        turn_TR2 = torch.stack([angle_TR.cos(), angle_TR.sin()], dim=-1)
        self.register_buffer("turn_TR2", turn_TR2, persistent=False)

    def forward(self, x_BTHK: Tensor, start: int = 0) -> Tensor:
        """Turn tokens that stand at positions `start`, `start + 1`, ..."""
        # Turning a pair is one complex multiplication: one pass over memory
        # where cosines and sines written out take five.
        number = torch.promote_types(x_BTHK.dtype, torch.float32)
        pairs_BTHR2 = x_BTHK.to(number).unflatten(-1, (-1, 2))
        turn_TR2 = self.turn_TR2[start : start + x_BTHK.shape[1]].to(number)
        turn_T1R = torch.view_as_complex(turn_TR2)[:, None]
        turned_BTHR = torch.view_as_complex(pairs_BTHR2) * turn_T1R
        return torch.view_as_real(turned_BTHR).flatten(-2).type_as(x_BTHK)


class CausalSelfAttention(nn.Module):
    """Every token gathers values from itself and the tokens before it."""

    def __init__(
        self, config: GPTConfig, linear: Callable[..., nn.Module] = nn.Linear
    ) -> None:
        super().__init__()
        self.d_head = config.d_head
        self.qkv = linear(config.d_model, 3 * config.d_model, bias=False)
        self.rope = RotaryEmbedding(config.d_head, config.max_len, config.rope_base)
        self.out = linear(config.d_model, config.d_model, bias=False)
        shrink_residual_(self.out, config)

    def forward(self, x_BTD: Tensor) -> Tensor:
        mixed_BHTK = self.mix(*self.heads(x_BTD))
        return self.out(mixed_BHTK.transpose(1, 2).flatten(-2))

    def heads(self, x_BTD: Tensor, start: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (B, H, T, K) each; `start` tokens came before."""
        qkv = self.qkv(x_BTD)
        # A third of what came, not D: with tensor parallelism this rank has some of
        # the heads only.
        width = qkv.shape[-1] // 3
        # Queries and keys stay side by side, so that one call turns both.
        qk, v = qkv.split([2 * width, width], dim=-1)
        qk_BTHK = self.rope(qk.unflatten(-1, (-1, self.d_head)), start)
        q_BHTK, k_BHTK = qk_BTHK.transpose(1, 2).chunk(2, dim=1)
        v_BHTK = v.unflatten(-1, (-1, self.d_head)).transpose(1, 2)
        return q_BHTK, k_BHTK, v_BHTK

    def mix(self, q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor) -> Tensor:
        """What every query gathers, (B, H, T, K)."""
        return F.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, is_causal=True)


class SwiGLU(nn.Module):
    """y = down(silu(gate(x)) * up(x)).

    `gate` and `up` are two layers: fused into one, the halves of its output are
    strided views, and cutting them costs more than the second call (on a CPU).
    Source: Shazeer, 2020 (arXiv 2002.05202).
    """

    def __init__(
        self, config: GPTConfig, linear: Callable[..., nn.Module] = nn.Linear
    ) -> None:
        super().__init__()
        self.gate = linear(config.d_model, config.ffn_width, bias=False)
        self.up = linear(config.d_model, config.ffn_width, bias=False)
        self.down = linear(config.ffn_width, config.d_model, bias=False)
        shrink_residual_(self.down, config)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x_BTD)) * self.up(x_BTD))


class Residual(nn.Module):
    """How a branch joins the stream: here, it is added.

    The stream is what runs from block to block. Here it is x_BTD itself; with
    hyper-connections it holds several copies, and this part makes them
    (`expand`), lets a branch read and write them (`forward`) and merges them
    (`collapse`). Every branch has its own instance. The first one expands the
    embeddings, the last one collapses.
    """

    def __init__(self, config: GPTConfig, branch: int) -> None:
        super().__init__()

    def expand(self, x_BTD: Tensor) -> Tensor:
        return x_BTD

    def forward(self, stream: Tensor, branch: Callable[[Tensor], Tensor]) -> Tensor:
        return stream + branch(stream)

    def collapse(self, stream: Tensor) -> Tensor:
        return stream


class Block(nn.Module):
    """Two branches, attention and feed-forward, each normalised first."""

    def __init__(
        self,
        config: GPTConfig,
        index: int,
        *,
        norm: Callable[..., nn.Module],
        residual: Callable[..., nn.Module],
        ffn: Callable[..., nn.Module],
        linear: Callable[..., nn.Module],
        attention: Callable[..., nn.Module],
    ) -> None:
        super().__init__()
        self.attention_norm = norm(config.d_model, config.eps)
        self.attention = attention(config, linear)
        self.attention_residual = residual(config, 2 * index)
        self.ffn_norm = norm(config.d_model, config.eps)
        self.ffn = ffn(config, linear)
        self.ffn_residual = residual(config, 2 * index + 1)

    def attend(self, x_BTD: Tensor) -> Tensor:
        return self.attention(self.attention_norm(x_BTD))

    def feed_forward(self, x_BTD: Tensor) -> Tensor:
        return self.ffn(self.ffn_norm(x_BTD))

    def forward(self, stream: Tensor) -> Tensor:
        stream = self.attention_residual(stream, self.attend)
        return self.ffn_residual(stream, self.feed_forward)


class GPT(nn.Module):
    """Tokens in, a score for every possible next token out.

    The module docstring says what each part is called with. `linear` makes the
    layers inside the blocks; embedding and output layer stay `nn.Linear`.
    """

    def __init__(
        self,
        config: GPTConfig,
        *,
        norm: Callable[..., nn.Module] = RMSNorm,
        residual: Callable[..., nn.Module] = Residual,
        ffn: Callable[..., nn.Module] = SwiGLU,
        linear: Callable[..., nn.Module] = nn.Linear,
        attention: Callable[..., nn.Module] = CausalSelfAttention,
    ) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList(
            Block(
                config,
                i,
                norm=norm,
                residual=residual,
                ffn=ffn,
                linear=linear,
                attention=attention,
            )
            for i in range(config.n_layers)
        )
        self.norm = norm(config.d_model, config.eps)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        # A small head finds all tokens about equally likely at first. The stream
        # starts larger: with 0.02 here too, short trainings end 0.15 nats higher.
        nn.init.normal_(self.embedding.weight, std=0.5)
        nn.init.normal_(self.head.weight, std=0.02)
        if config.tied:
            self.embedding.weight = self.head.weight

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits_BTV of int64 tokens_BT.

        Raises:
            LabError: more than `max_len` tokens.
        """
        if tokens_BT.shape[1] > self.config.max_len:
            raise LabError(
                f"A sequence of {tokens_BT.shape[1]} tokens is longer than "
                f"max_len={self.config.max_len}: cut it, or raise max_len."
            )
        return self.head(self.hidden(self.embedding(tokens_BT)))

    def hidden(self, x_BTD: Tensor) -> Tensor:
        """What all blocks and the last norm make of embeddings: x_BTD."""
        first: Any = self.blocks[0]
        last: Any = self.blocks[-1]
        stream = first.attention_residual.expand(x_BTD)
        for block in self.blocks:
            stream = block(stream)
        return self.norm(last.ffn_residual.collapse(stream))

    def loss(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Mean cross-entropy in nats, in float32; targets of -100 do not count."""
        logits_BTV = self(tokens_BT).float()
        return F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())

    def parameter_count(self) -> int:
        """How many numbers are trained; shared ones count once."""
        return sum(p.numel() for p in self.parameters())

    @torch.no_grad()
    def generate(
        self,
        tokens_BT: Tensor,
        n: int,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Append `n` sampled tokens, one at a time.

        Each one costs a full forward pass: nothing is cached. Beyond `max_len`
        the model sees the last `max_len` tokens only.

        Args:
            tokens_BT: the prompt, at least one token.
            n: how many to append.
            temperature: divides the logits; 0 takes the likeliest token.
            top_k: sample among the k likeliest only.
            generator: where the randomness comes from.

        Returns:
            Tokens of shape (B, T + n), the prompt included.
        """
        was_training = self.training
        self.eval()
        for _ in range(n):
            logits_BV = self(tokens_BT[:, -self.config.max_len :])[:, -1].float()
            next_B1 = sample(logits_BV, temperature, top_k, generator)
            tokens_BT = torch.cat([tokens_BT, next_B1], dim=1)
        self.train(was_training)
        return tokens_BT


def sample(
    logits_BV: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw one token_B1 a row from softmax(logits / temperature)."""
    if temperature == 0:
        return logits_BV.argmax(dim=-1, keepdim=True)
    if top_k is not None:
        k = min(top_k, logits_BV.shape[-1])
        least_B1 = logits_BV.topk(k).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < least_B1, float("-inf"))
    chances_BV = torch.softmax(logits_BV / temperature, dim=-1)
    return torch.multinomial(chances_BV, 1, generator=generator)


def shrink_residual_(layer: nn.Module, config: GPTConfig) -> None:
    """Scale the layer that ends a branch, in place, by 1 / sqrt(2 n_layers).

    The stream is a sum of 2 n_layers branches; so its variance does not grow
    with depth at the start. Source: GPT-2 (Radford et al., 2019), section 2.3.
    """
    with torch.no_grad():
        layer.weight.mul_((2 * config.n_layers) ** -0.5)  # type: ignore[operator]
