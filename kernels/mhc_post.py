# mypy: allow-untyped-defs, disable-error-code="assignment"
"""Post-apply, residual mix and merge of mHC: what a layer does to its n streams.

    y_ic = post_i f_c + sum_j res_ij x_jc

for each token: (H^post)^T F + H^res x_l of arXiv 2512.24880, Eq. 3, in one scan.
res is the paper's H^res: its rows are the streams that come out, its columns
those that go in. (DeepSeek's code holds the transpose, comb = (H^res)^T, and
sums over its first index.) With dy the gradient that arrives at y,

    dx_jc = sum_i res_ij dy_ic        df_c = sum_i post_i dy_ic
    dres_ij = sum_c dy_ic x_jc        dpost_i = sum_c dy_ic f_c

Shapes: M tokens, n streams, C elements a stream. x_MnC and y_MnC are the
streams, f_MC the layer's output; post_nM and res_nnM the coefficients, float32,
tokens last. The kernels see res as (Q, M), Q = n n, row after row. e is the bytes per
stream element: 4 for float32, 2 for float16 and bfloat16.

Cost, forward:   M ((2 n + 1) C e + 4 (n^2 + n)) bytes
                 (read x, f, post, res; write y)             M n (2 n + 1) C FLOPs
      backward:  M ((3 n + 2) C e + 8 (n^2 + n)) bytes
                 (read dy, x, f, post, res; write dx, df, dpost, dres)
                                                             4 M n (n + 1) C FLOPs

With n = 4 in bfloat16 that is 18 C + 80 bytes a token forward and 28 C + 160
backward. In separate steps (apply post, mix, merge: the paper's Table 2) 6 n + 1
times C elements would move forward instead of 2 n + 1. Every output stream needs
every input stream, so a program loads its piece of all n once and keeps them in
registers.
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


def mhc_post_reference(x: Tensor, f: Tensor, post: Tensor, res: Tensor) -> Tensor:
    """Post, mix and merge in plain PyTorch, differentiable, anywhere: the oracle.

    Args:
        x: (M, n, C), any floating dtype. Half precisions are computed in float32.
        f: (M, C).
        post: (n, M).
        res: (n, n, M), output stream first.

    Returns:
        y, with x's shape and dtype.
    """
    wide = accumulator(x.dtype)
    # A CPU multiplies small matrices several times faster if each lies in a piece.
    res_Mnn = res.to(wide).permute(2, 0, 1).contiguous()
    post_Mn1, f_M1C = post.to(wide).T[:, :, None], f.to(wide)[:, None, :]
    return (res_Mnn @ x.to(wide) + post_Mn1 * f_M1C).to(x.dtype)


@jit
def mhc_post_forward_kernel(
    x_ptr, f_ptr, post_ptr, res_ptr, y_ptr, x_stride_m, x_stride_n, f_stride,
    post_stride, res_stride, M, C, n: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):  # fmt: skip
    # In 64 bits, since m * stride passes 2**31 on large tensors.
    m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    is_token = m < M
    inside = is_token[:, None] & (c < C)[None, :]
    f_at = f_ptr + m[:, None] * f_stride + c[None, :]
    f = tl.load(f_at, mask=inside, other=0.0).to(tl.float32)
    # n is known when compiling: its loops are unrolled, and x becomes a tuple of
    # n blocks that stay in registers while every output stream is computed.
    x_at = x_ptr + m[:, None] * x_stride_m + c[None, :]
    x = ()
    for _ in tl.static_range(n):
        x += (tl.load(x_at, mask=inside, other=0.0).to(tl.float32),)
        x_at += x_stride_n  # step by step, as j * stride may pass 2**31
    y_at = y_ptr + m[:, None] * (n * C) + c[None, :]
    for i in tl.static_range(n):
        post = tl.load(post_ptr + i * post_stride + m, mask=is_token, other=0.0)
        y = post[:, None] * f
        for j in tl.static_range(n):
            at = res_ptr + (i * n + j) * res_stride + m  # row i, column j
            y += tl.load(at, mask=is_token, other=0.0)[:, None] * x[j]
        tl.store(y_at + i * C, y, mask=inside)


@jit
def mhc_post_backward_kernel(
    x_ptr, f_ptr, post_ptr, res_ptr, dy_ptr, dx_ptr, df_ptr, dpost_ptr, dres_ptr,
    x_stride_m, x_stride_n, f_stride, post_stride, res_stride, dy_stride_m,
    dy_stride_n, M, C, n: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_Q: tl.constexpr,
):  # fmt: skip
    # dpost and dres sum over a token's elements, so a program keeps its tokens
    # and goes along C: no other adds to the same numbers.
    m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    is_token = m < M
    column = tl.arange(0, BLOCK_N)[None, :]  # a stream, for dpost
    pair = tl.arange(0, BLOCK_Q)[None, :]  # a row and column of res, for dres
    dpost = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    dres = tl.zeros((BLOCK_M, BLOCK_Q), dtype=tl.float32)
    for start in range(0, C, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        inside = is_token[:, None] & (c < C)[None, :]
        f_at = f_ptr + m[:, None] * f_stride + c[None, :]
        f = tl.load(f_at, mask=inside, other=0.0).to(tl.float32)
        dy_at = dy_ptr + m[:, None] * dy_stride_m + c[None, :]
        df = tl.zeros((BLOCK_M, BLOCK_C), dtype=tl.float32)
        dys = ()  # all n stay in registers: every input stream needs them
        for i in tl.static_range(n):
            dy = tl.load(dy_at, mask=inside, other=0.0).to(tl.float32)
            post = tl.load(post_ptr + i * post_stride + m, mask=is_token, other=0.0)
            df += post[:, None] * dy
            dpost += tl.where(column == i, tl.sum(dy * f, axis=1)[:, None], 0.0)
            dys += (dy,)
            dy_at += dy_stride_n
        tl.store(df_ptr + m[:, None] * C + c[None, :], df, mask=inside)
        x_at = x_ptr + m[:, None] * x_stride_m + c[None, :]
        dx_at = dx_ptr + m[:, None] * (n * C) + c[None, :]
        for j in tl.static_range(n):
            x = tl.load(x_at, mask=inside, other=0.0).to(tl.float32)
            dx = tl.zeros((BLOCK_M, BLOCK_C), dtype=tl.float32)
            for i in tl.static_range(n):
                at = res_ptr + (i * n + j) * res_stride + m
                dx += tl.load(at, mask=is_token, other=0.0)[:, None] * dys[i]
                dot = tl.sum(dys[i] * x, axis=1)[:, None]
                dres += tl.where(pair == i * n + j, dot, 0.0)
            tl.store(dx_at + j * C, dx, mask=inside)
            x_at += x_stride_n
    of_post, of_res = column < n, pair < n * n
    tl.store(dpost_ptr + column * M + m[:, None], dpost, is_token[:, None] & of_post)
    tl.store(dres_ptr + pair * M + m[:, None], dres, is_token[:, None] & of_res)


def backward_launch(n: int) -> dict[str, Any]:
    """The forward's tile, and blocks that cover the streams and their pairs."""
    pads = {"BLOCK_N": next_power_of_2(n), "BLOCK_Q": next_power_of_2(n * n)}
    return {**stream_launch(n), **pads}


