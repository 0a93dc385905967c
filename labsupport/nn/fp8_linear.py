"""A linear layer whose three products are computed from 8-bit numbers.

    GPT(config, linear=partial(FP8Linear, recipe=FP8Recipe("tile")))

With x the input, w the weights, g the gradient that arrives (DeepSeek-V3, arXiv
2412.19437, section 3.3 and figure 6):

    y  = x w^T        sums over input channels K    x by 1 x T, w by T x T
    dx = g w          sums over output channels N   g by 1 x T, w by T x T
    dw = g^T x        sums over tokens M            g and x by T x 1

Each operand is cut into tiles along the axis that the product sums over, T = 128, and
each tile has its own scale. So x and g are quantised twice, once in each direction;
the blocks of w serve both.

What stays in high precision, as in the report: the weights themselves (float32, what
the optimizer moves), their gradients (float32), y and dx (rounded to bfloat16),
and everything that is no `linear` part of a block: embedding, output layer, norms,
attention, the router of a mixture of experts.

For the backward the layer keeps codes, one byte a number, not x.

On a GPU with FP8 units the recipe "tile" with T = 128 runs `kernels/fp8_*.py`. All
else runs the same arithmetic in PyTorch: codes are the same to the bit, and sums are
in float32.

Shape suffixes: M tokens (all leading axes), K input channels, N output channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from kernels.float8 import E4M3, Float8, cast
from kernels.fp8_blocks import fp8_blocks
from kernels.fp8_both import fp8_tiles_both
from kernels.fp8_gemm import fp8_gemm
from kernels.fp8_scaling import (
    TILE,
    Tile,
    dequantise_reference,
    quantise_reference,
)
from labsupport.errors import LabError

Scheme = Literal["tile", "block", "tensor", "unscaled"]
SCHEMES: tuple[Scheme, ...] = ("tile", "block", "tensor", "unscaled")


@dataclass(frozen=True)
class FP8Recipe:
    """How numbers become 8-bit numbers.

    Attributes:
        scheme: what shares a scale. "tile": 1 x T of x and g, T x T of w (V3's).
            "block": T x T of each. "tensor": all of a tensor. "unscaled": nothing is
            scaled.
        side: T; 128 in V3, and less for models that are narrower than some tiles.
        forward: the format of x and w.
        gradient: the format of g; E5M2 in older recipes.
        power_of_two: whether scales are rounded up to powers of two.

    Raises:
        LabError: an unknown scheme, or a side below 1.
    """

    scheme: Scheme = "tile"
    side: int = TILE
    forward: Float8 = E4M3
    gradient: Float8 = E4M3
    power_of_two: bool = False

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise LabError(
                f"FP8Recipe: scheme={self.scheme!r}; use one of {', '.join(SCHEMES)}."
            )
        if self.side < 1:
            raise LabError(f"FP8Recipe: side={self.side}; use 1 or more, V3 has 128.")

    def tile(self, shape: torch.Size, weights: bool = False) -> Tile:
        """What shares a scale in a matrix whose columns are summed over."""
        if self.scheme in ("tensor", "unscaled"):
            return max(shape[0], 1), max(shape[1], 1)
        square = weights or self.scheme == "block"
        return (self.side if square else 1), self.side


class Codes(NamedTuple):
    """A matrix as it lies in memory: codes, and the scales of its tiles."""

    q: Tensor
    scale: Tensor
    tile: Tile

    def values(self) -> Tensor:
        """What the codes stand for, float32."""
        return dequantise_reference(*self)

    def transposed(self) -> Codes:
        """The same codes and scales, rows for columns."""
        return Codes(self.q.t(), self.scale.t(), (self.tile[1], self.tile[0]))


def quantise(
    x_MK: Tensor, recipe: FP8Recipe, fmt: Float8, weights: bool = False
) -> Codes:
    """A matrix in codes, tiles lying along its columns."""
    tile = recipe.tile(x_MK.shape, weights)
    if recipe.scheme == "unscaled":
        return Codes(cast(x_MK, fmt), x_MK.new_ones(1, 1, dtype=torch.float32), tile)
    q, scale = quantise_reference(x_MK, tile, fmt, recipe.power_of_two)
    return Codes(q, scale, tile)


def quantise_both(x_MK: Tensor, recipe: FP8Recipe, fmt: Float8) -> tuple[Codes, Codes]:
    """x and x^T in codes, tiles lying along the columns of each."""
    if on_kernels(x_MK, recipe):
        q, scale, qt, scale_t = fp8_tiles_both(x_MK, fmt, recipe.power_of_two)
        tile = (1, TILE)
        return Codes(q, scale, tile), Codes(qt, scale_t, tile)
    return quantise(x_MK, recipe, fmt), quantise(x_MK.t(), recipe, fmt)


def quantise_weights(w_NK: Tensor, recipe: FP8Recipe) -> tuple[Codes, Codes]:
    """w and w^T in the same codes: blocks serve both ways."""
    if on_kernels(w_NK, recipe):
        q, scale, qt = fp8_blocks(
            w_NK, recipe.forward, recipe.power_of_two, transposed=True
        )
        # As a copy, since the product wants what it sums over side by side.
        block = (TILE, TILE)
        return Codes(q, scale, block), Codes(qt, scale.t(), block)
    w = quantise(w_NK, recipe, recipe.forward, weights=True)
    return w, w.transposed()


def multiply(a: Codes, b: Codes, dtype: torch.dtype) -> Tensor:
    """a b^T, summed in float32: (M, N) from (M, K) and (N, K)."""
    v3 = a.tile == (1, TILE) and b.tile in ((1, TILE), (TILE, TILE))
    if v3 and runs_kernels(a.q):
        return fp8_gemm(a.q, a.scale, b.q, b.scale, dtype)
    return (a.values() @ b.values().t()).to(dtype)


def on_kernels(x: Tensor, recipe: FP8Recipe) -> bool:
    """Whether the kernels do it: on a GPU, with V3's tiles."""
    return runs_kernels(x) and recipe.scheme == "tile" and recipe.side == TILE


def runs_kernels(x: Tensor) -> bool:
    return x.is_cuda


Quantise = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""(x_MK, T) -> codes and scales in tiles of 1 x T, as a reader writes it."""
Multiply = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]
"""(codes and scales of x by 1 x T, of w by T x T, T) -> y_MN, likewise."""


class _FP8Linear(torch.autograd.Function):
    """Ties the three products together for autograd."""

    @staticmethod
    def forward(ctx: Any, x_MK: Tensor, w_NK: Tensor, layer: FP8Linear) -> Tensor:
        recipe = layer.recipe
        # Tokens are what the weights' gradient sums over: x_t is cut along them.
        x, x_t = quantise_both(x_MK, recipe, recipe.forward)
        if layer.quantise:
            x = Codes(*layer.quantise(x_MK, recipe.side), (1, recipe.side))
        w, w_t = quantise_weights(w_NK, recipe)
        if layer.multiply:
            y_MN = layer.multiply(x.q, x.scale, w.q, w.scale, recipe.side)
            y_MN = y_MN.to(torch.bfloat16)
        else:
            y_MN = multiply(x, w, torch.bfloat16)
        ctx.save_for_backward(x_t.q, x_t.scale, w_t.q, w_t.scale)
        ctx.tiles, ctx.recipe, ctx.dtype = (x_t.tile, w_t.tile), recipe, x_MK.dtype
        return y_MN.to(x_MK.dtype)

    @staticmethod
    def backward(ctx: Any, g_MN: Tensor) -> tuple[Tensor, Tensor, None]:
        x_q, x_scale, w_q, w_scale = ctx.saved_tensors
        x_t = Codes(x_q, x_scale, ctx.tiles[0])
        w_t = Codes(w_q, w_scale, ctx.tiles[1])
        g, g_t = quantise_both(g_MN, ctx.recipe, ctx.recipe.gradient)
        dx_MK = multiply(g, w_t, torch.bfloat16).to(ctx.dtype)
        return dx_MK, multiply(g_t, x_t, torch.float32), None


class FP8Linear(nn.Linear):
    """y = x w^T + b, its products in FP8; in place of `nn.Linear`.

    Args:
        n_in, n_out: K and N.
        bias: whether there is a b; it is added in high precision.
        recipe: how numbers become 8-bit numbers.
        quantise: a lab puts a reader's own function here, for x in the forward.
        multiply: likewise, for y.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        bias: bool = True,
        *,
        recipe: FP8Recipe | None = None,
        quantise: Quantise | None = None,
        multiply: Multiply | None = None,
        **factory: Any,
    ) -> None:
        super().__init__(n_in, n_out, bias=bias, **factory)
        self.recipe = recipe or FP8Recipe()
        if (quantise or multiply) and self.recipe.scheme != "tile":
            raise LabError(
                f"FP8Linear: your own quantise or multiply works on tiles, so the "
                f"recipe has to be 'tile'; it is {self.recipe.scheme!r}."
            )
        self.quantise, self.multiply = quantise, multiply

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x, self.weight)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """y for any weights of this layer's shape."""
        y_MN = _FP8Linear.apply(x.reshape(-1, x.shape[-1]), weight, self)
        y = y_MN.view(*x.shape[:-1], y_MN.shape[1])
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, recipe={self.recipe.scheme}"


