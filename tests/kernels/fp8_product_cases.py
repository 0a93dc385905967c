"""Operands of FP8 products: numbers whose size differs much from tile to tile."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.float8 import E4M3, Float8
from kernels.fp8_scaling import TILE, Tile, quantise_reference, scale_shape


def uneven(rows: int, K: int, generator: torch.Generator) -> Tensor:
    """Normal numbers, each tile of each row by another power of two, 2^-3 to 2^3.

    The scale of another tile would therefore not do.
    """
    tiles = (rows, -(-K // TILE))
    size = torch.randint(-3, 4, tiles, generator=generator).double().exp2()
    numbers = torch.randn(rows, K, generator=generator, dtype=torch.float64)
    return numbers * size.repeat_interleave(TILE, dim=1)[:, :K]


def quantised(
    rows: int, K: int, tile: Tile, seed: int, fmt: Float8 = E4M3
) -> tuple[Tensor, Tensor]:
    """Codes and scales of such numbers."""
    x = uneven(max(rows, 1), K, torch.Generator().manual_seed(seed))
    q, scale = quantise_reference(x, tile, fmt)
    return q[:rows], scale[: scale_shape((rows, K), tile)[0]]


def calc_diff(x: Tensor, y: Tensor) -> float:
    """1 - 2<x, y> / (|x|^2 + |y|^2) in float64: how DeepSeek's libraries compare.

    0 for the same, about half the square of the relative error for nearly the same.
    """
    x, y = x.double(), y.double()
    similar = 2 * (x * y).sum() / (x.square() + y.square()).sum()
    return 1 - similar.item()
