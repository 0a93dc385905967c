# mypy: allow-untyped-defs
"""Grouped matrix product: every row is multiplied with its own expert's weights.

    y_r = x_r W_e(r)

where e(r) is the expert that owns row r: the down projection of a mixture of experts
(DeepSeek-V3, arXiv 2412.19437, Eq. 12, the last product in each FFN_i). With dy the
gradient that arrives,

    dx_r = dy_r W_e(r)^T        dW_e = sum_{r of e} x_r^T dy_r

and dW_e = 0 where e has no row. dx is the same kernel on the same weights read the
other way; dW is another, in which the length of the sum differs between experts.

Shapes: R rows sorted by expert, E experts, C numbers in, N numbers out. x_RC, y_RN,
weight_ECN in one of float32, float16, bfloat16; first_E1, int32: expert e owns rows
first[e] to first[e + 1] - 1. Sums are in float32, and so are the products of float32
numbers (no TF32); products of halves are exact. e is the bytes per element: 4 or 2.

Cost, forward:   e (R C + E C N + R N) + 4 (E + 1) bytes
                 (read x, W, first; write y)                      2 R C N FLOPs
      backward:  e (R N + 2 R C + 2 E C N) + 4 (E + 1) bytes
                 (read dy, x, W, first; write dx, dW)             4 R C N FLOPs

An expert with n rows in bfloat16 does about n FLOPs for each byte of its weights:
with 512 rows or more each (8192 tokens, 128 experts, 8 a token) arithmetic decides,
not the bytes. `expert_rows.py` says how a program finds its rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.expert_rows import (
    block_of_experts,
    check_experts,
    check_first,
    lie_transposed,
    load_weights,
    most_tiles,
    one_axis_side_by_side,
    rows_by_expert,
    rows_of_tile,
)
from kernels.language import cdiv, jit, tl
from kernels.moe_routing import TOP_K
from kernels.operation import (
    KERNEL_DTYPES,
    Cost,
    KernelInputError,
    KernelSpec,
    accumulator,
    check_kernel_tensor,
    launch_spec,
    refuse_second_derivative,
    route,
    side_by_side,
)

BENCHMARK_SHAPES = tuple((T * TOP_K, 128, 768, 2048) for T in (8192, 32768))
"""(R, E, C, N): the down projection of Qwen3-30B-A3B."""


def grouped_gemm_reference(x: Tensor, weight: Tensor, first: Tensor) -> Tensor:
    """The product, expert after expert, in plain PyTorch, differentiable: the oracle.

    Args:
        x: (R, C), any floating dtype. Half precisions are computed in float32.
        weight: (E, C, N).
        first: (E + 1,), integers.

    Returns:
        y, (R, N), with x's dtype.
    """
    wide = accumulator(x.dtype)
    rows = rows_by_expert(x.to(wide), first)
    # unbind, not weight[e]: its backward would add E matrices of E C N numbers.
    experts = weight.to(wide).unbind()
    y = torch.cat([x_e @ W_e for x_e, W_e in zip(rows, experts, strict=True)])
    return y.to(x.dtype)


@jit
def grouped_gemm_kernel(
    x_ptr, weight_ptr, first_ptr, y_ptr, x_stride, expert_stride, weight_stride,
    E, C, N, TRANSPOSED: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    # Neighbours take the same rows and one expert's weights: the cache serves both.
    blocks_n = tl.cdiv(N, BLOCK_N)
    tile = tl.program_id(0) // blocks_n
    expert, start, stop = rows_of_tile(first_ptr, tile, E, BLOCK_R, BLOCK_E)
    if start >= stop:
        return  # the rows need fewer tiles than they might
    r = start + tl.arange(0, BLOCK_R)
    n = (tl.program_id(0) % blocks_n) * BLOCK_N + tl.arange(0, BLOCK_N)
    # Below stop, as the rows from there on are the next expert's.
    is_row, is_column = r < stop, n < N
    matrix_ptr = weight_ptr + expert * expert_stride
    y = tl.zeros((BLOCK_R, BLOCK_N), dtype=tl.float32)
    for start_c in range(0, C, BLOCK_C):
        c = start_c + tl.arange(0, BLOCK_C)
        in_c = c < C
        in_x = is_row[:, None] & in_c[None, :]
        # 0 beyond C adds nothing.
        x = tl.load(x_ptr + r[:, None] * x_stride + c[None, :], mask=in_x, other=0.0)
        weight = load_weights(
            matrix_ptr, c, n, weight_stride, in_c, is_column, TRANSPOSED
        )
        # "ieee": float32 in float32, not TF32. Halves are exact either way.
        y = tl.dot(x, weight, y, input_precision="ieee")
    in_y = is_row[:, None] & is_column[None, :]
    tl.store(y_ptr + r[:, None] * N + n[None, :], y, mask=in_y)


@jit
def grouped_gemm_weight_kernel(
    x_ptr, dy_ptr, first_ptr, dweight_ptr, x_stride, dy_stride, C, N,
    BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    blocks_n = tl.cdiv(N, BLOCK_N)
    c = (tl.program_id(0) // blocks_n) * BLOCK_C + tl.arange(0, BLOCK_C)
    n = (tl.program_id(0) % blocks_n) * BLOCK_N + tl.arange(0, BLOCK_N)
    expert = tl.program_id(1).to(tl.int64)
    start = tl.load(first_ptr + expert).to(tl.int64)
    stop = tl.load(first_ptr + expert + 1).to(tl.int64)
    in_c, in_n = c < C, n < N
    dweight = tl.zeros((BLOCK_C, BLOCK_N), dtype=tl.float32)
    # As many rounds as this expert has blocks of rows; without rows 0 is stored.
    for start_r in range(start, stop, BLOCK_R):
        r = start_r + tl.arange(0, BLOCK_R)
        is_row = r < stop
        x_at = x_ptr + r[None, :] * x_stride + c[:, None]
        x = tl.load(x_at, mask=in_c[:, None] & is_row[None, :], other=0.0)
        dy_at = dy_ptr + r[:, None] * dy_stride + n[None, :]
        dy = tl.load(dy_at, mask=is_row[:, None] & in_n[None, :], other=0.0)
        dweight = tl.dot(x, dy, dweight, input_precision="ieee")
    dweight_at = dweight_ptr + (expert * C + c[:, None]) * N + n[None, :]
    tl.store(dweight_at, dweight, mask=in_c[:, None] & in_n[None, :])


def gemm_launch(dtype: torch.dtype) -> dict[str, Any]:
    """Blocks of the products: 128 rows by 128 columns on tensor cores.

    A larger tile reads its operands less often, a smaller one wastes less of an
    expert's last tile: half of BLOCK_R on average. float32 is multiplied without
    tensor cores, from registers, and gets smaller blocks.
    """
    if dtype == torch.float32:
        blocks = {"BLOCK_R": 64, "BLOCK_N": 64, "BLOCK_C": 32, "num_warps": 4}
    else:
        blocks = {"BLOCK_R": 128, "BLOCK_N": 128, "BLOCK_C": 64, "num_warps": 8}
    return {**blocks, "num_stages": 3}


def weight_launch(dtype: torch.dtype) -> dict[str, Any]:
    """The same for dW, whose tile is of C by N and whose sum is over rows.

    float32 has 8 warps, as with 4 the kernel that gathers its rows spills.
    """
    if dtype == torch.float32:
        blocks = {"BLOCK_R": 32, "BLOCK_N": 64, "BLOCK_C": 64, "num_warps": 8}
    else:
        blocks = {"BLOCK_R": 64, "BLOCK_N": 128, "BLOCK_C": 128, "num_warps": 8}
    return {**blocks, "num_stages": 3}


def launch_grouped_gemm(
    x_RC: Tensor, weight_ECN: Tensor, first_E1: Tensor, launch: dict[str, Any]
) -> Tensor:
    """y_RN from rows side by side, and weights with either axis side by side."""
    (R, C), (E, _, N) = x_RC.shape, weight_ECN.shape
    y_RN = x_RC.new_empty((R, N))
    transposed, weight_stride = lie_transposed(weight_ECN)
    if R:  # a GPU refuses a grid of no programs
        tiles = most_tiles(R, E, launch["BLOCK_R"])
        grouped_gemm_kernel[(tiles * cdiv(N, launch["BLOCK_N"]),)](
            x_RC,
            weight_ECN,
            first_E1,
            y_RN,
            x_RC.stride(0),
            weight_ECN.stride(0),
            weight_stride,
            E,
            C,
            N,
            TRANSPOSED=transposed,
            BLOCK_E=block_of_experts(E),
            **launch,
        )
    return y_RN


def launch_weight_gradient(
    x_RC: Tensor, dy_RN: Tensor, first_E1: Tensor, launch: dict[str, Any]
) -> Tensor:
    """dweight_ECN from rows side by side."""
    C, N, E = x_RC.shape[1], dy_RN.shape[1], len(first_E1) - 1
    dweight_ECN = x_RC.new_empty((E, C, N))
    tiles = cdiv(C, launch["BLOCK_C"]) * cdiv(N, launch["BLOCK_N"])
    grouped_gemm_weight_kernel[(tiles, E)](
        x_RC,
        dy_RN,
        first_E1,
        dweight_ECN,
        x_RC.stride(0),
        dy_RN.stride(0),
        C,
        N,
        **launch,
    )
    return dweight_ECN


class _GroupedGemm(torch.autograd.Function):
    """Ties the kernels together for autograd."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, first: Tensor) -> Tensor:
        x_RC, first_E1 = side_by_side(x), side_by_side(first)
        weight_ECN = one_axis_side_by_side(weight)
        ctx.save_for_backward(x_RC, weight_ECN, first_E1)
        return launch_grouped_gemm(x_RC, weight_ECN, first_E1, gemm_launch(x.dtype))

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        refuse_second_derivative("grouped_gemm")
        x_RC, weight_ECN, first_E1 = ctx.saved_tensors
        dy_RN = side_by_side(dy)
        dx_RC = dweight_ECN = None
        if ctx.needs_input_grad[0]:
            weight_ENC = weight_ECN.transpose(1, 2)  # a view: read the other way
            launch = gemm_launch(dy.dtype)
            dx_RC = launch_grouped_gemm(dy_RN, weight_ENC, first_E1, launch)
        if ctx.needs_input_grad[1]:
            launch = weight_launch(dy.dtype)
            dweight_ECN = launch_weight_gradient(x_RC, dy_RN, first_E1, launch)
        return dx_RC, dweight_ECN, None


