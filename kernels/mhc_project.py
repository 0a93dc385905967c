# mypy: allow-untyped-defs
"""Projection of mHC: what the coefficients are made of, in one scan of the streams.

    h_p = sum_k x_k phi_kp        r = sqrt(sum_k x_k^2 / K)

for each token: Eq. 14 and 15 of arXiv 2512.24880 (h = x phi, r = |x| / sqrt(nC)).
The n streams of C elements are seen as one row of K = n C. h / r is the product
of the RMS-normalised row with phi: the division can wait until after the product,
so one scan of x serves both. With dh and dr the gradients that arrive,

    dx_k = sum_p dh_p phi_kp + dr x_k / (K r)        dphi_kp = sum_M x_k dh_p

and where r = 0 its gradient is taken to be 0.

Shapes: M tokens, n streams, C elements a stream, K = n C, P = n^2 + 2 n columns of
phi (n for pre, n for post, n n for res). x_MnC, phi_KP and dphi_KP, h_MP, r_M; all
but x in float32. h lies in memory as the coefficients do, tokens side by side:
h_MP.T[2 n:].view(n, n, M) is what Sinkhorn takes, without a copy. S programs share
the tokens in the backward. e is the bytes per element of x: 4 for float32, 2 for
float16 and bfloat16.

Cost, forward:   M (K e + 4 (P + 1)) + 4 K P bytes
                 (read x, phi; write h, r)                   M (2 K P + 2 K) FLOPs
      backward:  M (2 K e + 4 (P + 1)) + 8 K P bytes
                 (read dh, dr, x, phi; write dx, dphi)       M (4 K P + 4 K) FLOPs

With n = 4 in bfloat16: 8 C + 100 and 16 C + 100 bytes a token, and phi. The 24 FLOPs
for each byte of x take an A100 or H100 longer than the byte does, unless its tensor
cores make the products. Halves fit into their TF32 numbers without loss, phi loses
all but 11 bits (the paper keeps it in TF32). A float32 x is multiplied in float32,
slowly and exactly. With few tokens there are few programs: a tuned version would
cut K into pieces too.

dphi sums over all tokens. Each program takes a block of K and every S-th block of
tokens, sums in a fixed order and writes its share of partial_SPK; a second stage
adds the S shares. Atomic additions would give other bits every time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.language import cdiv, jit, next_power_of_2, tl
from kernels.mhc_streams import (
    BENCHMARK_SHAPES,
    check_streams,
    stream_spec,
)
from kernels.operation import (
    KERNEL_DTYPES,
    Cost,
    accumulator,
    as_rows,
    check_beside,
    refuse_second_derivative,
    route,
    side_by_side,
)


def mhc_project_reference(x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
    """The projection in plain PyTorch, differentiable, on any device: the oracle.

    Args:
        x: (M, n, C), any floating dtype. Half precisions are computed in float32.
        phi: (n C, P).

    Returns:
        h, (M, P), and r, (M,): float64 for a float64 x, else float32.
    """
    x_MK = x.to(accumulator(x.dtype)).flatten(1)
    h_MP = (phi.T.to(x_MK.dtype) @ x_MK.T).T  # x phi, tokens side by side
    r_M = torch.linalg.vector_norm(x_MK, dim=-1) / x_MK.shape[-1] ** 0.5
    return h_MP, r_M


@jit
def mhc_project_forward_kernel(
    x_ptr, phi_ptr, h_ptr, r_ptr, x_stride, phi_stride, M, K,
    n: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
    BLOCK_P: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # In 64 bits, since m * stride passes 2**31 on large tensors.
    m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    p = tl.arange(0, BLOCK_P)
    is_token, is_column = m < M, p < n * n + 2 * n
    h = tl.zeros((BLOCK_M, BLOCK_P), dtype=tl.float32)
    squares = tl.zeros((BLOCK_M,), dtype=tl.float32)
    for start in range(0, K, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        in_x = is_token[:, None] & (k < K)[None, :]
        in_phi = (k < K)[:, None] & is_column[None, :]
        # 0 beyond K adds nothing to either sum.
        x = tl.load(x_ptr + m[:, None] * x_stride + k[None, :], mask=in_x, other=0.0)
        x = x.to(tl.float32)
        # phi_KP with its K side by side, as tensor cores take it.
        phi_at = phi_ptr + p[None, :] * phi_stride + k[:, None]
        phi = tl.load(phi_at, mask=in_phi, other=0.0)
        h = tl.dot(x, phi, h, input_precision=PRECISION)
        squares += tl.sum(x * x, axis=1)
    in_h = is_token[:, None] & is_column[None, :]
    tl.store(h_ptr + p[None, :] * M + m[:, None], h, mask=in_h)
    tl.store(r_ptr + m, tl.sqrt(squares / K), mask=is_token)


@jit
def mhc_project_backward_kernel(
    x_ptr, phi_ptr, r_ptr, dh_ptr, dr_ptr, dx_ptr, partial_ptr, x_stride, phi_stride,
    dh_stride, M, K, n: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
    BLOCK_P: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    k = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
    s = tl.program_id(1).to(tl.int64)  # and with it every token below
    P = n * n + 2 * n
    p = tl.arange(0, BLOCK_P)
    in_k, is_column = k < K, p < P
    in_phi = is_column[:, None] & in_k[None, :]
    phi_at = phi_ptr + p[:, None] * phi_stride + k[None, :]
    phi = tl.load(phi_at, mask=in_phi, other=0.0)
    dphi = tl.zeros((BLOCK_P, BLOCK_K), dtype=tl.float32)
    # Blocks of tokens s, s + S, s + 2 S, ...: dphi stays in registers.
    for start in range(s * BLOCK_M, M, tl.num_programs(1) * BLOCK_M):
        m = start + tl.arange(0, BLOCK_M)
        is_token = m < M
        in_x = is_token[:, None] & in_k[None, :]
        x = tl.load(x_ptr + m[:, None] * x_stride + k[None, :], mask=in_x, other=0.0)
        x = x.to(tl.float32)
        in_h = is_token[:, None] & is_column[None, :]
        dh_at = dh_ptr + p[None, :] * dh_stride + m[:, None]
        dh = tl.load(dh_at, mask=in_h, other=0.0)
        r = tl.load(r_ptr + m, mask=is_token, other=0.0)
        dr = tl.load(dr_ptr + m, mask=is_token, other=0.0)
        # Where r is 0, so is x, and any other divisor will do.
        along_x = dr / (K * tl.where(r > 0.0, r, 1.0))
        dx = tl.dot(dh, phi, along_x[:, None] * x, input_precision=PRECISION)
        tl.store(dx_ptr + m[:, None] * K + k[None, :], dx, mask=in_x)
        dphi = tl.dot(tl.trans(dh), x, dphi, input_precision=PRECISION)
    partial_at = partial_ptr + (s * P + p[:, None]) * K + k[None, :]
    tl.store(partial_at, dphi, mask=in_phi)


def project_launch(n: int, dtype: torch.dtype, BLOCK_M: int) -> dict[str, Any]:
    """How the kernels are launched on x of a dtype, BLOCK_M tokens at a time."""
    return {
        "n": n,
        "BLOCK_M": BLOCK_M,
        "BLOCK_K": 64 if n <= 4 else 32,  # phi is wide above 4 streams
        "BLOCK_P": max(next_power_of_2(n * n + 2 * n), 16),  # tl.dot's smallest
        "PRECISION": "ieee" if dtype == torch.float32 else "tf32",
        "num_warps": 4,
        "num_stages": 3,
    }


def forward_launch(n: int, dtype: torch.dtype) -> dict[str, Any]:
    """64 tokens a program: every program reads all of phi, so not too few."""
    return project_launch(n, dtype, BLOCK_M=64)


def backward_launch(n: int, dtype: torch.dtype) -> dict[str, Any]:
    """32 tokens at a time, as dphi takes up registers too."""
    return project_launch(n, dtype, BLOCK_M=32)


def backward_programs(x_MK: Tensor, launch: dict[str, Any]) -> int:
    """S: how many programs share the tokens of one block of K in the backward.

    On a GPU enough for four programs on each of its multiprocessors, and no more,
    as each adds a share to partial_SPK. Interpreted, any S will do.
    """
    M, K = x_MK.shape
    blocks_of_tokens = cdiv(M, launch["BLOCK_M"])
    if not x_MK.is_cuda:
        return min(blocks_of_tokens, 2)
    properties = torch.cuda.get_device_properties(x_MK.device)
    programs = 4 * int(properties.multi_processor_count)
    return min(blocks_of_tokens, cdiv(programs, cdiv(K, launch["BLOCK_K"])))


class _Project(torch.autograd.Function):
    """Ties the kernels together for autograd."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        x_MK, phi_PK = as_rows(x.flatten(1)), side_by_side(phi.T)
        (M, K), P = x_MK.shape, phi.shape[1]
        launch = forward_launch(x.shape[1], x.dtype)
        # Tokens side by side. An output that is a view (the transpose of a (P, M))
        # may not be changed in place.
        h_MP = x.new_empty_strided((M, P), (1, M), dtype=torch.float32)
        r_M = x.new_empty(M, dtype=torch.float32)
        if M:  # a GPU refuses a grid of no programs
            mhc_project_forward_kernel[(cdiv(M, launch["BLOCK_M"]),)](
                x_MK,
                phi_PK,
                h_MP,
                r_M,
                x_MK.stride(0),
                phi_PK.stride(0),
                M,
                K,
                **launch,
            )
        ctx.save_for_backward(x_MK, phi_PK, r_M)
        ctx.shape = x.shape
        return h_MP, r_M

    @staticmethod
    def backward(ctx: Any, dh: Tensor, dr: Tensor) -> tuple[Tensor, Tensor]:
        refuse_second_derivative("mhc_project")
        x_MK, phi_PK, r_M = ctx.saved_tensors
        # What arrives has any strides: h.sum() sends one number, M P times.
        dh_PM, dr_M = side_by_side(dh.T), side_by_side(dr)
        (M, K), P = x_MK.shape, phi_PK.shape[0]
        launch = backward_launch(ctx.shape[1], x_MK.dtype)
        S = backward_programs(x_MK, launch)
        dx_MK = x_MK.new_empty((M, K))
        partial_SPK = x_MK.new_empty((S, P, K), dtype=torch.float32)
        if M:
            mhc_project_backward_kernel[(cdiv(K, launch["BLOCK_K"]), S)](
                x_MK,
                phi_PK,
                r_M,
                dh_PM,
                dr_M,
                dx_MK,
                partial_SPK,
                x_MK.stride(0),
                phi_PK.stride(0),
                dh_PM.stride(0),
                M,
                K,
                **launch,
            )
        # The second stage. S shares are few, and torch adds them in a fixed order.
        return dx_MK.view(ctx.shape), partial_SPK.sum(0).T


