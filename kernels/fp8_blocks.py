# mypy: allow-untyped-defs
"""Weights to FP8: every block of 128 x 128 shares one scale.

    s_ij = max over block ij of |w_nk| / largest          q_nk = cast(w_nk / s_ij)

(DeepSeek-V3, arXiv 2412.19437, section 3.3.2 and Fig. 7a.) Weights have few outliers,
and a block is 128 long either way. So one set of codes and scales serves two products:
the forward, x W^T, which sums over k, and the gradient of the input, dy W, which sums
over n. Only, FP8 units want the terms of a sum side by side in memory: the second
product reads the same codes written transposed.

Shapes: w_NK maps K features to N; q_NK are its codes, qt_KN the same transposed, and
scale_IJ has one scale for each of I = ceil(N / 128) by J = ceil(K / 128) blocks; the
last of each may be smaller. Those of qt_KN are scale_IJ's transpose. `fp8_scaling`
says what becomes of zeros, NaN and infinity. e is the bytes per element of w: 4 or 2.

Cost:             N K (e + 1) + 4 I J bytes (read w; write q, scale)   3 N K FLOPs
      transposed: N K (e + 2) + 4 I J bytes (write qt too)             3 N K FLOPs
"""

from __future__ import annotations

from typing import Literal, overload

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

BENCHMARK_SHAPES = ((4096, 7168), (7168, 16384))
"""(N, K) of weights."""


def fp8_blocks_reference(
    w: Tensor, fmt: Float8 = E4M3, power_of_two: bool = False, transposed: bool = False
) -> tuple[Tensor, ...]:
    """The same in plain PyTorch, on any device: the oracle.

    Args:
        w: (N, K), any floating dtype; computed in float32.
        fmt: the 8-bit format.
        power_of_two: whether scales are rounded up to powers of two.
        transposed: whether the codes are wanted transposed too.

    Returns:
        q, (N, K) of fmt.dtype, and scale, (I, J) of float32; if transposed, qt,
        (K, N), as a third.
    """
    q, scale = quantise_reference(w, (TILE, TILE), fmt, power_of_two)
    return (q, scale, q.T.contiguous()) if transposed else (q, scale)


@jit
def fp8_blocks_kernel(
    w_ptr, q_ptr, scale_ptr, qt_ptr, w_stride, N, K, LARGEST: tl.constexpr,
    POWER_OF_TWO: tl.constexpr, TRANSPOSED: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    # Neighbouring programs take neighbouring blocks of the same rows.
    blocks = tl.cdiv(K, TILE)
    i, j = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    # In 64 bits, since n * stride and k * N pass 2**31 on large tensors.
    n = i.to(tl.int64) * TILE + tl.arange(0, TILE)
    k = j.to(tl.int64) * TILE + tl.arange(0, TILE)
    inside = (n < N)[:, None] & (k < K)[None, :]
    # 0 where there is no number: every block's maximum is at least that.
    w_at = w_ptr + n[:, None] * w_stride + k[None, :]
    w = tl.load(w_at, mask=inside, other=0.0).to(tl.float32)
    scale = scale_of(tl.max(size_of(w)), LARGEST, POWER_OF_TWO)
    q = codes_of(w, scale, q_ptr.dtype.element_ty, LARGEST)
    tl.store(q_ptr + n[:, None] * K + k[None, :], q, mask=inside)
    # Programs are numbered as the blocks are.
    tl.store(scale_ptr + tl.program_id(0), scale)
    if TRANSPOSED:
        tl.store(qt_ptr + k[None, :] * N + n[:, None], q, mask=inside)


@overload
def fp8_blocks(
    w: Tensor,
    fmt: Float8 = ...,
    power_of_two: bool = ...,
    transposed: Literal[False] = ...,
    interpret: bool | None = ...,
) -> tuple[Tensor, Tensor]: ...
@overload
def fp8_blocks(
    w: Tensor,
    fmt: Float8 = ...,
    power_of_two: bool = ...,
    *,
    transposed: Literal[True],
    interpret: bool | None = ...,
) -> tuple[Tensor, Tensor, Tensor]: ...
def fp8_blocks(
    w: Tensor,
    fmt: Float8 = E4M3,
    power_of_two: bool = False,
    transposed: bool = False,
    interpret: bool | None = None,
) -> tuple[Tensor, ...]:
    """Quantise in blocks of 128 x 128: the kernel on a GPU, the reference on a CPU.

    Args:
        w: (N, K); float32, float16 or bfloat16, any strides.
        fmt: the 8-bit format.
        power_of_two: whether scales are rounded up to powers of two.
        transposed: whether the codes are wanted transposed too, from the same read.
        interpret: True runs the kernel interpreted on a CPU (slow).

    Returns:
        q, (N, K) of fmt.dtype, and scale, (I, J) of float32; if transposed, qt,
        (K, N), as a third, whose scales are scale.T. All bit for bit those of the
        reference, but that one NaN is as good as another.

    Raises:
        KernelInputError: w or fmt are not as above, or the GPU has no FP8.
        ValueError: interpret=True where kernels are not interpreted.
    """
    check_to_quantise("fp8_blocks", w, fmt, "w")
    w_NK = side_by_side(w.detach())
    if route(w, interpret) == "reference":
        return fp8_blocks_reference(w_NK, fmt, power_of_two, transposed)
    N, K = w.shape
    I, J = cdiv(N, TILE), cdiv(K, TILE)  # noqa: E741
    q_NK = torch.empty((N, K), dtype=fmt.dtype, device=w.device)
    shape_of_qt = (K, N) if transposed else (0, 0)
    qt_KN = torch.empty(shape_of_qt, dtype=fmt.dtype, device=w.device)
    scale_IJ = torch.empty((I, J), dtype=torch.float32, device=w.device)
    if w.numel():  # a GPU refuses a grid of no programs
        with torch.cuda.device_of(w):  # Triton launches on the current GPU
            fp8_blocks_kernel[(I * J,)](
                w_NK, q_NK, scale_IJ, qt_KN, w_NK.stride(0), N, K,
                **constants_of(fmt, power_of_two), TRANSPOSED=transposed,
                **square_launch(),
            )  # fmt: skip
    return (q_NK, scale_IJ, qt_KN) if transposed else (q_NK, scale_IJ)


def fp8_blocks_cost(
    N: int, K: int, dtype: torch.dtype, transposed: bool = False
) -> Cost:
    """w read once, codes written once or twice, and the scales."""
    scales = cdiv(N, TILE) * cdiv(K, TILE)
    bytes_each = dtype.itemsize + (2 if transposed else 1)
    return Cost(bytes=N * K * bytes_each + 4 * scales, flops=3 * N * K)


SPECS = [
    launch_spec(
        fp8_blocks_kernel, dtype,
        {**constants_of(fmt, power_of_two), "TRANSPOSED": transposed,
         **square_launch()},
        spec_size(fmt, power_of_two) + (" transposed" if transposed else ""),
        w_ptr="*", q_ptr=f"*{TRITON_TYPES[fmt.dtype]}", scale_ptr="*fp32",
        qt_ptr=f"*{TRITON_TYPES[fmt.dtype]}", w_stride="i32", N="i32", K="i32",
    )
    for dtype, fmt, power_of_two in COMPILED
    for transposed in (False, True)
]  # fmt: skip
"""Configurations that `fp8_blocks` launches at BENCHMARK_SHAPES."""
