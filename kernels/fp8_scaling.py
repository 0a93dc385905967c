"""Scaling by tile in plain PyTorch: what all FP8 kernels are held against.

A tile is a rectangle of a matrix that shares one scale (DeepSeek-V3, arXiv
2412.19437, section 3.3.2: 1 x 128 for activations and gradients, 128 x 128 for
weights):

    s = max over the tile of |x| / largest         q = cast(x / s)         x' = s q

with `largest` that of the format, 448 for E4M3. Rounded up to a power of two, s costs
up to one bit of range and multiplies without rounding. Three choices are ours:

- s is at least 2^-126, the smallest normal number of float32: it is never 0, so a
  tile of zeros needs no case of its own, and never subnormal, which a GPU may flush.
- A tile with a NaN or an infinity has s = infinity. All of it comes back as NaN, and
  a product with it is NaN: what went wrong shows at once, and in the loss.
- Where a tile would reach over the matrix's edge, it is cut there.

Shape suffixes: M rows, K columns, I rows of tiles, J columns of tiles.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.float8 import E4M3, Float8, cast
from kernels.language import cdiv

TILE = 128
"""The side of V3's tiles and blocks."""
SMALLEST_SCALE = 2.0**-126

Tile = tuple[int, int]
"""Rows and columns that share a scale."""


def quantise_reference(
    x: Tensor,
    tile: Tile = (1, TILE),
    fmt: Float8 = E4M3,
    power_of_two: bool = False,
) -> tuple[Tensor, Tensor]:
    """Codes and scales of a matrix.

    Args:
        x: (M, K), any floating dtype; computed in float32.
        tile: rows and columns that share a scale; (M, K) makes one for all.
        fmt: the 8-bit format.
        power_of_two: whether scales are rounded up to powers of two.

    Returns:
        q, (M, K) of fmt.dtype, and s, (I, J) of float32, with
        I = ceil(M / rows) and J = ceil(K / columns).
    """
    x_MK = x.float()
    size_MK = x_MK.abs().nan_to_num(nan=torch.inf, posinf=torch.inf)
    s_IJ = scale_of(tile_max(size_MK, tile), fmt, power_of_two)
    return cast(x_MK / spread(s_IJ, tile, x_MK.shape), fmt), s_IJ


def dequantise_reference(q: Tensor, scale: Tensor, tile: Tile = (1, TILE)) -> Tensor:
    """s q in float32, (M, K).

    Args:
        q: (M, K), float8.
        scale: (I, J), float32.
        tile: rows and columns that share a scale.
    """
    return q.float() * spread(scale, tile, q.shape)


def scale_of(amax: Tensor, fmt: Float8 = E4M3, power_of_two: bool = False) -> Tensor:
    """The scale of a tile whose largest |x| is amax; infinite for an infinite amax."""
    scale = (amax / fmt.largest).clamp(min=SMALLEST_SCALE)
    return round_up_to_power_of_two(scale) if power_of_two else scale


def round_up_to_power_of_two(scale: Tensor) -> Tensor:
    """The smallest power of two that is at least `scale` (float32, normal, positive).

    The exponent bits alone are the power of two below; if any mantissa bit is set,
    the next one is wanted. Infinity stays.
    """
    bits = scale.contiguous().view(torch.int32)
    up = (bits & 0x7FFFFF) != 0
    return (((bits >> 23) + up) << 23).view(torch.float32)


def tile_max(size_MK: Tensor, tile: Tile) -> Tensor:
    """The largest number of each tile, (I, J), of numbers that are not negative."""
    M, K = size_MK.shape
    # At least 1, as an empty matrix has no tiles but a tile has a size.
    rows, columns = min(tile[0], max(M, 1)), min(tile[1], max(K, 1))
    missing = -M % rows, -K % columns
    # A 0 at the edge changes no maximum.
    whole = F.pad(size_MK, (0, missing[1], 0, missing[0])) if any(missing) else size_MK
    I, J = whole.shape[0] // rows, whole.shape[1] // columns  # noqa: E741
    return whole.view(I, rows, J, columns).amax(dim=(1, 3))


def spread(scale_IJ: Tensor, tile: Tile, shape: torch.Size | Tile) -> Tensor:
    """Each element's scale, in a shape that multiplies with (M, K)."""
    M, K = shape
    I, J = scale_IJ.shape  # noqa: E741
    if I > 1 or tile[0] < M:
        scale_IJ = scale_IJ.repeat_interleave(tile[0], dim=0)[:M]
    if J > 1 or tile[1] < K:
        scale_IJ = scale_IJ.repeat_interleave(tile[1], dim=1)[:, :K]
    return scale_IJ


def scale_shape(shape: torch.Size | Tile, tile: Tile = (1, TILE)) -> Tile:
    """(I, J) for a matrix of this shape."""
    M, K = shape
    return cdiv(M, tile[0]), cdiv(K, tile[1])