class _Post(torch.autograd.Function):
    """Ties the two kernels together for autograd."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, f: Tensor, post: Tensor, res: Tensor) -> Tensor:
        x_MnC, f_MC, post_nM = side_by_side(x), side_by_side(f), side_by_side(post)
        M, n, C = x_MnC.shape
        res_QM = side_by_side(res.reshape(n * n, M))
        launch = stream_launch(n)
        y_MnC = x.new_empty((M, n, C))
        if M:  # a GPU refuses a grid of no programs
            grid = (cdiv(M, launch["BLOCK_M"]), cdiv(C, launch["BLOCK_C"]))
            mhc_post_forward_kernel[grid](
                x_MnC,
                f_MC,
                post_nM,
                res_QM,
                y_MnC,
                x_MnC.stride(0),
                x_MnC.stride(1),
                f_MC.stride(0),
                post_nM.stride(0),
                res_QM.stride(0),
                M,
                C,
                **launch,
            )
        ctx.save_for_backward(x_MnC, f_MC, post_nM, res_QM)
        return y_MnC

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        refuse_second_derivative("mhc_post")
        x_MnC, f_MC, post_nM, res_QM = ctx.saved_tensors
        # What arrives has any strides: y.sum() sends one number, M n C times.
        dy_MnC = side_by_side(dy)
        M, n, C = x_MnC.shape
        launch = backward_launch(n)
        dx_MnC, df_MC = x_MnC.new_empty((M, n, C)), x_MnC.new_empty((M, C))
        dpost_nM = x_MnC.new_empty((n, M), dtype=torch.float32)
        dres_nnM = x_MnC.new_empty((n, n, M), dtype=torch.float32)
        if M:
            mhc_post_backward_kernel[(cdiv(M, launch["BLOCK_M"]),)](
                x_MnC,
                f_MC,
                post_nM,
                res_QM,
                dy_MnC,
                dx_MnC,
                df_MC,
                dpost_nM,
                dres_nnM,
                x_MnC.stride(0),
                x_MnC.stride(1),
                f_MC.stride(0),
                post_nM.stride(0),
                res_QM.stride(0),
                dy_MnC.stride(0),
                dy_MnC.stride(1),
                M,
                C,
                **launch,
            )
        return dx_MnC, df_MC, dpost_nM, dres_nnM


def mhc_post(
    x: Tensor, f: Tensor, post: Tensor, res: Tensor, interpret: bool | None = None
) -> Tensor:
    """Mix the streams and add the layer's output: kernel on a GPU, else reference.

    Args:
        x: (M, n, C) with 1 <= n <= MAX_STREAMS; float32, float16 or bfloat16,
            any strides.
        f: (M, C), the layer's output, with x's dtype, on x's device.
        post: (n, M), float32: how much of f goes into each stream.
        res: (n, n, M), float32: res[i, j] is how much of stream j goes into
            stream i. Coefficients whose tokens do not lie side by side are copied.
        interpret: True runs the kernels interpreted on a CPU (slow).

    Returns:
        y, with x's shape and dtype. The kernels differentiate once.

    Raises:
        KernelInputError: x, f, post or res is not as above.
        ValueError: interpret=True where kernels are not interpreted.
    """
    check_streams("mhc_post", x)
    M, n, C = x.shape
    check_beside("mhc_post", x, "f", f, (M, C), "(M, C)", x.dtype)
    check_beside("mhc_post", x, "post", post, (n, M), "(n, M)")
    check_beside("mhc_post", x, "res", res, (n, n, M), "(n, n, M)")
    if route(x, interpret) == "reference":
        return mhc_post_reference(x, f, post, res)
    with torch.cuda.device_of(x):  # Triton launches on the current GPU
        y: Tensor = _Post.apply(x, f, post, res)
    return y


def mhc_post_cost(M: int, n: int, C: int, dtype: torch.dtype) -> Cost:
    """The forward: x, f, post and res read once, y written once."""
    streams, coefficients = (2 * n + 1) * C * dtype.itemsize, 4 * n * (n + 1)
    return Cost(bytes=M * (streams + coefficients), flops=M * n * (2 * n + 1) * C)


def mhc_post_backward_cost(M: int, n: int, C: int, dtype: torch.dtype) -> Cost:
    """The backward: dy and the inputs read once, their gradients written once."""
    streams, coefficients = (3 * n + 2) * C * dtype.itemsize, 8 * n * (n + 1)
    return Cost(bytes=M * (streams + coefficients), flops=4 * M * n * (n + 1) * C)


SPECS = [
    spec
    for n in sorted({n for _, n, _ in BENCHMARK_SHAPES})
    for dtype in KERNEL_DTYPES
    for spec in (
        stream_spec(
            mhc_post_forward_kernel, dtype, stream_launch(n), x_ptr="*", f_ptr="*",
            post_ptr="*fp32", res_ptr="*fp32", y_ptr="*", x_stride_m="i32",
            x_stride_n="i32", f_stride="i32", post_stride="i32", res_stride="i32",
            M="i32", C="i32",
        ),
        stream_spec(
            mhc_post_backward_kernel, dtype, backward_launch(n), x_ptr="*",
            f_ptr="*", post_ptr="*fp32", res_ptr="*fp32", dy_ptr="*", dx_ptr="*",
            df_ptr="*", dpost_ptr="*fp32", dres_ptr="*fp32", x_stride_m="i32",
            x_stride_n="i32", f_stride="i32", post_stride="i32", res_stride="i32",
            dy_stride_m="i32", dy_stride_n="i32", M="i32", C="i32",
        ),
    )
]  # fmt: skip
"""Every configuration that `mhc_post` launches at BENCHMARK_SHAPES."""
