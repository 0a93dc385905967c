"""What the FP8 product is timed on, and what stands beside it.

Beside it: PyTorch's own product with the same scales (cuBLASLt, on Hopper only), and
the bfloat16 product of the same numbers, which FP8 is to replace.

Shapes: a_MK and b_NK codes, J tiles of 128 along K, I blocks of 128 along N.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.fp8_gemm import BLOCKS, TILES, fp8_gemm, fp8_gemm_reference, tile_of_b
from kernels.fp8_scaling import Tile, dequantise_reference, quantise_reference


def operands(
    tile: Tile, M: int, N: int, K: int, dtype: torch.dtype, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """a, a_scale, b, b_scale, and what the codes stand for, in dtype.

    Tiles' scales lie with M or N side by side, as a program reads 128 rows' at once.
    """
    found, wide = [], []
    for rows, each in ((M, TILES), (N, tile)):
        x = torch.randn(rows, K, generator=generator, device=generator.device)
        q, scale = quantise_reference(x, each)
        if each == TILES:
            scale = scale.T.contiguous().T
        found += [q, scale]
        wide.append(dequantise_reference(q, scale, each).to(dtype))
    return *found, *wide


def ours(a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, *wide: Tensor) -> Any:
    """`fp8_gemm`, in the dtype of the numbers."""
    return fp8_gemm(a, a_scale, b, b_scale, wide[0].dtype)


def reference(
    a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, *wide: Any
) -> Any:
    """The oracle, in the dtype of the numbers; the gate makes them float64."""
    return fp8_gemm_reference(a, a_scale, b, b_scale, wide[0].dtype)


def bfloat16_product(*operands: Tensor) -> Tensor:
    """The numbers multiplied without codes and scales."""
    *_, a_MK, b_NK = operands
    return a_MK @ b_NK.T


def torch_scaled_mm(
    a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, *wide: Tensor
) -> Tensor:
    """PyTorch's product with one scale for 128 terms.

    It wants a tile's scales with rows side by side, and blocks' as (J, I) with J side
    by side and padded to a multiple of 4.
    """
    recipe = F.ScalingType.BlockWise1x128
    if tile_of_b(b.shape, b_scale.shape) == BLOCKS:
        recipe = F.ScalingType.BlockWise128x128
        b_scale = F.pad(b_scale, (0, -b_scale.shape[1] % 4)).T
    return F.scaled_mm(
        a,
        b.T,
        a_scale,
        F.ScalingType.BlockWise1x128,
        b_scale,
        recipe,
        output_dtype=wide[0].dtype,
    )
