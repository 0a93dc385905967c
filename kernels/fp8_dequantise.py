# mypy: allow-untyped-defs
"""Codes and scales back to numbers.

    x'_mk = s_ij q_mk          tile ij being that of m, k

(DeepSeek-V3, arXiv 2412.19437, section 3.3.2.) Products read codes, so training needs
this only where something other than a product reads them: a cached activation, an
expert's tokens that arrived in FP8, a test.

Shapes: q_MK has M rows of K codes, x_MK its numbers; scale_IJ one scale for each tile
of 1 x 128, I = M, or of 128 x 128, I = ceil(M / 128); J = ceil(K / 128). The last tiles
may be smaller. e is the bytes per element of x: 4 or 2.

Cost:   M K (1 + e) + 4 I J bytes (read q, scale; write x)             M K FLOPs
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.float8 import E4M3, E5M2
from kernels.fp8_cast import tile_launch
from kernels.fp8_operands import check_codes, check_gpu_has_fp8, check_scales
from kernels.fp8_scaling import TILE, Tile, dequantise_reference, scale_shape
from kernels.language import cdiv, jit, tl
from kernels.operation import (
    KERNEL_DTYPES,
    TRITON_TYPES,
    Cost,
    KernelInputError,
    launch_spec,
    route,
    side_by_side,
)

TILES: tuple[Tile, ...] = ((1, TILE), (TILE, TILE))
"""The tiles of activations, and of weights."""

BENCHMARK_SHAPES = ((4096, 7168), (16384, 7168))
"""(M, K)."""


def fp8_dequantise_reference(
    q: Tensor,
    scale: Tensor,
    tile: Tile = (1, TILE),
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The same in plain PyTorch, on any device: the oracle.

    Args:
        q: (M, K), float8.
        scale: (I, J), float32.
        tile: rows and columns that share a scale.
        dtype: what the product, in float32, is rounded to.

    Returns:
        x, (M, K) of dtype.
    """
    return dequantise_reference(q, scale, tile).to(dtype)


@jit
def fp8_dequantise_kernel(
    q_ptr, scale_ptr, x_ptr, q_stride, scale_stride_i, scale_stride_j, M, K,
    ROWS: tl.constexpr, BLOCK_M: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    # Neighbouring programs take neighbouring tiles of the same rows.
    tiles = tl.cdiv(K, TILE)
    j = tl.program_id(0) % tiles
    # In 64 bits, since m * stride passes 2**31 on large tensors.
    m = (tl.program_id(0) // tiles).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    k = j * TILE + tl.arange(0, TILE)
    inside = (m < M)[:, None] & (k < K)[None, :]
    # No `other`: what a masked lane holds goes nowhere.
    q = tl.load(q_ptr + m[:, None] * q_stride + k[None, :], mask=inside)
    # The tile's row of tiles: m itself, or the same for 128 rows. j is widened too.
    i = m // ROWS
    scale_at = scale_ptr + i * scale_stride_i + j.to(tl.int64) * scale_stride_j
    scale = tl.load(scale_at, mask=m < M)
    x = q.to(tl.float32) * scale[:, None]
    # The store rounds x to the dtype that x_ptr points to.
    tl.store(x_ptr + m[:, None] * K + k[None, :], x, mask=inside)


def dequantise_launch(tile: Tile) -> dict[str, Any]:
    """As a quantiser of tiles: a program never leaves a block of 128 rows."""
    return {"ROWS": tile[0], **tile_launch()}


def fp8_dequantise(
    q: Tensor,
    scale: Tensor,
    tile: Tile = (1, TILE),
    dtype: torch.dtype = torch.float32,
    interpret: bool | None = None,
) -> Tensor:
    """Numbers of codes and scales: the kernel on a GPU, the reference on a CPU.

    Args:
        q: (M, K), float8_e4m3fn or float8_e5m2, any strides.
        scale: (I, J), float32, any strides.
        tile: rows and columns that share a scale: (1, 128) or (128, 128).
        dtype: float32, float16 or bfloat16.
        interpret: True runs the kernel interpreted on a CPU (slow).

    Returns:
        x, (M, K) of dtype. A tile whose scale is infinite is all NaN.

    Raises:
        KernelInputError: q, scale, tile or dtype are not as above, or the GPU has no
            FP8.
        ValueError: interpret=True where kernels are not interpreted.
    """
    if tile not in TILES:
        raise KernelInputError(
            f"fp8_dequantise: tile must be (1, 128) or (128, 128); got {tile}."
        )
    if dtype not in KERNEL_DTYPES:
        raise KernelInputError(
            "fp8_dequantise: dtype must be torch.float32, torch.float16 or "
            f"torch.bfloat16; got {dtype}."
        )
    check_codes("fp8_dequantise", q)
    check_scales("fp8_dequantise", scale, q, tile)
    check_gpu_has_fp8("fp8_dequantise", q)
    scale = scale.detach()
    if route(q, interpret) == "reference":
        return fp8_dequantise_reference(q, scale, tile, dtype)
    q_MK, (M, K), launch = side_by_side(q), q.shape, dequantise_launch(tile)
    x_MK = torch.empty((M, K), dtype=dtype, device=q.device)
    if q.numel():  # a GPU refuses a grid of no programs
        with torch.cuda.device_of(q):  # Triton launches on the current GPU
            fp8_dequantise_kernel[(cdiv(M, launch["BLOCK_M"]) * cdiv(K, TILE),)](
                q_MK, scale, x_MK, q_MK.stride(0), *scale.stride(), M, K, **launch
            )
    return x_MK


def fp8_dequantise_cost(
    M: int, K: int, dtype: torch.dtype, tile: Tile = (1, TILE)
) -> Cost:
    """Codes and scales read once, numbers written once; one product each."""
    rows, columns = scale_shape((M, K), tile)
    bytes_of_scales = 4 * rows * columns
    return Cost(bytes=M * K * (1 + dtype.itemsize) + bytes_of_scales, flops=M * K)


SPECS = [
    launch_spec(
        fp8_dequantise_kernel, dtype, dequantise_launch(tile),
        f"{fmt.name} {tile[0]}x{tile[1]}", q_ptr=f"*{TRITON_TYPES[fmt.dtype]}",
        scale_ptr="*fp32", x_ptr="*", q_stride="i32", scale_stride_i="i32",
        scale_stride_j="i32", M="i32", K="i32",
    )
    for dtype, fmt in [*((dtype, E4M3) for dtype in KERNEL_DTYPES),
                       (torch.bfloat16, E5M2)]
    for tile in TILES
]  # fmt: skip
"""Configurations that `fp8_dequantise` launches at BENCHMARK_SHAPES."""