def mhc_project(
    x: Tensor, phi: Tensor, interpret: bool | None = None
) -> tuple[Tensor, Tensor]:
    """h = x phi and r = rms(x), a row a token: kernel on a GPU, else reference.

    Args:
        x: (M, n, C) with 1 <= n <= MAX_STREAMS; float32, float16 or bfloat16,
            any strides; streams of a token that do not lie side by side are copied.
        phi: (n C, n n + 2 n), float32, on x's device. It is read with the n C side
            by side and copied if it lies otherwise: a parameter is best kept as
            (n n + 2 n, n C) and passed as its transpose.
        interpret: True runs the kernels interpreted on a CPU (slow).

    Returns:
        h, (M, n n + 2 n), and r, (M,), float32. The kernels differentiate once.

    Raises:
        KernelInputError: x or phi is not as above.
        ValueError: interpret=True where kernels are not interpreted.
    """
    check_streams("mhc_project", x)
    _, n, C = x.shape
    shape = (n * C, n * n + 2 * n)
    check_beside("mhc_project", x, "phi", phi, shape, "(n C, n n + 2 n)")
    if route(x, interpret) == "reference":
        return mhc_project_reference(x, phi)
    with torch.cuda.device_of(x):  # Triton launches on the current GPU
        h, r = _Project.apply(x, phi)
    return h, r


