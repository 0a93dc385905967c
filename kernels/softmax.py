# mypy: allow-untyped-defs
"""Softmax over the last axis: numbers become shares of one.

    y_n = exp(x_n - m) / sum_k exp(x_k - m)        m = max_k x_k

Any m gives the same y; the maximum keeps exp from overflowing. (Softmax:
Bridle 1990. The kernels: Triton's tutorial "Fused Softmax".) With dy the
gradient that arrives at y, the gradient that leaves at x is

    dx_n = y_n (dy_n - sum_k dy_k y_k)

Shapes: x_RN has R rows of N elements, R being all leading axes together; y, dy
and dx have x's. e is the bytes per element: 4 for float32, 2 for float16 and
bfloat16.

Cost, forward:   2 R N e bytes (read x, write y)         5 R N FLOPs
      backward:  3 R N e bytes (read y and dy, write dx) 4 R N FLOPs

One or two FLOPs a byte, and a GPU can do over a hundred in the time that it
moves one: softmax takes as long as its bytes. Written in plain PyTorch, as in
the reference, it moves each row several times. The kernels hold a row in
registers from the first load to the last store and move it once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.language import jit, tl
from kernels.operation import (
    KERNEL_DTYPES,
    Cost,
    accumulator,
    as_rows,
    check_rows,
    refuse_second_derivative,
    route,
    row_launch,
    row_spec,
)

MAX_N = 16384
"""The longest row that one program's registers hold without spilling."""

BENCHMARK_SHAPES = ((8192, 1024), (8192, 4096), (8192, 16384))
"""(R, N) that the benchmark times and the compile check covers."""


def softmax_reference(x: Tensor) -> Tensor:
    """Softmax in plain PyTorch, differentiable, on any device: the oracle.

    Args:
        x: (..., N), any floating dtype. Half precisions are computed in float32.

    Returns:
        y, with x's shape and dtype.
    """
    x_RN = x.to(accumulator(x.dtype))
    # y does not depend on the shift, so no gradient flows through it.
    shift_R1 = x_RN.detach().amax(-1, keepdim=True)
    e_RN = (x_RN - shift_R1).exp()
    return (e_RN / e_RN.sum(-1, keepdim=True)).to(x.dtype)


@jit
def softmax_forward_kernel(x_ptr, y_ptr, x_stride, y_stride, N, BLOCK: tl.constexpr):
    # Program r works on row r alone: R programs, in any order, on any core.
    # In 64 bits, since r * stride passes 2**31 on large tensors.
    r = tl.program_id(0).to(tl.int64)
    # A block's size is a power of two known when compiling; a row's is neither.
    # The mask tells which lanes are elements of the row.
    n = tl.arange(0, BLOCK)
    in_row = n < N
    # Lanes beyond the row get -inf: no maximum, and exp(-inf) adds 0 to the sum.
    x = tl.load(x_ptr + r * x_stride + n, mask=in_row, other=float("-inf"))
    x = x.to(tl.float32)  # memory holds halves, arithmetic is in float32
    e = tl.exp(x - tl.max(x, axis=0))
    y = e / tl.sum(e, axis=0)
    # The store turns y into the dtype that y_ptr points to.
    tl.store(y_ptr + r * y_stride + n, y, mask=in_row)


@jit
def softmax_backward_kernel(
    y_ptr, dy_ptr, dx_ptr, y_stride, dy_stride, dx_stride, N, BLOCK: tl.constexpr
):
    r = tl.program_id(0).to(tl.int64)
    n = tl.arange(0, BLOCK)
    in_row = n < N
    # 0 beyond the row, so that these lanes add nothing to the sum.
    y = tl.load(y_ptr + r * y_stride + n, mask=in_row, other=0.0).to(tl.float32)
    dy = tl.load(dy_ptr + r * dy_stride + n, mask=in_row, other=0.0).to(tl.float32)
    dx = y * (dy - tl.sum(dy * y, axis=0))
    tl.store(dx_ptr + r * dx_stride + n, dx, mask=in_row)


class _Softmax(torch.autograd.Function):
    """Ties the two kernels together for autograd."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x_RN = as_rows(x)
        R, N = x_RN.shape
        # With x's shape: an output that is a view may not be changed in place.
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        y_RN = y.view(R, N)
        if R:  # a GPU refuses a grid of no programs
            softmax_forward_kernel[(R,)](
                x_RN, y_RN, x_RN.stride(0), y_RN.stride(0), N, **row_launch(N)
            )
        # The backward needs y only, so x need not be kept.
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        refuse_second_derivative("softmax")
        (y,) = ctx.saved_tensors
        # What arrives has any strides: y.sum() sends one number, R N times.
        y_RN, dy_RN = as_rows(y), as_rows(dy)
        R, N = y_RN.shape
        dx_RN = torch.empty((R, N), dtype=y.dtype, device=y.device)
        if R:
            softmax_backward_kernel[(R,)](
                y_RN,
                dy_RN,
                dx_RN,
                y_RN.stride(0),
                dy_RN.stride(0),
                dx_RN.stride(0),
                N,
                **row_launch(N),
            )
        return dx_RN.view(dy.shape)


def softmax(x: Tensor, interpret: bool | None = None) -> Tensor:
    """Softmax over the last axis: the kernel on a GPU, the reference on a CPU.

    Args:
        x: (..., N) with 1 <= N <= MAX_N; float32, float16 or bfloat16, any
            strides.
        interpret: True runs the kernel interpreted on a CPU (slow).

    Returns:
        y, with x's shape and dtype. The kernel differentiates once.

    Raises:
        KernelInputError: x is not such a tensor.
        ValueError: interpret=True where kernels are not interpreted.
    """
    check_rows("softmax", x, MAX_N)
    if route(x, interpret) == "reference":
        return softmax_reference(x)
    with torch.cuda.device_of(x):  # Triton launches on the current GPU
        y: Tensor = _Softmax.apply(x)
    return y


def softmax_cost(R: int, N: int, dtype: torch.dtype) -> Cost:
    """The forward: one read and one write of every element."""
    return Cost(bytes=2 * R * N * dtype.itemsize, flops=5 * R * N)


def softmax_backward_cost(R: int, N: int, dtype: torch.dtype) -> Cost:
    """The backward: two reads and one write of every element."""
    return Cost(bytes=3 * R * N * dtype.itemsize, flops=4 * R * N)


SPECS = [
    spec
    for _, N in BENCHMARK_SHAPES
    for dtype in KERNEL_DTYPES
    for spec in (
        row_spec(
            softmax_forward_kernel, N, dtype, x_ptr="*", y_ptr="*",
            x_stride="i32", y_stride="i32", N="i32",
        ),
        row_spec(
            softmax_backward_kernel, N, dtype, y_ptr="*", dy_ptr="*", dx_ptr="*",
            y_stride="i32", dy_stride="i32", dx_stride="i32", N="i32",
        ),
    )
]  # fmt: skip
"""Every configuration that `softmax` launches at BENCHMARK_SHAPES."""
