# mypy: allow-untyped-defs
"""Activations to FP8 for both products that read them, in one pass.

    q_mk = cast(x_mk / s_mj)          s_mj over 128 numbers of row m
    qt_km = cast(x_mk / t_ki)         t_ki over 128 numbers of column k

(DeepSeek-V3, arXiv 2412.19437, section 3.3.2.) A matrix product takes out the scales of
128 terms at a time, so its operands need tiles along the axis that it sums over. The
forward sums over a row's features; the gradient of the weights, x^T dy, over tokens:
128 x 1 tiles of x. These are other codes, not the transpose of the first. As FP8 units
want the terms of a sum side by side in memory, the second set lies transposed: it is
x^T in 1 x 128 tiles.

Shapes: x_MK has M rows (tokens) of K numbers; q_MK and scale_MJ are those of
`fp8_tiles`, J = ceil(K / 128); qt_KM and scalet_KI those of x^T, I = ceil(M / 128). e
is the bytes per element of x: 4 or 2.

Cost:   M K (e + 2) + 4 (M J + K I) bytes                              5 M K FLOPs
        (read x; write q, scale, qt, scalet)

Two passes would read x twice: 6.06 bytes an element from bfloat16, here it is 4.06. So
a program holds a block of 128 x 128, which is whole tiles either way.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.float8 import E4M3, Float8
from kernels.fp8_cast import (
    COMPILED,
    codes_of,
    constants_of,
    scale_of,
    size_of,
    spec_size,
    square_launch,
)
from kernels.fp8_operands import check_to_quantise
from kernels.fp8_scaling import TILE, quantise_reference
from kernels.language import cdiv, jit, tl
from kernels.operation import TRITON_TYPES, Cost, launch_spec, route, side_by_side

BENCHMARK_SHAPES = ((4096, 7168), (16384, 7168))
"""(M, K): tokens by the model width of DeepSeek-V3."""

Both = tuple[Tensor, Tensor, Tensor, Tensor]
"""q_MK, scale_MJ, qt_KM, scalet_KI."""


def fp8_tiles_both_reference(
    x: Tensor, fmt: Float8 = E4M3, power_of_two: bool = False
) -> Both:
    """The same in plain PyTorch, on any device: the oracle.

    Args:
        x: (M, K), any floating dtype; computed in float32.
        fmt: the 8-bit format.
        power_of_two: whether scales are rounded up to powers of two.

    Returns:
        q, (M, K) of fmt.dtype, scale, (M, J) of float32, and both of x^T: (K, M)
        and (K, I).
    """
    rows = quantise_reference(x, (1, TILE), fmt, power_of_two)
    q, scale = quantise_reference(x.T, (1, TILE), fmt, power_of_two)
    return *rows, q.contiguous(), scale


@jit
def fp8_tiles_both_kernel(
    x_ptr, q_ptr, scale_ptr, qt_ptr, scalet_ptr, x_stride, M, K,
    LARGEST: tl.constexpr, POWER_OF_TWO: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    # Neighbouring programs take neighbouring blocks of the same rows.
    tiles = tl.cdiv(K, TILE)
    i, j = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    # In 64 bits, since m * stride and k * M pass 2**31 on large tensors.
    m = i.to(tl.int64) * TILE + tl.arange(0, TILE)
    k = j.to(tl.int64) * TILE + tl.arange(0, TILE)
    inside = (m < M)[:, None] & (k < K)[None, :]
    # 0 where there is no number: every tile's maximum is at least that.
    x_at = x_ptr + m[:, None] * x_stride + k[None, :]
    x = tl.load(x_at, mask=inside, other=0.0).to(tl.float32)
    size = size_of(x)
    scale = scale_of(tl.max(size, axis=1), LARGEST, POWER_OF_TWO)
    scalet = scale_of(tl.max(size, axis=0), LARGEST, POWER_OF_TWO)
    tl.store(scale_ptr + j * M + m, scale, mask=m < M)
    tl.store(scalet_ptr + i * K + k, scalet, mask=k < K)
    # Addresses in x^T follow m, those in x follow k. Threads swap their codes through
    # shared memory, so that each writes neighbours.
    qt = codes_of(x, scalet[None, :], qt_ptr.dtype.element_ty, LARGEST)
    tl.store(qt_ptr + k[None, :] * M + m[:, None], qt, mask=inside)
    q = codes_of(x, scale[:, None], q_ptr.dtype.element_ty, LARGEST)
    tl.store(q_ptr + m[:, None] * K + k[None, :], q, mask=inside)


def fp8_tiles_both(
    x: Tensor,
    fmt: Float8 = E4M3,
    power_of_two: bool = False,
    interpret: bool | None = None,
) -> Both:
    """Quantise x and x^T, rows of each in tiles of 128, reading x once.

    Args:
        x: (M, K); float32, float16 or bfloat16, any strides.
        fmt: the 8-bit format.
        power_of_two: whether scales are rounded up to powers of two.
        interpret: True runs the kernel interpreted on a CPU (slow).

    Returns:
        q, (M, K) of fmt.dtype, scale, (M, J) of float32, qt, (K, M), and scalet,
        (K, I): bit for bit those of the reference, but that one NaN is as good as
        another. The kernel's scales lie transposed in memory.

    Raises:
        KernelInputError: x or fmt are not as above, or the GPU has no FP8.
        ValueError: interpret=True where kernels are not interpreted.
    """
    check_to_quantise("fp8_tiles_both", x, fmt)
    x_MK = side_by_side(x.detach())
    if route(x, interpret) == "reference":
        return fp8_tiles_both_reference(x_MK, fmt, power_of_two)
    M, K = x.shape
    I, J = cdiv(M, TILE), cdiv(K, TILE)  # noqa: E741
    q_MK = torch.empty((M, K), dtype=fmt.dtype, device=x.device)
    qt_KM = torch.empty((K, M), dtype=fmt.dtype, device=x.device)
    scale_JM = torch.empty((J, M), dtype=torch.float32, device=x.device)
    scalet_IK = torch.empty((I, K), dtype=torch.float32, device=x.device)
    if x.numel():  # a GPU refuses a grid of no programs
        with torch.cuda.device_of(x):  # Triton launches on the current GPU
            fp8_tiles_both_kernel[(I * J,)](
                x_MK, q_MK, scale_JM, qt_KM, scalet_IK, x_MK.stride(0), M, K,
                **constants_of(fmt, power_of_two), **square_launch(),
            )  # fmt: skip
    return q_MK, scale_JM.T, qt_KM, scalet_IK.T


def fp8_tiles_both_cost(M: int, K: int, dtype: torch.dtype) -> Cost:
    """x read once, two sets of codes and scales written; |x| is taken once."""
    scales = M * cdiv(K, TILE) + K * cdiv(M, TILE)
    return Cost(bytes=M * K * (dtype.itemsize + 2) + 4 * scales, flops=5 * M * K)


SPECS = [
    launch_spec(
        fp8_tiles_both_kernel, dtype,
        {**constants_of(fmt, power_of_two), **square_launch()},
        spec_size(fmt, power_of_two), x_ptr="*", q_ptr=f"*{TRITON_TYPES[fmt.dtype]}",
        scale_ptr="*fp32", qt_ptr=f"*{TRITON_TYPES[fmt.dtype]}", scalet_ptr="*fp32",
        x_stride="i32", M="i32", K="i32",
    )
    for dtype, fmt, power_of_two in COMPILED
]  # fmt: skip
"""Configurations that `fp8_tiles_both` launches at BENCHMARK_SHAPES."""