def grouped_gemm(
    x: Tensor, weight: Tensor, first: Tensor, interpret: bool | None = None
) -> Tensor:
    """y_r = x_r W_e(r) for rows sorted by expert: kernel on a GPU, else reference.

    Args:
        x: (R, C) with C >= 1; float32, float16 or bfloat16. Rows whose numbers do
            not lie side by side are copied.
        weight: (E, C, N) with 1 <= E <= MAX_EXPERTS and N >= 1, x's dtype and device;
            C or N side by side, else copied.
        first: (E + 1,), int32: expert e owns rows first[e] to first[e + 1] - 1. On a
            CPU its numbers are checked, on a GPU they are trusted.
        interpret: True runs the kernels interpreted on a CPU (slow).

    Returns:
        y, (R, N), with x's dtype. The kernels differentiate once, with respect to x
        and weight.

    Raises:
        KernelInputError: x, weight or first is not as above.
        ValueError: interpret=True where kernels are not interpreted.
    """
    check_kernel_tensor("grouped_gemm", x)
    if x.ndim != 2:
        raise KernelInputError(
            "grouped_gemm: x must have shape (R, C): rows by expert, numbers; got "
            f"{tuple(x.shape)}."
        )
    check_experts("grouped_gemm", x, "weight", weight, "(E, C, N)")
    check_first("grouped_gemm", x, first, weight.shape[0], x.shape[0])
    if route(x, interpret) == "reference":
        return grouped_gemm_reference(x, weight, first)
    with torch.cuda.device_of(x):  # Triton launches on the current GPU
        y: Tensor = _GroupedGemm.apply(x, weight, first)
    return y


