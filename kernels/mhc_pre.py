# mypy: allow-untyped-defs, disable-error-code="assignment"
"""Pre-apply of mHC: n streams become the one input of a layer.

    u_c = sum_j pre_j x_jc

for each token: H^pre x_l of arXiv 2512.24880, Eq. 3, with H^pre one row of n
numbers. With du the gradient that arrives at u,

    dx_jc = pre_j du_c        dpre_j = sum_c du_c x_jc

Shapes: M tokens, n streams, C elements a stream. x_MnC are the streams, u_MC
the layer's input, pre_nM the coefficients, float32, tokens last. e is the bytes
per stream element: 4 for float32, 2 for float16 and bfloat16.

Cost, forward:   M ((n + 1) C e + 4 n) bytes (read x, pre; write u)       2 M n C FLOPs
      backward:  M ((2 n + 1) C e + 8 n) bytes (read du, x, pre; write dx, dpre)
                                                                          3 M n C FLOPs

With n = 4 in bfloat16 that is 10 C + 16 bytes a token forward and 18 C + 32
backward, at less than one FLOP a byte: only the bytes count. The forward has no
sum over elements, so any tile of tokens by elements is a program of its own. In
the backward dpre sums over all elements of a token: a program keeps its tokens
and goes along C, so that no other adds to the same number.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.language import cdiv, jit, next_power_of_2, tl
from kernels.mhc_streams import (
    BENCHMARK_SHAPES,
    check_streams,
    stream_launch,
    stream_spec,
)
from kernels.operation import (
    KERNEL_DTYPES,
    Cost,
    accumulator,
    check_beside,
    refuse_second_derivative,
    route,
    side_by_side,
)


def mhc_pre_reference(x: Tensor, pre: Tensor) -> Tensor:
    """Pre-apply in plain PyTorch, differentiable, on any device: the oracle.

    Args:
        x: (M, n, C), any floating dtype. Half precisions are computed in float32.
        pre: (n, M).

    Returns:
        u, (M, C), with x's dtype.
    """
    x_MnC = x.to(accumulator(x.dtype))
    pre_Mn1 = pre.T[:, :, None].to(x_MnC.dtype)
    return (pre_Mn1 * x_MnC).sum(1).to(x.dtype)


@jit
def mhc_pre_forward_kernel(
    x_ptr, pre_ptr, u_ptr, x_stride_m, x_stride_n, pre_stride, M, C,
    n: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    # In 64 bits, since m * stride passes 2**31 on large tensors.
    m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    is_token = m < M
    inside = is_token[:, None] & (c < C)[None, :]
    x_at = x_ptr + m[:, None] * x_stride_m + c[None, :]
    u = tl.zeros((BLOCK_M, BLOCK_C), dtype=tl.float32)
    # n is known when compiling, so this loop becomes n times its body.
    for j in tl.static_range(n):
        pre = tl.load(pre_ptr + j * pre_stride + m, mask=is_token, other=0.0)
        x = tl.load(x_at, mask=inside, other=0.0).to(tl.float32)
        u += pre[:, None] * x
        x_at += x_stride_n  # step by step, as j * stride may pass 2**31
    tl.store(u_ptr + m[:, None] * C + c[None, :], u, mask=inside)


@jit
def mhc_pre_backward_kernel(
    x_ptr, pre_ptr, du_ptr, dx_ptr, dpre_ptr, x_stride_m, x_stride_n, pre_stride,
    du_stride, M, C, n: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    is_token = m < M
    pre = ()  # a tuple of n blocks: streams are told apart when compiling
    for j in tl.static_range(n):
        pre += (tl.load(pre_ptr + j * pre_stride + m, mask=is_token, other=0.0),)
    # One column a stream. Elements beyond C are 0 and add nothing.
    column = tl.arange(0, BLOCK_N)[None, :]
    dpre = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, C, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        inside = is_token[:, None] & (c < C)[None, :]
        x_at = x_ptr + m[:, None] * x_stride_m + c[None, :]
        dx_at = dx_ptr + m[:, None] * (n * C) + c[None, :]
        du = tl.load(
            du_ptr + m[:, None] * du_stride + c[None, :], mask=inside, other=0.0
        )
        du = du.to(tl.float32)
        for j in tl.static_range(n):
            x = tl.load(x_at, mask=inside, other=0.0).to(tl.float32)
            tl.store(dx_at + j * C, pre[j][:, None] * du, mask=inside)
            dpre += tl.where(column == j, tl.sum(du * x, axis=1)[:, None], 0.0)
            x_at += x_stride_n
    is_number = is_token[:, None] & (column < n)
    tl.store(dpre_ptr + column * M + m[:, None], dpre, mask=is_number)


def backward_launch(n: int) -> dict[str, Any]:
    """The forward's tile, and a block that covers the streams."""
    return {**stream_launch(n), "BLOCK_N": next_power_of_2(n)}


