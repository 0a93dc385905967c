# mypy: allow-untyped-defs
"""The way up into the experts: gather, two products and SwiGLU in one kernel.

    gate_r = x_t(r) Wg_e(r)      up_r = x_t(r) Wu_e(r)      a_r = silu(gate_r) * up_r

where row r is a visit of token t(r) to expert e(r) and silu(g) = g / (1 + exp(-g)):
the first half of each FFN_i in DeepSeek-V3 (arXiv 2412.19437, Eq. 12), with the
SwiGLU of arXiv 2002.05202, Eq. 6. With da the gradient that arrives, and s the
sigmoid of gate,

    dgate = da up s (1 + gate (1 - s))          dWg_e = sum_{r of e} x_t(r)^T dgate_r
    dup   = da silu(gate)                       dWu_e = sum_{r of e} x_t(r)^T dup_r
    dx_t  = sum_{r of t} (dgate_r Wg_e(r)^T + dup_r Wu_e(r)^T)

Shapes: T tokens, E experts, K experts a token, R = T K rows sorted by expert, D model
width, H hidden width of an expert. x_TD, a_RH and gate_up_ED2H, all of one dtype:
float32, float16 or bfloat16. The first H columns of gate_up are Wg, the others Wu.
slot_R (t K + k of row r), row_TK and first_E1 are int32, as `moe_permute` makes them.
Sums are in float32, as in `grouped_gemm.py`. e is the bytes per element: 4 or 2.

Cost, forward:   e (T D + 2 E D H + R H) + 4 (R + E + 1) bytes
                 (read x, W, slot, first; write a)               R (4 D H + 4 H) FLOPs
      backward:  e (R H + 2 T D + 4 E D H) + 4 (2 R + E + 1) bytes
                 (read da, x, W, slot, row, first; write dx, dW)
                                            R (8 D H + 11 H) + (R - T) D FLOPs

A copy of each token for each of its rows never lies in memory: the kernels read row
r at x_t(r). The forward keeps gate and up, 2 R H numbers, if a gradient will be
asked for: computing them again would cost 4 R D H FLOPs, half as much again as the
backward's own. The formulas count neither. In half precision what is kept is
rounded, as are dgate and dup on their way into the two products, and each row's
share of dx before the K shares of a token are summed, in a fixed order: adding them
atomically would give other bits every time.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.expert_rows import (
    block_of_experts,
    check_experts,
    check_first,
    check_places,
    lie_transposed,
    load_weights,
    most_tiles,
    one_axis_side_by_side,
    rows_of_tile,
)
from kernels.grouped_gemm import (
    gemm_launch,
    grouped_gemm_reference,
    launch_grouped_gemm,
    weight_launch,
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

BENCHMARK_SHAPES = ((8192, TOP_K, 128, 2048, 768), (32768, TOP_K, 128, 2048, 768))
"""(T, K, E, D, H): the experts of Qwen3-30B-A3B."""


def moe_up_reference(
    x: Tensor, gate_up: Tensor, slot: Tensor, row: Tensor, first: Tensor
) -> Tensor:
    """The same in plain PyTorch, differentiable, on any device: the oracle.

    Args:
        x: (T, D), any floating dtype. Half precisions are computed in float32.
        gate_up: (E, D, 2 H).
        slot: (R,), row: (T, K), first: (E + 1,), integers.

    Returns:
        a, (R, H), with x's dtype.
    """
    wide = accumulator(x.dtype)
    token_R = slot // row.shape[1]
    x_RD = x.to(wide).index_select(0, token_R)
    gate_RH, up_RH = grouped_gemm_reference(x_RD, gate_up.to(wide), first).chunk(2, -1)
    return (F.silu(gate_RH) * up_RH).to(x.dtype)


@jit
def moe_up_kernel(
    x_ptr, gate_up_ptr, slot_ptr, first_ptr, a_ptr, kept_ptr, x_stride, expert_stride,
    weight_stride, E, K, D, H, TRANSPOSED: tl.constexpr, KEEP: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_E: tl.constexpr,
):  # fmt: skip
    # Neighbours take the same rows and one expert's weights: the cache serves both.
    blocks_h = tl.cdiv(H, BLOCK_H)
    tile = tl.program_id(0) // blocks_h
    expert, start, stop = rows_of_tile(first_ptr, tile, E, BLOCK_R, BLOCK_E)
    if start >= stop:
        return  # the rows need fewer tiles than they might
    r = start + tl.arange(0, BLOCK_R)
    h = (tl.program_id(0) % blocks_h) * BLOCK_H + tl.arange(0, BLOCK_H)
    is_row, is_column = r < stop, h < H
    # The gather: whose row this is. In 64 bits, as t * stride passes 2**31.
    t = (tl.load(slot_ptr + r, mask=is_row, other=0) // K).to(tl.int64)
    gate_ptr = gate_up_ptr + expert * expert_stride
    gate = tl.zeros((BLOCK_R, BLOCK_H), dtype=tl.float32)
    up = tl.zeros((BLOCK_R, BLOCK_H), dtype=tl.float32)
    for start_d in range(0, D, BLOCK_D):
        d = start_d + tl.arange(0, BLOCK_D)
        in_d = d < D
        in_x = is_row[:, None] & in_d[None, :]
        # 0 beyond D adds nothing.
        x = tl.load(x_ptr + t[:, None] * x_stride + d[None, :], mask=in_x, other=0.0)
        of_gate = load_weights(
            gate_ptr, d, h, weight_stride, in_d, is_column, TRANSPOSED
        )
        of_up = load_weights(
            gate_ptr, d, H + h, weight_stride, in_d, is_column, TRANSPOSED
        )
        # "ieee": float32 in float32, not TF32. Halves are exact either way.
        gate = tl.dot(x, of_gate, gate, input_precision="ieee")
        up = tl.dot(x, of_up, up, input_precision="ieee")
    inside = is_row[:, None] & is_column[None, :]
    a = gate * tl.sigmoid(gate) * up
    tl.store(a_ptr + r[:, None] * H + h[None, :], a, mask=inside)
    if KEEP:
        kept_at = kept_ptr + r[:, None] * (2 * H) + h[None, :]
        tl.store(kept_at, gate, mask=inside)
        tl.store(kept_at + H, up, mask=inside)


@jit
def moe_up_activation_kernel(
    da_ptr, kept_ptr, dkept_ptr, da_stride, R, H, BLOCK_R: tl.constexpr,
    BLOCK_H: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    h = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    inside = (r < R)[:, None] & (h < H)[None, :]
    da_at = da_ptr + r[:, None] * da_stride + h[None, :]
    da = tl.load(da_at, mask=inside, other=0.0).to(tl.float32)
    gate_at = r[:, None] * (2 * H) + h[None, :]
    gate = tl.load(kept_ptr + gate_at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(kept_ptr + gate_at + H, mask=inside, other=0.0).to(tl.float32)
    s = tl.sigmoid(gate)
    tl.store(dkept_ptr + gate_at, da * up * s * (1.0 + gate * (1.0 - s)), mask=inside)
    tl.store(dkept_ptr + gate_at + H, da * gate * s, mask=inside)


@jit
def moe_up_weight_kernel(
    x_ptr, dkept_ptr, slot_ptr, first_ptr, dgate_up_ptr, x_stride, K, D, N,
    BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    # N = 2 H columns: dgate and dup need not be told apart here.
    blocks_n = tl.cdiv(N, BLOCK_N)
    d = (tl.program_id(0) // blocks_n) * BLOCK_D + tl.arange(0, BLOCK_D)
    n = (tl.program_id(0) % blocks_n) * BLOCK_N + tl.arange(0, BLOCK_N)
    expert = tl.program_id(1).to(tl.int64)
    start = tl.load(first_ptr + expert).to(tl.int64)
    stop = tl.load(first_ptr + expert + 1).to(tl.int64)
    in_d, in_n = d < D, n < N
    dgate_up = tl.zeros((BLOCK_D, BLOCK_N), dtype=tl.float32)
    # As many rounds as this expert has blocks of rows; without rows 0 is stored.
    for start_r in range(start, stop, BLOCK_R):
        r = start_r + tl.arange(0, BLOCK_R)
        is_row = r < stop
        t = (tl.load(slot_ptr + r, mask=is_row, other=0) // K).to(tl.int64)
        x_at = x_ptr + t[None, :] * x_stride + d[:, None]
        x = tl.load(x_at, mask=in_d[:, None] & is_row[None, :], other=0.0)
        dkept_at = dkept_ptr + r[:, None] * N + n[None, :]
        dkept = tl.load(dkept_at, mask=is_row[:, None] & in_n[None, :], other=0.0)
        dgate_up = tl.dot(x, dkept, dgate_up, input_precision="ieee")
    dgate_up_at = dgate_up_ptr + (expert * D + d[:, None]) * N + n[None, :]
    tl.store(dgate_up_at, dgate_up, mask=in_d[:, None] & in_n[None, :])


@jit
def moe_up_sum_kernel(dx_of_row_ptr, row_ptr, dx_ptr, K, D, BLOCK_D: tl.constexpr):
    # In 64 bits, since t * D passes 2**31.
    t = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    in_d = d < D
    dx = tl.zeros((BLOCK_D,), dtype=tl.float32)
    # Over k in order, wherever the rows are: the same bits every time.
    for k in range(K):
        r = tl.load(row_ptr + t * K + k).to(tl.int64)
        share = tl.load(dx_of_row_ptr + r * D + d, mask=in_d, other=0.0)
        dx += share.to(tl.float32)
    tl.store(dx_ptr + t * D + d, dx, mask=in_d)


def up_launch(dtype: torch.dtype) -> dict[str, Any]:
    """As `gemm_launch`, each column of a tile being two: one of gate, one of up."""
    blocks = gemm_launch(dtype)
    columns, depth = blocks.pop("BLOCK_N") // 2, blocks.pop("BLOCK_C")
    return {"BLOCK_H": columns, "BLOCK_D": depth, **blocks}


def up_weight_launch(dtype: torch.dtype) -> dict[str, Any]:
    """As `weight_launch`."""
    blocks = weight_launch(dtype)
    return {"BLOCK_D": blocks.pop("BLOCK_C"), **blocks}


ACTIVATION_LAUNCH = {"BLOCK_R": 4, "BLOCK_H": 256, "num_warps": 4, "num_stages": 1}
SUM_LAUNCH = {"BLOCK_D": 1024, "num_warps": 4, "num_stages": 1}
"""A thread holds 8 numbers of a row: in halves the 16 bytes that it loads at once."""


class _Up(torch.autograd.Function):
    """Ties the kernels together for autograd."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gate_up: Tensor,
        slot: Tensor,
        row: Tensor,
        first: Tensor,
        keep: bool,
    ) -> Tensor:
        x_TD, gate_up_ED2H = side_by_side(x), one_axis_side_by_side(gate_up)
        slot_R, row_TK = side_by_side(slot), row.contiguous()
        first_E1 = side_by_side(first)
        (E, D, twice_H), R, K = gate_up_ED2H.shape, len(slot_R), row_TK.shape[1]
        H = twice_H // 2
        a_RH = x_TD.new_empty((R, H))
        kept_R2H = x_TD.new_empty((R if keep else 0, 2 * H))
        launch = up_launch(x.dtype)
        transposed, weight_stride = lie_transposed(gate_up_ED2H)
        if R:  # a GPU refuses a grid of no programs
            tiles = most_tiles(R, E, launch["BLOCK_R"])
            moe_up_kernel[(tiles * cdiv(H, launch["BLOCK_H"]),)](
                x_TD,
                gate_up_ED2H,
                slot_R,
                first_E1,
                a_RH,
                kept_R2H,
                x_TD.stride(0),
                gate_up_ED2H.stride(0),
                weight_stride,
                E,
                K,
                D,
                H,
                TRANSPOSED=transposed,
                KEEP=keep,
                BLOCK_E=block_of_experts(E),
                **launch,
            )
        if keep:
            ctx.save_for_backward(
                x_TD, gate_up_ED2H, slot_R, row_TK, first_E1, kept_R2H
            )
        return a_RH

    @staticmethod
    def backward(ctx: Any, da: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("moe_up")
        x_TD, gate_up_ED2H, slot_R, row_TK, first_E1, kept_R2H = ctx.saved_tensors
        dkept_R2H = activation_gradient(side_by_side(da), kept_R2H)
        dx_TD = dgate_up_ED2H = None
        if ctx.needs_input_grad[0]:
            # Each row's share, by the same product as in grouped_gemm's backward.
            dx_RD = launch_grouped_gemm(
                dkept_R2H, gate_up_ED2H.transpose(1, 2), first_E1, gemm_launch(da.dtype)
            )
            dx_TD = sum_over_rows(dx_RD, row_TK)
        if ctx.needs_input_grad[1]:
            dgate_up_ED2H = up_weight_gradient(
                x_TD, dkept_R2H, slot_R, row_TK, first_E1
            )
        return dx_TD, dgate_up_ED2H, None, None, None, None


def activation_gradient(da_RH: Tensor, kept_R2H: Tensor) -> Tensor:
    """dgate and dup, side by side as gate and up are."""
    R, H = da_RH.shape
    dkept_R2H = torch.empty_like(kept_R2H)
    blocks = ACTIVATION_LAUNCH
    if R:
        moe_up_activation_kernel[
            (cdiv(R, blocks["BLOCK_R"]), cdiv(H, blocks["BLOCK_H"]))
        ](da_RH, kept_R2H, dkept_R2H, da_RH.stride(0), R, H, **blocks)
    return dkept_R2H


def up_weight_gradient(
    x_TD: Tensor, dkept_R2H: Tensor, slot_R: Tensor, row_TK: Tensor, first_E1: Tensor
) -> Tensor:
    """dgate_up_ED2H: zeros for an expert without rows."""
    K, D, N, E = row_TK.shape[1], x_TD.shape[1], dkept_R2H.shape[1], len(first_E1) - 1
    dgate_up_ED2H = x_TD.new_empty((E, D, N))
    launch = up_weight_launch(x_TD.dtype)
    tiles = cdiv(D, launch["BLOCK_D"]) * cdiv(N, launch["BLOCK_N"])
    moe_up_weight_kernel[(tiles, E)](
        x_TD,
        dkept_R2H,
        slot_R,
        first_E1,
        dgate_up_ED2H,
        x_TD.stride(0),
        K,
        D,
        N,
        **launch,
    )
    return dgate_up_ED2H


def sum_over_rows(dx_RD: Tensor, row_TK: Tensor) -> Tensor:
    """dx_TD: the K rows of each token, added in the order of k."""
    (T, K), D = row_TK.shape, dx_RD.shape[1]
    dx_TD = dx_RD.new_empty((T, D))
    if T:
        moe_up_sum_kernel[(T, cdiv(D, SUM_LAUNCH["BLOCK_D"]))](
            dx_RD, row_TK, dx_TD, K, D, **SUM_LAUNCH
        )
    return dx_TD


def moe_up(
    x: Tensor,
    gate_up: Tensor,
    slot: Tensor,
    row: Tensor,
    first: Tensor,
    interpret: bool | None = None,
) -> Tensor:
    """silu(x_t Wg_e) * (x_t Wu_e), a row a visit: kernel on a GPU, else reference.

    Args:
        x: (T, D) with D >= 1; float32, float16 or bfloat16. Tokens whose numbers do
            not lie side by side are copied.
        gate_up: (E, D, 2 H) with 1 <= E <= MAX_EXPERTS and H >= 1: Wg, then Wu; x's
            dtype and device; D or 2 H side by side, else copied.
        slot: (R,), int32: t K + k of row r, which says that x_t is read.
        row: (T, K), int32, its inverse: the row of the k-th visit of token t.
        first: (E + 1,), int32: expert e owns rows first[e] to first[e + 1] - 1. On a
            CPU the numbers of all three are checked, on a GPU they are trusted.
        interpret: True runs the kernels interpreted on a CPU (slow).

    Returns:
        a, (R, H), with x's dtype. The kernels differentiate once, with respect to x
        and gate_up.

    Raises:
        KernelInputError: an input is not as above.
        ValueError: interpret=True where kernels are not interpreted.
    """
    check_kernel_tensor("moe_up", x)
    if x.ndim != 2:
        raise KernelInputError(
            f"moe_up: x must have shape (T, D): tokens, numbers; got {tuple(x.shape)}."
        )
    check_experts("moe_up", x, "gate_up", gate_up, "(E, D, 2 H)")
    if gate_up.shape[2] % 2:
        raise KernelInputError(
            "moe_up: the last axis of gate_up must be even, H columns of the gate and "
            f"H of up; got {gate_up.shape[2]}."
        )
    check_places("moe_up", x, slot, row)
    check_first("moe_up", x, first, gate_up.shape[0], slot.shape[0])
    if route(x, interpret) == "reference":
        return moe_up_reference(x, gate_up, slot, row, first)
    # Autograd gives a Function no way to ask this inside.
    keep = torch.is_grad_enabled() and (x.requires_grad or gate_up.requires_grad)
    with torch.cuda.device_of(x):  # Triton launches on the current GPU
        a: Tensor = _Up.apply(x, gate_up, slot, row, first, keep)
    return a


def moe_up_cost(T: int, K: int, E: int, D: int, H: int, dtype: torch.dtype) -> Cost:
    """The forward: x, gate_up, slot and first read once, a written once."""
    R = T * K
    moved = (T * D + 2 * E * D * H + R * H) * dtype.itemsize + 4 * (R + E + 1)
    return Cost(bytes=moved, flops=R * (4 * D * H + 4 * H))


def moe_up_backward_cost(
    T: int, K: int, E: int, D: int, H: int, dtype: torch.dtype
) -> Cost:
    """The backward: da and all inputs read once, dx and dgate_up written once.

    gate and up are neither read nor computed again, and no row of dx is in it: all
    that depends on the implementation.
    """
    R = T * K
    moved = (R * H + 2 * T * D + 4 * E * D * H) * dtype.itemsize
    indices = 4 * (2 * R + E + 1)
    return Cost(bytes=moved + indices, flops=R * (8 * D * H + 11 * H) + (R - T) * D)


def _specs(dtype: torch.dtype, E: int) -> list[KernelSpec]:
    ours = {"TRANSPOSED": False, "BLOCK_E": block_of_experts(E), **up_launch(dtype)}
    return [
        *(
            launch_spec(
                moe_up_kernel, dtype, {"KEEP": keep, **ours},
                f"E={E} {'kept' if keep else ''}".strip(), x_ptr="*", gate_up_ptr="*",
                slot_ptr="*i32", first_ptr="*i32", a_ptr="*", kept_ptr="*",
                x_stride="i32", expert_stride="i32", weight_stride="i32", E="i32",
                K="i32", D="i32", H="i32",
            )
            for keep in (False, True)
        ),
        launch_spec(
            moe_up_activation_kernel, dtype, ACTIVATION_LAUNCH, f"E={E}", da_ptr="*",
            kept_ptr="*", dkept_ptr="*", da_stride="i32", R="i32", H="i32",
        ),
        launch_spec(
            moe_up_weight_kernel, dtype, up_weight_launch(dtype), f"E={E}", x_ptr="*",
            dkept_ptr="*", slot_ptr="*i32", first_ptr="*i32", dgate_up_ptr="*",
            x_stride="i32", K="i32", D="i32", N="i32",
        ),
        launch_spec(
            moe_up_sum_kernel, dtype, SUM_LAUNCH, f"E={E}", dx_of_row_ptr="*",
            row_ptr="*i32", dx_ptr="*", K="i32", D="i32",
        ),
    ]  # fmt: skip


SPECS = [
    spec
    for E in sorted({E for _, _, E, _, _ in BENCHMARK_SHAPES})
    for dtype in KERNEL_DTYPES
    for spec in _specs(dtype, E)
]
"""Every configuration of its own kernels that `moe_up` launches at BENCHMARK_SHAPES;
that of each row's share of dx stands in `grouped_gemm.SPECS`."""
