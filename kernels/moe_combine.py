# mypy: allow-untyped-defs, disable-error-code="assignment"
"""Combine: the rows of a token's experts, weighted, become its output.

    y_td = sum_k weight_tk z_rd        with r = row_tk

for each token: the routed sum of DeepSeek-V3 (arXiv 2412.19437), Eq. 12. z is what
the experts made of their rows; `moe_routing` says how rows are numbered. With dy the
gradient that arrives at y,

    dz_rd = weight_tk dy_td        dweight_tk = sum_d dy_td z_rd

Each row belongs to one token, so in both directions a program of tokens reads and
writes all that it needs: no other adds to the same number, nothing is atomic, and
the bits are the same every time.

Shapes: T tokens, K experts a token, R = T K rows, D model width. z_RD are the experts'
outputs, weight_TK (float32) and row_TK (int32, each row once) come from `moe_router`
and `moe_permute`, y_TD is the tokens' output. e is the bytes of an element of z: 4 for
float32, 2 for float16 and bfloat16.

Cost, forward:   e (R + T) D + 8 R bytes (read z, weight, row; write y)  2 R D FLOPs
      backward:  e (2 R + T) D + 12 R bytes                              3 R D FLOPs
                 (read dy, z, weight, row; write dz, dweight)

With K = 8 in bfloat16 that is 18 D + 64 bytes a token forward and 34 D + 96 backward,
at less than one FLOP a byte: only the bytes count. The rows of a token lie anywhere,
but each is D elements side by side, so memory does not mind.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.language import cdiv, jit, next_power_of_2, tl
from kernels.moe_routing import check_slots, looks_at_values
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

BENCHMARK_SHAPES = ((8192, 8, 2048), (32768, 8, 2048))
"""(T, K, D): Qwen3-30B-A3B's."""


def moe_combine_reference(z: Tensor, weight: Tensor, row: Tensor) -> Tensor:
    """Combine in plain PyTorch, differentiable, on any device: the oracle.

    Args:
        z: (R, D), any floating dtype. Half precisions are computed in float32.
        weight: (T, K).
        row: (T, K), any integer dtype.

    Returns:
        y, (T, D), with z's dtype.
    """
    z_TKD = z.index_select(0, row.flatten()).unflatten(0, row.shape)
    z_TKD = z_TKD.to(accumulator(z.dtype))
    return (weight[..., None].to(z_TKD.dtype) * z_TKD).sum(1).to(z.dtype)


