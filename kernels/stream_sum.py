# mypy: allow-untyped-defs, disable-error-code="assignment"
"""Stream sum of ParScale: P parallel streams, weighted row by row, become one.

    s_rp = exp(logit_rp) / sum_q exp(logit_rq)
    w_rp = (1 - eps) s_rp + eps / P
    y_rd = sum_p w_rp x_prd

for each row, a token of a sequence: the output aggregation of arXiv 2505.10475,
Appendix A, a dynamic weighted sum with label smoothing. What computes the logits from
the streams is no part of it. With dy the gradient that arrives at y,

    dx_prd = w_rp dy_rd        dw_rp = sum_d dy_rd x_prd
    dlogit_rp = (1 - eps) s_rp (dw_rp - sum_q s_rq dw_rq)

No weight is below eps / P, so every stream gets at least that share of dy, even where
its softmax has come down to 0. Without smoothing such a stream would learn nothing
more. The paper trains with eps = 0.1; in its published code the default is 0.01.

Shapes: P streams, R rows, D model width. x_PRD are the streams, one after the other,
logits_RP (float32) what a row says to each of them, y_RD the sum. e is the bytes of an
element of x: 4 for float32, 2 for float16 and bfloat16.

Cost, forward:   e (P + 1) R D + 4 R P bytes (read x, logits; write y)
                                                               R P (2 D + 7) FLOPs
      backward:  e (2 P + 1) R D + 8 R P bytes (read dy, x, logits; write dx, dlogits)
                                                               R P (3 D + 12) FLOPs

With P = 4 in bfloat16 that is 10 D + 16 bytes a row forward and 18 D + 32 backward, at
less than one FLOP a byte: only the bytes count. In small steps the weighted streams
would be written and read again, all P of them. Here a row's weights are made where they
are used: P exponentials for each program cost less than a tensor of weights. In the
backward dlogit sums over all elements of a row: a program keeps its rows and goes
along D, so that no other adds to the same number.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.language import cdiv, jit, next_power_of_2, tl
from kernels.operation import (
    KERNEL_DTYPES,
    Cost,
    KernelInputError,
    accumulator,
    check_beside,
    check_kernel_tensor,
    launch_spec,
    refuse_second_derivative,
    route,
    side_by_side,
)

EPS = 0.1
"""The share of a row's weight that is spread evenly: the paper's, Appendix A."""

MAX_STREAMS = 8
"""The most streams, as in the paper: their loads are on their way at once."""

BENCHMARK_SHAPES = ((2, 8192, 2048), (4, 8192, 2048), (8, 8192, 2048))
"""(P, R, D) that the benchmark times and the compile check covers: 4 sequences of
2048 tokens at the width of Qwen2.5-3B, which the paper turns into P streams."""


def stream_sum_reference(x: Tensor, logits: Tensor, eps: float = EPS) -> Tensor:
    """The stream sum in plain PyTorch, differentiable, on any device: the oracle.

    Args:
        x: (P, R, D), any floating dtype. Half precisions are computed in float32.
        logits: (R, P).
        eps: how much of a row's weight is spread evenly, 0 to 1.

    Returns:
        y, (R, D), with x's dtype.
    """
    x_PRD = x.to(accumulator(x.dtype))
    s_RP = torch.softmax(logits.to(x_PRD.dtype), -1)
    w_RP = (1 - eps) * s_RP + eps / len(x)
    return (w_RP.T[:, :, None] * x_PRD).sum(0).to(x.dtype)


@jit
def softmax_of_streams(logits_at, is_row, P: tl.constexpr):
    """Each row's softmax over its P logits: P blocks, with one number a row each."""
    first = tl.load(logits_at, mask=is_row, other=0.0)
    # A tuple of blocks: streams are told apart when compiling.
    logits, largest = (first,), first
    for p in tl.static_range(1, P):
        logits += (tl.load(logits_at + p, mask=is_row, other=0.0),)
        largest = tl.maximum(largest, logits[p])
    # Any shift gives the same softmax; the largest keeps exp from overflowing.
    e, total = (), tl.zeros_like(largest)
    for p in tl.static_range(P):
        e += (tl.exp(logits[p] - largest),)
        total += e[p]
    s = ()
    for p in tl.static_range(P):
        s += (e[p] / total,)
    return s