def mhc_project_cost(M: int, n: int, C: int, dtype: torch.dtype) -> Cost:
    """The forward: x and phi read once, h and r written once."""
    K, P = n * C, n * n + 2 * n
    moved = M * (K * dtype.itemsize + 4 * (P + 1)) + 4 * K * P
    return Cost(bytes=moved, flops=M * (2 * K * P + 2 * K))


def mhc_project_backward_cost(M: int, n: int, C: int, dtype: torch.dtype) -> Cost:
    """The backward: dh, dr, x and phi read once, dx and dphi written once.

    r and partial_SPK are not in it: another implementation could do without.
    """
    K, P = n * C, n * n + 2 * n
    moved = M * (2 * K * dtype.itemsize + 4 * (P + 1)) + 8 * K * P
    return Cost(bytes=moved, flops=M * (4 * K * P + 4 * K))


SPECS = [
    spec
    for n in sorted({n for _, n, _ in BENCHMARK_SHAPES})
    for dtype in KERNEL_DTYPES
    for spec in (
        stream_spec(
            mhc_project_forward_kernel, dtype, forward_launch(n, dtype), x_ptr="*",
            phi_ptr="*fp32", h_ptr="*fp32", r_ptr="*fp32", x_stride="i32",
            phi_stride="i32", M="i32", K="i32",
        ),
        stream_spec(
            mhc_project_backward_kernel, dtype, backward_launch(n, dtype), x_ptr="*",
            phi_ptr="*fp32", r_ptr="*fp32", dh_ptr="*fp32", dr_ptr="*fp32",
            dx_ptr="*", partial_ptr="*fp32", x_stride="i32", phi_stride="i32",
            dh_stride="i32", M="i32", K="i32",
        ),
    )
]  # fmt: skip
"""Every configuration that `mhc_project` launches at BENCHMARK_SHAPES."""
