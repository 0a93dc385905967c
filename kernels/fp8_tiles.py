# mypy: allow-untyped-defs
"""Activations to FP8: every 128 numbers of a row share one scale.

    s_mj = max over tile j of |x_mk| / largest          q_mk = cast(x_mk / s_mj)

(DeepSeek-V3, arXiv 2412.19437, section 3.3.2 and Fig. 7a). An outlier coarsens the
127 numbers beside it, and no others. The scale is found from the tile itself, online:
no history of earlier maxima, which a sudden outlier would overflow.

Shapes: x_MK and its codes q_MK have M rows (tokens) of K numbers, scale_MJ one scale
for each of J = ceil(K / 128) tiles of a row; the last tile of a row may be shorter.
`fp8_scaling` says what becomes of zeros, NaN and infinity. e is the bytes per element
of x: 4 or 2.

Cost:   M K (e + 1) + 4 M J bytes (read x; write q, scale)             3 M K FLOPs

From bfloat16 that is 3.03 bytes and 3 FLOPs an element: the time is that of the
bytes. Nothing here has a gradient: a layer that computes with codes defines its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.float8 import E4M3, Float8
from kernels.fp8_cast import (
    COMPILED,
    codes_of,
    constants_of,
    round_up_to_power_of_two,
    spec_size,
    tile_launch,
)
from kernels.fp8_operands import check_to_quantise
from kernels.fp8_scaling import TILE, quantise_reference
from kernels.language import cdiv, jit, tl
from kernels.operation import TRITON_TYPES, Cost, launch_spec, route, side_by_side

BENCHMARK_SHAPES = ((4096, 7168), (16384, 7168))
"""(M, K): tokens by the model width of DeepSeek-V3."""


def fp8_tiles_reference(
    x: Tensor, fmt: Float8 = E4M3, power_of_two: bool = False
) -> tuple[Tensor, Tensor]:
    """The same in plain PyTorch, on any device: the oracle.

    Args:
        x: (M, K), any floating dtype; computed in float32.
        fmt: the 8-bit format.
        power_of_two: whether scales are rounded up to powers of two.

    Returns:
        q, (M, K) of fmt.dtype, and scale, (M, J) of float32.
    """
    return quantise_reference(x, (1, TILE), fmt, power_of_two)


@jit
def fp8_tiles_kernel(
    x_ptr, q_ptr, scale_ptr, x_stride, M, K, LARGEST: tl.constexpr,
    POWER_OF_TWO: tl.constexpr, BLOCK_M: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    # Neighbouring programs take neighbouring tiles of the same rows.
    tiles = tl.cdiv(K, TILE)
    j = tl.program_id(0) % tiles
    # In 64 bits, since m * stride passes 2**31 on large tensors.
    m = (tl.program_id(0) // tiles).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    k = j * TILE + tl.arange(0, TILE)
    inside = (m < M)[:, None] & (k < K)[None, :]
    # 0 where there is no number: every tile's maximum is at least that.
    x_at = x_ptr + m[:, None] * x_stride + k[None, :]
    x = tl.load(x_at, mask=inside, other=0.0).to(tl.float32)
    size = tl.abs(x)
    # NaN is not less than infinity, and becomes it: a maximum would lose a NaN.
    size = tl.where(size < float("inf"), size, float("inf"))
    amax = tl.max(size, axis=1)
    # Never 0, so that zeros can be divided by it.
    scale = tl.maximum(tl.div_rn(amax, LARGEST), 2.0**-126)
    if POWER_OF_TWO:
        scale = round_up_to_power_of_two(scale)
    q = codes_of(x, scale[:, None], q_ptr.dtype.element_ty, LARGEST)
    tl.store(q_ptr + m[:, None] * K + k[None, :], q, mask=inside)
    # A program has one tile each of neighbouring rows, and so has the matrix product
    # that reads the scales: here they lie side by side, within a row they would not.
    tl.store(scale_ptr + j * M + m, scale, mask=m < M)


def fp8_tiles(
    x: Tensor,
    fmt: Float8 = E4M3,
    power_of_two: bool = False,
    interpret: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """Quantise rows in tiles of 128: the kernel on a GPU, the reference on a CPU.

    Args:
        x: (M, K); float32, float16 or bfloat16, any strides.
        fmt: the 8-bit format.
        power_of_two: whether scales are rounded up to powers of two.
        interpret: True runs the kernel interpreted on a CPU (slow).

    Returns:
        q, (M, K) of fmt.dtype, and scale, (M, J) of float32: bit for bit those of the
        reference, but that one NaN is as good as another. The kernel's scales lie
        transposed in memory.

    Raises:
        KernelInputError: x or fmt are not as above, or the GPU has no FP8.
        ValueError: interpret=True where kernels are not interpreted.
    """
    check_to_quantise("fp8_tiles", x, fmt)
    x_MK = side_by_side(x.detach())
    if route(x, interpret) == "reference":
        return fp8_tiles_reference(x_MK, fmt, power_of_two)
    (M, K), launch = x.shape, tile_launch()
    J = cdiv(K, TILE)
    q_MK = torch.empty((M, K), dtype=fmt.dtype, device=x.device)
    scale_JM = torch.empty((J, M), dtype=torch.float32, device=x.device)
    if x.numel():  # a GPU refuses a grid of no programs
        with torch.cuda.device_of(x):  # Triton launches on the current GPU
            fp8_tiles_kernel[(cdiv(M, launch["BLOCK_M"]) * J,)](
                x_MK, q_MK, scale_JM, x_MK.stride(0), M, K,
                **constants_of(fmt, power_of_two), **launch,
            )  # fmt: skip
    return q_MK, scale_JM.T


def fp8_tiles_cost(M: int, K: int, dtype: torch.dtype) -> Cost:
    """x read once, codes and scales written once; |x|, maximum and division."""
    scales = M * cdiv(K, TILE)
    return Cost(bytes=M * K * (dtype.itemsize + 1) + 4 * scales, flops=3 * M * K)


SPECS = [
    launch_spec(
        fp8_tiles_kernel, dtype,
        {**constants_of(fmt, power_of_two), **tile_launch()},
        spec_size(fmt, power_of_two), x_ptr="*", q_ptr=f"*{TRITON_TYPES[fmt.dtype]}",
        scale_ptr="*fp32", x_stride="i32", M="i32", K="i32",
    )
    for dtype, fmt, power_of_two in COMPILED
]  # fmt: skip
"""Configurations that `fp8_tiles` launches at BENCHMARK_SHAPES."""