class _BF16Linear(torch.autograd.Function):
    """The three products with bfloat16 operands and float32 sums."""

    @staticmethod
    def forward(ctx: Any, x_MK: Tensor, w_NK: Tensor) -> Tensor:
        x_MK, w_NK = x_MK.to(torch.bfloat16), w_NK.to(torch.bfloat16)
        ctx.save_for_backward(x_MK, w_NK)
        return half_product(x_MK, w_NK.t())

    @staticmethod
    def backward(ctx: Any, g_MN: Tensor) -> tuple[Tensor, Tensor]:
        x_MK, w_NK = ctx.saved_tensors
        g_MN = g_MN.to(torch.bfloat16)
        dx_MK, dw_NK = half_product(g_MN, w_NK), half_product(g_MN.t(), x_MK)
        return dx_MK.float(), dw_NK.float()


def half_product(a: Tensor, b: Tensor) -> Tensor:
    """a b of bfloat16 matrices, summed in float32, in bfloat16."""
    if a.is_cuda:
        return a @ b
    # The same sums, and ten times as fast on CPUs without bfloat16 units.
    return (a.float() @ b.float()).to(torch.bfloat16)


class BF16Linear(nn.Linear):
    """The same with bfloat16 operands: the usual way to train, to compare with.

    Weights are float32; products take bfloat16 copies and sum in float32.
    """

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x, self.weight)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """y for any weights of this layer's shape."""
        y_MN = _BF16Linear.apply(x.reshape(-1, x.shape[-1]), weight)
        y = y_MN.view(*x.shape[:-1], y_MN.shape[1]).to(x.dtype)
        return y if self.bias is None else y + self.bias.to(y.dtype)
