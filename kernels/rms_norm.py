# mypy: allow-untyped-defs
"""RMSNorm over the last axis: every row scaled to a mean square of one.

    y_n = w_n x_n rstd        rstd = 1 / sqrt(mean_k x_k^2 + eps)

(Zhang and Sennrich 2019, arXiv:1910.07467, equation 4; eps keeps a row of
zeros finite.) With dy the gradient that arrives at y, and g_n = w_n dy_n,

    dx_n = rstd (g_n - x_n rstd^2 mean_k(g_k x_k))        dw_n = sum_R dy_n x_n rstd

Shapes: x_RN has R rows of N elements, R being all leading axes together; y, dy
and dx have x's; weight_N and dw_N. e is the bytes per element: 4 for float32,
2 for float16 and bfloat16. P programs share the rows in the backward.

Cost, forward:   (2 R N + N) e bytes (read x, w; write y)             4 R N FLOPs
      backward:  (3 R N + 2 N) e bytes (read x, dy, w; write dx, dw) 11 R N FLOPs

dx is a row's own business, dw sums over all rows. Atomic additions into one
dw would arrive in another order every time, and the sum would differ in its
last bits from run to run. Here each program sums its own rows in a fixed
order and writes one row of partial_PN; a second stage adds the P rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.language import jit, tl
from kernels.operation import (
    KERNEL_DTYPES,
    Cost,
    KernelInputError,
    accumulator,
    as_rows,
    check_rows,
    dtype_name,
    refuse_second_derivative,
    route,
    row_launch,
    row_spec,
)

MAX_N = 8192
"""The longest row that one program's registers hold without spilling."""

BENCHMARK_SHAPES = ((8192, 1024), (8192, 4096), (8192, 8192))
"""(R, N) that the benchmark times and the compile check covers."""