def grouped_gemm_cost(R: int, E: int, C: int, N: int, dtype: torch.dtype) -> Cost:
    """The forward: x, weight and first read once, y written once."""
    moved = (R * C + E * C * N + R * N) * dtype.itemsize + 4 * (E + 1)
    return Cost(bytes=moved, flops=2 * R * C * N)


def grouped_gemm_backward_cost(
    R: int, E: int, C: int, N: int, dtype: torch.dtype
) -> Cost:
    """The backward: dy, x, weight and first read once, dx and dweight written once."""
    numbers = R * N + 2 * R * C + 2 * E * C * N
    return Cost(bytes=numbers * dtype.itemsize + 4 * (E + 1), flops=4 * R * C * N)


def gemm_spec(dtype: torch.dtype, E: int, transposed: bool) -> KernelSpec:
    """The spec of `grouped_gemm_kernel`, which other operations launch too."""
    experts = {"TRANSPOSED": transposed, "BLOCK_E": block_of_experts(E)}
    return launch_spec(
        grouped_gemm_kernel, dtype, {**gemm_launch(dtype), **experts},
        f"E={E} {'transposed' if transposed else ''}".strip(), x_ptr="*",
        weight_ptr="*", first_ptr="*i32", y_ptr="*", x_stride="i32",
        expert_stride="i32", weight_stride="i32", E="i32", C="i32", N="i32",
    )  # fmt: skip


def _specs(dtype: torch.dtype, E: int) -> list[KernelSpec]:
    return [
        gemm_spec(dtype, E, transposed=False),
        gemm_spec(dtype, E, transposed=True),
        launch_spec(
            grouped_gemm_weight_kernel, dtype, weight_launch(dtype), f"E={E}",
            x_ptr="*", dy_ptr="*", first_ptr="*i32", dweight_ptr="*", x_stride="i32",
            dy_stride="i32", C="i32", N="i32",
        ),
    ]  # fmt: skip


SPECS = [
    spec
    for E in sorted({E for _, E, _, _ in BENCHMARK_SHAPES})
    for dtype in KERNEL_DTYPES
    for spec in _specs(dtype, E)
]
"""Every configuration that `grouped_gemm` launches at BENCHMARK_SHAPES."""
