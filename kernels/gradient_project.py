# mypy: allow-untyped-defs
"""A weight's gradient plus the residual, and its product with a few directions.

    u_mn = w g_mn + e_mn        p_mr = sum_n u_mn q_nr

The first half of a low-rank compression with error feedback (PowerSGD: Vogels et al.
2019, arXiv 1905.13727, algorithms 1 and 2): the ranks add up their p, M R numbers in
place of M N. The weight w makes a mean over ranks right where their batches differ: W b
/ B for a rank with b of all B examples, W ranks in all.

Shapes: g_MN, e_MN and u_MN have M rows of N numbers, q_NR and p_MR R columns, R from 1
to 16. b is the bytes per element of g: 4 or 2; everything else is float32. u is written
over e.

Cost:   M N (b + 8) + 4 R (M + N) bytes                       M N (2 + 2 R) FLOPs
        (read g, e, q; write u, p)

With R = 16 from float32 that is not 3 FLOPs a byte: the time is that of the bytes, and
a product that read u again would take a third more of them. Nothing here has a
gradient: communication begins when the backward has ended.

Products and sums are those of float32 ("ieee"). Tensor cores would keep 11 bits of u
and q ("tf32"), or make three products of such parts to keep nearly all ("tf32x3"). By
the formulas the bytes take longer than the products anyway, and in float32 as many
directions as columns give u back, up to rounding: low rank can be held against none.

Few rows make few programs, since each goes along its rows alone; a tuned version would
cut N into pieces too.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from kernels.gradient_operands import (
    MAX_RANK,
    check_factor,
    check_like_state,
    check_state_matrix,
)
from kernels.language import cdiv, jit, tl
from kernels.operation import (
    KERNEL_DTYPES,
    Cost,
    KernelInputError,
    launch_spec,
    route,
    side_by_side,
)

BENCHMARK_SHAPES = ((4096, 4096, 4), (4096, 14336, 16))
"""(M, N, R): weights of attention and of the FFN in a model of 8 B parameters."""


def gradient_project_reference(
    g: Tensor, e: Tensor, q: Tensor, weight: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The same in plain PyTorch, on any device, changing nothing: the oracle.

    Args:
        g: (M, N), any floating dtype.
        e: (M, N), float32 or float64, in which everything is computed.
        q: (N, R).
        weight: of g.

    Returns:
        u, (M, N), and p, (M, R), with e's dtype.
    """
    u_MN = weight * g.to(e.dtype) + e
    return u_MN, u_MN @ q.to(e.dtype)


@jit
def gradient_project_kernel(
    g_ptr, e_ptr, q_ptr, p_ptr, weight, g_stride, M, N, R: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    # In 64 bits, since m * N passes 2**31 on large matrices.
    m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    r = tl.arange(0, BLOCK_R)
    in_p = (m < M)[:, None] & (r < R)[None, :]
    p = tl.zeros((BLOCK_M, BLOCK_R), dtype=tl.float32)
    for start in range(0, N, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        inside = (m < M)[:, None] & (n < N)[None, :]
        # 0 beyond the matrix adds nothing to the products.
        g_at = g_ptr + m[:, None] * g_stride + n[None, :]
        g = tl.load(g_at, mask=inside, other=0.0).to(tl.float32)
        e_at = e_ptr + m[:, None] * N + n[None, :]
        u = weight * g + tl.load(e_at, mask=inside, other=0.0)
        # No other program reads these: u can take e's place at once.
        tl.store(e_at, u, mask=inside)
        in_q = (n < N)[:, None] & (r < R)[None, :]
        q = tl.load(q_ptr + n[:, None] * R + r[None, :], mask=in_q, other=0.0)
        p = tl.dot(u, q, p, input_precision="ieee")
    tl.store(p_ptr + m[:, None] * R + r[None, :], p, mask=in_p)


def project_launch(R: int) -> dict[str, Any]:
    """A program takes 16 rows, 128 numbers of each at a time.

    `tl.dot` wants 16 of everything at least, so R is padded. 16 rows make 256 programs
    of 4096: a GPU of 132 processors has two for each.
    """
    return {
        "R": R,
        "BLOCK_M": 16,
        "BLOCK_N": 128,
        "BLOCK_R": MAX_RANK,
        "num_warps": 4,
        "num_stages": 3,
    }


def gradient_project(
    g: Tensor,
    e: Tensor,
    q: Tensor,
    weight: float = 1.0,
    interpret: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """u = weight g + e in e's place, and u q: the kernel on a GPU, else reference.

    Args:
        g: (M, N), the gradient; float32, float16 or bfloat16, any strides; copied
            where a row's numbers lie apart.
        e: (M, N), the residual, float32, contiguous: becomes u.
        q: (N, R), float32, any strides, R from 1 to 16.
        weight: of g, a finite number.
        interpret: True runs the kernel interpreted on a CPU (slow).

    Returns:
        u, which is e, and p, (M, R), both float32 and without a gradient. A NaN in u
        makes its row of p NaN.

    Raises:
        KernelInputError: g, e, q or weight are not as above.
        ValueError: interpret=True where kernels are not interpreted.
    """
    check_state_matrix("gradient_project", e, "e")
    check_like_state("gradient_project", g, "g", e, "e", KERNEL_DTYPES)
    check_factor("gradient_project", q, "q", e, "e", axis=1)
    if not math.isfinite(weight):
        raise KernelInputError(
            f"gradient_project: weight must be a finite number; got {weight}."
        )
    g, e, q = g.detach(), e.detach(), q.detach()
    if route(e, interpret) == "reference":
        u_MN, p_MR = gradient_project_reference(g, e, q, weight)
        return e.copy_(u_MN), p_MR
    (M, N), R = e.shape, q.shape[1]
    g_MN, p_MR, launch = side_by_side(g), e.new_empty((M, R)), project_launch(R)
    if M:  # a GPU refuses a grid of no programs
        with torch.cuda.device_of(e):  # Triton launches on the current GPU
            gradient_project_kernel[(cdiv(M, launch["BLOCK_M"]),)](
                g_MN, e, q.contiguous(), p_MR, float(weight), g_MN.stride(0), M, N,
                **launch,
            )  # fmt: skip
    return e, p_MR


def gradient_project_cost(M: int, N: int, R: int, dtype: torch.dtype) -> Cost:
    """g, e and q read once, u and p written once."""
    moved = M * N * (dtype.itemsize + 8) + 4 * R * (M + N)
    return Cost(bytes=moved, flops=M * N * (2 + 2 * R))


SPECS = [
    launch_spec(
        gradient_project_kernel, dtype, project_launch(R), f"R={R}", g_ptr="*",
        e_ptr="*fp32", q_ptr="*fp32", p_ptr="*fp32", weight="fp32", g_stride="i32",
        M="i32", N="i32",
    )
    for *_, R in BENCHMARK_SHAPES
    for dtype in KERNEL_DTYPES
]  # fmt: skip
"""Every configuration that `gradient_project` launches at BENCHMARK_SHAPES."""