@jit
def moe_combine_forward_kernel(
    z_ptr, weight_ptr, row_ptr, y_ptr, z_stride, weight_stride, row_stride, T, D,
    K: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    # In 64 bits, since t * stride passes 2**31 on large tensors.
    t = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    is_token = t < T
    inside = is_token[:, None] & (d < D)[None, :]
    y = tl.zeros((BLOCK_T, BLOCK_D), dtype=tl.float32)
    # K is known when compiling, so all K loads are on their way at once.
    for k in tl.static_range(K):
        row = tl.load(row_ptr + t * row_stride + k, mask=is_token, other=0)
        weight = tl.load(weight_ptr + t * weight_stride + k, mask=is_token, other=0.0)
        z_at = z_ptr + row.to(tl.int64)[:, None] * z_stride + d[None, :]
        z = tl.load(z_at, mask=inside, other=0.0).to(tl.float32)
        y += weight[:, None] * z
    tl.store(y_ptr + t[:, None] * D + d[None, :], y, mask=inside)


@jit
def moe_combine_backward_kernel(
    z_ptr, weight_ptr, row_ptr, dy_ptr, dz_ptr, dweight_ptr, z_stride, weight_stride,
    row_stride, dy_stride, T, D, K: tl.constexpr, BLOCK_K: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    t = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    is_token = t < T
    row, weight = (), ()  # tuples of K blocks, one number a token
    for k in tl.static_range(K):
        r = tl.load(row_ptr + t * row_stride + k, mask=is_token, other=0)
        row += (r.to(tl.int64),)
        weight_at = weight_ptr + t * weight_stride + k
        weight += (tl.load(weight_at, mask=is_token, other=0.0),)
    # One column an expert. Elements beyond D are 0 and add nothing.
    column = tl.arange(0, BLOCK_K)[None, :]
    dweight = tl.zeros((BLOCK_T, BLOCK_K), dtype=tl.float32)
    for start in range(0, D, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        inside = is_token[:, None] & (d < D)[None, :]
        dy_at = dy_ptr + t[:, None] * dy_stride + d[None, :]
        dy = tl.load(dy_at, mask=inside, other=0.0).to(tl.float32)
        for k in tl.static_range(K):
            z_at = z_ptr + row[k][:, None] * z_stride + d[None, :]
            z = tl.load(z_at, mask=inside, other=0.0).to(tl.float32)
            dz_at = dz_ptr + row[k][:, None] * D + d[None, :]
            tl.store(dz_at, weight[k][:, None] * dy, mask=inside)
            dweight += tl.where(column == k, tl.sum(dy * z, axis=1)[:, None], 0.0)
    is_number = is_token[:, None] & (column < K)
    tl.store(dweight_ptr + t[:, None] * K + column, dweight, mask=is_number)


def combine_launch(K: int) -> dict[str, Any]:
    """How a kernel is launched whose programs hold a tile of their tokens.

    A tile is 4 tokens by 256 elements, a warp for each token: a thread holds 8
    elements, which in half precision are the 16 bytes that it can load at once, and
    sums over a token's elements stay within a warp. Above 16 experts half of that, or
    a thread's registers would not do.
    """
    BLOCK_D = 256 if K <= 16 else 128
    return {"K": K, "BLOCK_T": 4, "BLOCK_D": BLOCK_D, "num_warps": 4, "num_stages": 1}


def backward_launch(K: int) -> dict[str, Any]:
    """The forward's tile, and a block that covers a token's experts."""
    return {**combine_launch(K), "BLOCK_K": next_power_of_2(K)}


class _Combine(torch.autograd.Function):
    """Ties the two kernels together for autograd."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, weight: Tensor, row: Tensor) -> Tensor:
        z_RD, weight_TK, row_TK = map(side_by_side, (z, weight, row))
        (T, K), D = row_TK.shape, z_RD.shape[1]
        launch = combine_launch(K)
        y_TD = z.new_empty((T, D))
        if T:  # a GPU refuses a grid of no programs
            grid = (cdiv(T, launch["BLOCK_T"]), cdiv(D, launch["BLOCK_D"]))
            moe_combine_forward_kernel[grid](
                z_RD,
                weight_TK,
                row_TK,
                y_TD,
                z_RD.stride(0),
                weight_TK.stride(0),
                row_TK.stride(0),
                T,
                D,
                **launch,
            )
        ctx.save_for_backward(z_RD, weight_TK, row_TK)
        return y_TD

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None]:
        refuse_second_derivative("moe_combine")
        z_RD, weight_TK, row_TK = ctx.saved_tensors
        # What arrives has any strides: y.sum() sends one number, T D times.
        dy_TD = side_by_side(dy)
        (T, K), D = row_TK.shape, z_RD.shape[1]
        launch = backward_launch(K)
        # Every row is some slot's, so every element is written.
        dz_RD = z_RD.new_empty((T * K, D))
        dweight_TK = z_RD.new_empty((T, K), dtype=torch.float32)
        if T:
            moe_combine_backward_kernel[(cdiv(T, launch["BLOCK_T"]),)](
                z_RD,
                weight_TK,
                row_TK,
                dy_TD,
                dz_RD,
                dweight_TK,
                z_RD.stride(0),
                weight_TK.stride(0),
                row_TK.stride(0),
                dy_TD.stride(0),
                T,
                D,
                **launch,
            )
        return dz_RD, dweight_TK, None


def moe_combine(
    z: Tensor,
    weight: Tensor,
    row: Tensor,
    interpret: bool | None = None,
    check_row: bool | None = None,
) -> Tensor:
    """Add up each token's rows: the kernel on a GPU, the reference on a CPU.

    Args:
        z: (R, D) with R = T K; float32, float16 or bfloat16, any strides; elements of
            a row that lie apart are copied.
        weight: (T, K), float32, on z's device.
        row: (T, K), int32, on z's device, each of 0 to R - 1 once. It has no gradient.
        interpret: True runs the kernels interpreted on a CPU (slow).
        check_row: whether to refuse rows that are not each there once. Left out: on a
            CPU yes, on a GPU no, as waiting for the answer takes longer than the
            kernel. Not refused, they leave everything undefined.

    Returns:
        y, (T, D), with z's dtype. The kernels differentiate once.

    Raises:
        KernelInputError: an input is not as above.
        ValueError: interpret=True where kernels are not interpreted.
    """
    check_kernel_tensor("moe_combine", z, "z")
    if z.ndim != 2 or z.shape[1] < 1:
        raise KernelInputError(
            "moe_combine: z must have shape (R, D), rows by at least one element; got "
            f"{tuple(z.shape)}."
        )
    check_slots("moe_combine", row, "row")
    T, K = row.shape
    if len(z) != T * K:
        raise KernelInputError(
            f"moe_combine: row must have as many elements as z has rows, {len(z)}; got "
            f"{T} x {K} = {T * K}."
        )
    for name, value, dtype in (
        ("row", row, torch.int32),
        ("weight", weight, torch.float32),
    ):
        check_beside("moe_combine", z, name, value, (T, K), "(T, K)", dtype, "z")
    if looks_at_values(row, check_row):
        in_order_R = torch.arange(T * K, device=row.device)
        if not torch.equal(row.flatten().sort().values, in_order_R.int()):
            raise KernelInputError(
                f"moe_combine: row must hold each of 0 to {T * K - 1} once, as "
                "moe_permute numbers them."
            )
    if route(z, interpret) == "reference":
        return moe_combine_reference(z, weight, row)
    with torch.cuda.device_of(z):  # Triton launches on the current GPU
        y: Tensor = _Combine.apply(z, weight, row)
    return y


def moe_combine_cost(T: int, K: int, D: int, dtype: torch.dtype) -> Cost:
    """The forward: z, weight and row read once, y written once."""
    moved = (T * K + T) * D * dtype.itemsize + 8 * T * K
    return Cost(bytes=moved, flops=2 * T * K * D)


def moe_combine_backward_cost(T: int, K: int, D: int, dtype: torch.dtype) -> Cost:
    """The backward: dy, z, weight and row read once, dz and dweight written once."""
    moved = (2 * T * K + T) * D * dtype.itemsize + 12 * T * K
    return Cost(bytes=moved, flops=3 * T * K * D)


SPECS = [
    spec
    for K in sorted({K for _, K, _ in BENCHMARK_SHAPES})
    for dtype in KERNEL_DTYPES
    for spec in (
        launch_spec(
            moe_combine_forward_kernel, dtype, combine_launch(K), f"K={K}", z_ptr="*",
            weight_ptr="*fp32", row_ptr="*i32", y_ptr="*", z_stride="i32",
            weight_stride="i32", row_stride="i32", T="i32", D="i32",
        ),
        launch_spec(
            moe_combine_backward_kernel, dtype, backward_launch(K), f"K={K}", z_ptr="*",
            weight_ptr="*fp32", row_ptr="*i32", dy_ptr="*", dz_ptr="*",
            dweight_ptr="*fp32", z_stride="i32", weight_stride="i32", row_stride="i32",
            dy_stride="i32", T="i32", D="i32",
        ),
    )
]  # fmt: skip
"""Every configuration that `moe_combine` launches at BENCHMARK_SHAPES."""