@jit
def stream_sum_forward_kernel(
    x_ptr, logits_ptr, y_ptr, x_stride_p, x_stride_r, logits_stride, eps, R, D,
    P: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    # In 64 bits, since r * stride passes 2**31 on large tensors.
    r = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    is_row = r < R
    inside = is_row[:, None] & (d < D)[None, :]
    s = softmax_of_streams(logits_ptr + r * logits_stride, is_row, P)
    x_at = x_ptr + r[:, None] * x_stride_r + d[None, :]
    y = tl.zeros((BLOCK_R, BLOCK_D), dtype=tl.float32)
    # P is known when compiling, so this loop becomes P times its body.
    for p in tl.static_range(P):
        w = (1.0 - eps) * s[p] + eps / P
        x = tl.load(x_at, mask=inside, other=0.0).to(tl.float32)
        y += w[:, None] * x
        x_at += x_stride_p  # step by step, as p * stride may pass 2**31
    tl.store(y_ptr + r[:, None] * D + d[None, :], y, mask=inside)


@jit
def stream_sum_backward_kernel(
    x_ptr, logits_ptr, dy_ptr, dx_ptr, dlogits_ptr, x_stride_p, x_stride_r,
    logits_stride, dy_stride, dx_stride, eps, R, D, P: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    is_row = r < R
    s = softmax_of_streams(logits_ptr + r * logits_stride, is_row, P)
    # One column a stream. Elements beyond D are 0 and add nothing.
    column = tl.arange(0, BLOCK_P)[None, :]
    dw = tl.zeros((BLOCK_R, BLOCK_P), dtype=tl.float32)
    for start in range(0, D, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        inside = is_row[:, None] & (d < D)[None, :]
        dy_at = dy_ptr + r[:, None] * dy_stride + d[None, :]
        dy = tl.load(dy_at, mask=inside, other=0.0).to(tl.float32)
        x_at = x_ptr + r[:, None] * x_stride_r + d[None, :]
        dx_at = dx_ptr + r[:, None] * D + d[None, :]
        for p in tl.static_range(P):
            w = (1.0 - eps) * s[p] + eps / P
            tl.store(dx_at, w[:, None] * dy, mask=inside)
            x = tl.load(x_at, mask=inside, other=0.0).to(tl.float32)
            dw += tl.where(column == p, tl.sum(dy * x, axis=1)[:, None], 0.0)
            x_at += x_stride_p
            dx_at += dx_stride
    shares = tl.zeros((BLOCK_R, BLOCK_P), dtype=tl.float32)  # s, beside dw
    for p in tl.static_range(P):
        shares += tl.where(column == p, s[p][:, None], 0.0)
    mean = tl.sum(shares * dw, axis=1)
    dlogits = (1.0 - eps) * shares * (dw - mean[:, None])
    is_number = is_row[:, None] & (column < P)
    tl.store(dlogits_ptr + r[:, None] * P + column, dlogits, mask=is_number)


def stream_launch(P: int) -> dict[str, Any]:
    """How a kernel is launched whose programs hold a tile of every stream.

    A tile is 4 rows by 256 elements, a warp for each row: a thread holds 8 elements,
    which in half precision are the 16 bytes that it can load at once, and sums over a
    row's elements stay within a warp.
    """
    return {"P": P, "BLOCK_R": 4, "BLOCK_D": 256, "num_warps": 4, "num_stages": 1}


def backward_launch(P: int) -> dict[str, Any]:
    """The forward's tile, and a block that covers a row's streams.

    Above 4 streams the tile is half as wide, or on some GPUs a thread's registers would
    not do.
    """
    launch = {**stream_launch(P), "BLOCK_P": next_power_of_2(P)}
    return launch if P <= 4 else {**launch, "BLOCK_D": 128}


class _StreamSum(torch.autograd.Function):
    """Ties the two kernels together for autograd."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, logits: Tensor, eps: float) -> Tensor:
        x_PRD, logits_RP = side_by_side(x), side_by_side(logits)
        P, R, D = x_PRD.shape
        launch = stream_launch(P)
        y_RD = x.new_empty((R, D))
        if R:  # a GPU refuses a grid of no programs
            grid = (cdiv(R, launch["BLOCK_R"]), cdiv(D, launch["BLOCK_D"]))
            stream_sum_forward_kernel[grid](
                x_PRD,
                logits_RP,
                y_RD,
                x_PRD.stride(0),
                x_PRD.stride(1),
                logits_RP.stride(0),
                eps,
                R,
                D,
                **launch,
            )
        ctx.save_for_backward(x_PRD, logits_RP)
        ctx.eps = eps
        return y_RD

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None]:
        refuse_second_derivative("stream_sum")
        x_PRD, logits_RP = ctx.saved_tensors
        # What arrives has any strides: y.sum() sends one number, R D times.
        dy_RD = side_by_side(dy)
        P, R, D = x_PRD.shape
        launch = backward_launch(P)
        dx_PRD = x_PRD.new_empty((P, R, D))
        dlogits_RP = x_PRD.new_empty((R, P), dtype=torch.float32)
        if R:
            stream_sum_backward_kernel[(cdiv(R, launch["BLOCK_R"]),)](
                x_PRD,
                logits_RP,
                dy_RD,
                dx_PRD,
                dlogits_RP,
                x_PRD.stride(0),
                x_PRD.stride(1),
                logits_RP.stride(0),
                dy_RD.stride(0),
                dx_PRD.stride(0),
                ctx.eps,
                R,
                D,
                **launch,
            )
        return dx_PRD, dlogits_RP, None


def stream_sum(
    x: Tensor, logits: Tensor, eps: float = EPS, interpret: bool | None = None
) -> Tensor:
    """Add up the streams by each row's weights: kernel on a GPU, else reference.

    Args:
        x: (P, R, D), streams first, with 1 <= P <= MAX_STREAMS; float32, float16 or
            bfloat16, any strides; elements of a row that lie apart are copied.
        logits: (R, P), float32, on x's device.
        eps: 0 to 1, how much of a row's weight is spread evenly over the streams. 0 is
            a plain softmax, 1 the mean. It has no gradient.
        interpret: True runs the kernels interpreted on a CPU (slow).

    Returns:
        y, (R, D), with x's dtype. The kernels differentiate once.

    Raises:
        KernelInputError: x, logits or eps is not as above.
        ValueError: interpret=True where kernels are not interpreted.
    """
    check_kernel_tensor("stream_sum", x)
    if x.ndim != 3 or not 1 <= len(x) <= MAX_STREAMS or x.shape[2] < 1:
        raise KernelInputError(
            "stream_sum: x must have shape (P, R, D), streams by rows by at least one "
            f"element, with P 1 to {MAX_STREAMS}; got {tuple(x.shape)}."
        )
    P, R, _ = x.shape
    check_beside("stream_sum", x, "logits", logits, (R, P), "(R, P)")
    is_number = isinstance(eps, (int, float)) and not isinstance(eps, bool)
    if not is_number or not 0 <= eps <= 1:
        raise KernelInputError(
            f"stream_sum: eps must be a number from 0 to 1; got {eps!r}."
        )
    if route(x, interpret) == "reference":
        return stream_sum_reference(x, logits, eps)
    with torch.cuda.device_of(x):  # Triton launches on the current GPU
        y: Tensor = _StreamSum.apply(x, logits, float(eps))
    return y


def stream_sum_cost(P: int, R: int, D: int, dtype: torch.dtype) -> Cost:
    """The forward: x and logits read once, y written once."""
    moved = (P + 1) * R * D * dtype.itemsize + 4 * R * P
    return Cost(bytes=moved, flops=R * P * (2 * D + 7))


def stream_sum_backward_cost(P: int, R: int, D: int, dtype: torch.dtype) -> Cost:
    """The backward: dy, x and logits read once, dx and dlogits written once."""
    moved = (2 * P + 1) * R * D * dtype.itemsize + 8 * R * P
    return Cost(bytes=moved, flops=R * P * (3 * D + 12))


SPECS = [
    spec
    for P in sorted({P for P, _, _ in BENCHMARK_SHAPES})
    for dtype in KERNEL_DTYPES
    for spec in (
        launch_spec(
            stream_sum_forward_kernel, dtype, stream_launch(P), f"P={P}", x_ptr="*",
            logits_ptr="*fp32", y_ptr="*", x_stride_p="i32", x_stride_r="i32",
            logits_stride="i32", eps="fp32", R="i32", D="i32",
        ),
        launch_spec(
            stream_sum_backward_kernel, dtype, backward_launch(P), f"P={P}", x_ptr="*",
            logits_ptr="*fp32", dy_ptr="*", dx_ptr="*", dlogits_ptr="*fp32",
            x_stride_p="i32", x_stride_r="i32", logits_stride="i32", dy_stride="i32",
            dx_stride="i32", eps="fp32", R="i32", D="i32",
        ),
    )
]  # fmt: skip
"""Every configuration that `stream_sum` launches at BENCHMARK_SHAPES."""