class _Pre(torch.autograd.Function):
    """Ties the two kernels together for autograd."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, pre: Tensor) -> Tensor:
        x_MnC, pre_nM = side_by_side(x), side_by_side(pre)
        M, n, C = x_MnC.shape
        launch = stream_launch(n)
        u_MC = x.new_empty((M, C))
        if M:  # a GPU refuses a grid of no programs
            grid = (cdiv(M, launch["BLOCK_M"]), cdiv(C, launch["BLOCK_C"]))
            mhc_pre_forward_kernel[grid](
                x_MnC,
                pre_nM,
                u_MC,
                x_MnC.stride(0),
                x_MnC.stride(1),
                pre_nM.stride(0),
                M,
                C,
                **launch,
            )
        ctx.save_for_backward(x_MnC, pre_nM)
        return u_MC

    @staticmethod
    def backward(ctx: Any, du: Tensor) -> tuple[Tensor, Tensor]:
        refuse_second_derivative("mhc_pre")
        x_MnC, pre_nM = ctx.saved_tensors
        # What arrives has any strides: u.sum() sends one number, M C times.
        du_MC = side_by_side(du)
        M, n, C = x_MnC.shape
        launch = backward_launch(n)
        dx_MnC = x_MnC.new_empty((M, n, C))
        dpre_nM = x_MnC.new_empty((n, M), dtype=torch.float32)
        if M:
            mhc_pre_backward_kernel[(cdiv(M, launch["BLOCK_M"]),)](
                x_MnC,
                pre_nM,
                du_MC,
                dx_MnC,
                dpre_nM,
                x_MnC.stride(0),
                x_MnC.stride(1),
                pre_nM.stride(0),
                du_MC.stride(0),
                M,
                C,
                **launch,
            )
        return dx_MnC, dpre_nM


def mhc_pre(x: Tensor, pre: Tensor, interpret: bool | None = None) -> Tensor:
    """Gather the streams: the kernel on a GPU, the reference on a CPU.

    Args:
        x: (M, n, C) with 1 <= n <= MAX_STREAMS; float32, float16 or bfloat16,
            any strides.
        pre: (n, M), float32, on x's device: one number for each stream and
            token. Tokens that do not lie side by side are copied.
        interpret: True runs the kernels interpreted on a CPU (slow).

    Returns:
        u, (M, C), with x's dtype. The kernels differentiate once.

    Raises:
        KernelInputError: x or pre is not as above.
        ValueError: interpret=True where kernels are not interpreted.
    """
    check_streams("mhc_pre", x)
    M, n, _ = x.shape
    check_beside("mhc_pre", x, "pre", pre, (n, M), "(n, M)")
    if route(x, interpret) == "reference":
        return mhc_pre_reference(x, pre)
    with torch.cuda.device_of(x):  # Triton launches on the current GPU
        u: Tensor = _Pre.apply(x, pre)
    return u


def mhc_pre_cost(M: int, n: int, C: int, dtype: torch.dtype) -> Cost:
    """The forward: x and pre read once, u written once."""
    streams = (n + 1) * C * dtype.itemsize
    return Cost(bytes=M * (streams + 4 * n), flops=2 * M * n * C)


def mhc_pre_backward_cost(M: int, n: int, C: int, dtype: torch.dtype) -> Cost:
    """The backward: du, x and pre read once, dx and dpre written once."""
    streams = (2 * n + 1) * C * dtype.itemsize
    return Cost(bytes=M * (streams + 8 * n), flops=3 * M * n * C)


SPECS = [
    spec
    for n in sorted({n for _, n, _ in BENCHMARK_SHAPES})
    for dtype in KERNEL_DTYPES
    for spec in (
        stream_spec(
            mhc_pre_forward_kernel, dtype, stream_launch(n), x_ptr="*",
            pre_ptr="*fp32", u_ptr="*", x_stride_m="i32", x_stride_n="i32",
            pre_stride="i32", M="i32", C="i32",
        ),
        stream_spec(
            mhc_pre_backward_kernel, dtype, backward_launch(n), x_ptr="*",
            pre_ptr="*fp32", du_ptr="*", dx_ptr="*", dpre_ptr="*fp32",
            x_stride_m="i32", x_stride_n="i32", pre_stride="i32", du_stride="i32",
            M="i32", C="i32",
        ),
    )
]  # fmt: skip
"""Every configuration that `mhc_pre` launches at BENCHMARK_SHAPES."""