def rms_norm_reference(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """RMSNorm in plain PyTorch, differentiable, on any device: the oracle.

    Args:
        x: (..., N), any floating dtype. Half precisions are computed in float32.
        weight: (N,).
        eps: added to the mean square.

    Returns:
        y, with x's shape and dtype.
    """
    x_RN = x.to(accumulator(x.dtype))
    rstd_R1 = (x_RN.square().mean(-1, keepdim=True) + eps).rsqrt()
    return (x_RN * rstd_R1 * weight.to(x_RN.dtype)).to(x.dtype)


@jit
def rms_norm_forward_kernel(
    x_ptr, w_ptr, y_ptr, x_stride, y_stride, N, eps, BLOCK: tl.constexpr
):
    r = tl.program_id(0).to(tl.int64)  # 64 bits: r * stride may pass 2**31
    n = tl.arange(0, BLOCK)
    in_row = n < N
    # 0 beyond the row adds nothing to the sum; the mean divides by N, not BLOCK.
    x = tl.load(x_ptr + r * x_stride + n, mask=in_row, other=0.0).to(tl.float32)
    w = tl.load(w_ptr + n, mask=in_row, other=0.0).to(tl.float32)
    rstd = 1.0 / tl.sqrt(tl.sum(x * x, axis=0) / N + eps)
    tl.store(y_ptr + r * y_stride + n, x * rstd * w, mask=in_row)


@jit
def rms_norm_backward_kernel(
    x_ptr, w_ptr, dy_ptr, dx_ptr, partial_ptr, x_stride, dy_stride, dx_stride,
    partial_stride, R, N, eps, BLOCK: tl.constexpr
):  # fmt: skip
    p = tl.program_id(0).to(tl.int64)  # and with it every row below
    n = tl.arange(0, BLOCK)
    in_row = n < N
    w = tl.load(w_ptr + n, mask=in_row, other=0.0).to(tl.float32)
    dw = tl.zeros((BLOCK,), dtype=tl.float32)
    # Rows p, p + P, p + 2 P, ...: dw stays in registers from row to row.
    for r in range(p, R, tl.num_programs(0)):
        x = tl.load(x_ptr + r * x_stride + n, mask=in_row, other=0.0).to(tl.float32)
        dy = tl.load(dy_ptr + r * dy_stride + n, mask=in_row, other=0.0).to(tl.float32)
        # Computed again rather than saved by the forward: x is here anyway, and
        # arithmetic costs less than memory.
        rstd = 1.0 / tl.sqrt(tl.sum(x * x, axis=0) / N + eps)
        g = w * dy
        dx = rstd * (g - x * rstd * rstd * (tl.sum(g * x, axis=0) / N))
        tl.store(dx_ptr + r * dx_stride + n, dx, mask=in_row)
        dw += dy * x * rstd
    tl.store(partial_ptr + p * partial_stride + n, dw, mask=in_row)


def backward_programs(x_RN: Tensor) -> int:
    """P: how many programs share the rows in the backward.

    On a GPU enough for 32 warps on each of its multiprocessors, to keep the
    memory busy, and no more, as each adds a row to partial_PN. Interpreted,
    programs run one after another and any P will do.
    """
    R, N = x_RN.shape
    if not x_RN.is_cuda:
        return min(R, 4)
    properties = torch.cuda.get_device_properties(x_RN.device)
    per_multiprocessor = 32 // row_launch(N)["num_warps"]
    return min(R, int(properties.multi_processor_count) * per_multiprocessor)


class _RMSNorm(torch.autograd.Function):
    """Ties the kernels together for autograd."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        x_RN, weight_N = as_rows(x), weight.contiguous()
        R, N = x_RN.shape
        # With x's shape: an output that is a view may not be changed in place.
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        y_RN = y.view(R, N)
        if R:  # a GPU refuses a grid of no programs
            rms_norm_forward_kernel[(R,)](
                x_RN,
                weight_N,
                y_RN,
                x_RN.stride(0),
                y_RN.stride(0),
                N,
                eps,
                **row_launch(N),
            )
        ctx.save_for_backward(x_RN, weight_N)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None]:
        refuse_second_derivative("rms_norm")
        x_RN, weight_N = ctx.saved_tensors
        # What arrives has any strides: y.sum() sends one number, R N times.
        dy_RN = as_rows(dy)
        R, N = x_RN.shape
        P = backward_programs(x_RN)
        dx_RN = torch.empty((R, N), dtype=x_RN.dtype, device=x_RN.device)
        partial_PN = torch.empty((P, N), dtype=torch.float32, device=x_RN.device)
        if R:
            rms_norm_backward_kernel[(P,)](
                x_RN,
                weight_N,
                dy_RN,
                dx_RN,
                partial_PN,
                x_RN.stride(0),
                dy_RN.stride(0),
                dx_RN.stride(0),
                partial_PN.stride(0),
                R,
                N,
                ctx.eps,
                **row_launch(N),
            )
        # The second stage. P rows are few, and torch adds them in a fixed order.
        dw_N = partial_PN.sum(0).to(weight_N.dtype)
        return dx_RN.view(dy.shape), dw_N, None


def rms_norm(
    x: Tensor, weight: Tensor, eps: float = 1e-6, interpret: bool | None = None
) -> Tensor:
    """RMSNorm over the last axis: the kernel on a GPU, the reference on a CPU.

    Args:
        x: (..., N) with 1 <= N <= MAX_N; float32, float16 or bfloat16, any
            strides.
        weight: (N,), with x's dtype, on x's device.
        eps: added to the mean square; above 0.
        interpret: True runs the kernels interpreted on a CPU (slow).

    Returns:
        y, with x's shape and dtype. The kernels differentiate once.

    Raises:
        KernelInputError: x, weight or eps is not as above.
        ValueError: interpret=True where kernels are not interpreted.
    """
    check_rows("rms_norm", x, MAX_N)
    _check_weight(x, weight)
    if not eps > 0:
        raise KernelInputError(
            f"rms_norm: eps must be above 0, or a row of zeros gives NaN; got {eps}."
        )
    if route(x, interpret) == "reference":
        return rms_norm_reference(x, weight, eps)
    with torch.cuda.device_of(x):  # Triton launches on the current GPU
        y: Tensor = _RMSNorm.apply(x, weight, float(eps))
    return y


def _check_weight(x: Tensor, weight: Tensor) -> None:
    if not isinstance(weight, Tensor):
        raise KernelInputError(
            f"rms_norm: weight must be a torch.Tensor; got {type(weight).__name__}."
        )
    if weight.shape != x.shape[-1:]:
        raise KernelInputError(
            f"rms_norm: weight must have shape {tuple(x.shape[-1:])}, one number for "
            f"each element of a row of x; got {tuple(weight.shape)}."
        )
    if weight.dtype != x.dtype:
        raise KernelInputError(
            f"rms_norm: weight must have x's dtype, {dtype_name(x)}; got "
            f"{dtype_name(weight)}."
        )
    if weight.device != x.device:
        raise KernelInputError(
            f"rms_norm: weight must be on x's device, {x.device}; got {weight.device}."
        )


def rms_norm_cost(R: int, N: int, dtype: torch.dtype) -> Cost:
    """The forward: x and weight read once, y written once."""
    return Cost(bytes=(2 * R * N + N) * dtype.itemsize, flops=4 * R * N)


def rms_norm_backward_cost(R: int, N: int, dtype: torch.dtype) -> Cost:
    """The backward: x, dy and weight read once, dx and dw written once.

    partial_PN is not in it: another implementation could do without.
    """
    return Cost(bytes=(3 * R * N + 2 * N) * dtype.itemsize, flops=11 * R * N)


SPECS = [
    spec
    for _, N in BENCHMARK_SHAPES
    for dtype in KERNEL_DTYPES
    for spec in (
        row_spec(
            rms_norm_forward_kernel, N, dtype, x_ptr="*", w_ptr="*", y_ptr="*",
            x_stride="i32", y_stride="i32", N="i32", eps="fp32",
        ),
        row_spec(
            rms_norm_backward_kernel, N, dtype, x_ptr="*", w_ptr="*", dy_ptr="*",
            dx_ptr="*", partial_ptr="*fp32", x_stride="i32", dy_stride="i32",
            dx_stride="i32", partial_stride="i32", R="i32", N="i32", eps="fp32",
        ),
    )
]  # fmt: skip
"""Every configuration that `rms_norm` launches at BENCHMARK_SHAPES."""
