# mypy: allow-untyped-defs
"""Two factors back to a gradient, and what it lacks of u: the residual.

    out_mn = round(sum_r p_mr r_nr)        u_mn <- u_mn - out_mn

The second half of a low-rank compression with error feedback (PowerSGD: Vogels et al.
2019, arXiv 1905.13727, algorithms 1 and 2). p and r come from sums over all ranks, so
out is the same on each of them: it is the gradient that the optimizer gets. u is a
rank's own, and keeps what out lacks of it. It loses what was written: were out rounded
to fewer bits after the subtraction, that error would be nowhere.

Shapes: u_MN and out_MN have M rows of N numbers, p_MR and r_NR R columns, R from 1 to
16. b is the bytes per element of out: 4 or 2; everything else is float32. What is left
is written over u.

Cost:   M N (8 + b) + 4 R (M + N) bytes                       M N (2 R + 1) FLOPs
        (read u, p, r; write out, u)

Nothing here has a gradient: communication begins when the backward has ended.

The product never lies in memory by itself: a program makes a block of it in registers,
a column of p times a row of r^T after another. That takes R multiplications an element,
and no padding to the 16 columns that `tl.dot` wants.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.gradient_operands import (
    check_factor,
    check_like_state,
    check_state_matrix,
)
from kernels.language import cdiv, jit, tl
from kernels.operation import (
    KERNEL_DTYPES,
    TRITON_TYPES,
    Cost,
    KernelInputError,
    launch_spec,
    route,
)

BENCHMARK_SHAPES = ((4096, 4096, 4), (4096, 14336, 16))
"""(M, N, R): weights of attention and of the FFN in a model of 8 B parameters."""


def gradient_residual_reference(
    u: Tensor, p: Tensor, r: Tensor, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """The same in plain PyTorch, on any device, changing nothing: the oracle.

    Args:
        u: (M, N), float32 or float64, in which everything is computed.
        p: (M, R).
        r: (N, R).
        dtype: of out.

    Returns:
        out, (M, N), of dtype, and the residual, (M, N), with u's dtype.
    """
    out_MN = (p.to(u.dtype) @ r.to(u.dtype).T).to(dtype)
    return out_MN, u - out_MN.to(u.dtype)


@jit
def gradient_residual_kernel(
    u_ptr, p_ptr, r_ptr, out_ptr, M, N, R: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    # Neighbouring programs take neighbouring blocks of the same rows.
    blocks = tl.cdiv(N, BLOCK_N)
    # In 64 bits, since m * N passes 2**31 on large matrices.
    i = (tl.program_id(0) // blocks).to(tl.int64)
    m = i * BLOCK_M + tl.arange(0, BLOCK_M)
    n = (tl.program_id(0) % blocks) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (m < M)[:, None] & (n < N)[None, :]
    at = m[:, None] * N + n[None, :]
    # No `other`: what a masked lane holds goes nowhere.
    u = tl.load(u_ptr + at, mask=inside)
    out = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for k in range(R):
        p = tl.load(p_ptr + m * R + k, mask=m < M)
        r = tl.load(r_ptr + n * R + k, mask=n < N)
        out += p[:, None] * r[None, :]
    out = out.to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + at, out, mask=inside)
    tl.store(u_ptr + at, u - out.to(tl.float32), mask=inside)


def block_launch(R: int) -> dict[str, Any]:
    """A program takes a block of 16 x 128: 16 numbers a thread."""
    return {"R": R, "BLOCK_M": 16, "BLOCK_N": 128, "num_warps": 4, "num_stages": 1}


def gradient_residual(
    u: Tensor,
    p: Tensor,
    r: Tensor,
    out: Tensor | None = None,
    interpret: bool | None = None,
) -> Tensor:
    """out = p r^T, and u - out in u's place: the kernel on a GPU, else reference.

    Args:
        u: (M, N), float32, contiguous: keeps what is left.
        p: (M, R), float32, any strides, R from 1 to 16.
        r: (N, R), float32, any strides.
        out: (M, N), where the gradient goes, such as its place in a bucket; float32,
            float16 or bfloat16, contiguous, and not u. Left out, it is a new tensor
            of float32.
        interpret: True runs the kernel interpreted on a CPU (slow).

    Returns:
        out, without a gradient.

    Raises:
        KernelInputError: u, p, r or out are not as above.
        ValueError: interpret=True where kernels are not interpreted.
    """
    check_state_matrix("gradient_residual", u, "u")
    check_factor("gradient_residual", p, "p", u, "u", axis=0)
    check_factor("gradient_residual", r, "r", u, "u", axis=1)
    if p.shape[1] != r.shape[1]:
        raise KernelInputError(
            "gradient_residual: p and r must have the same number of columns; got "
            f"{p.shape[1]} and {r.shape[1]}."
        )
    if out is None:
        out = torch.empty_like(u)
    _check_out(out, u)
    u, p, r, out = u.detach(), p.detach(), r.detach(), out.detach()
    if route(u, interpret) == "reference":
        out_MN, residual_MN = gradient_residual_reference(u, p, r, out.dtype)
        u.copy_(residual_MN)
        return out.copy_(out_MN)
    (M, N), launch = u.shape, block_launch(p.shape[1])
    if u.numel():  # a GPU refuses a grid of no programs
        blocks = cdiv(M, launch["BLOCK_M"]) * cdiv(N, launch["BLOCK_N"])
        with torch.cuda.device_of(u):  # Triton launches on the current GPU
            gradient_residual_kernel[(blocks,)](
                u, p.contiguous(), r.contiguous(), out, M, N, **launch
            )
    return out


def _check_out(out: Tensor, u: Tensor) -> None:
    check_like_state("gradient_residual", out, "out", u, "u", KERNEL_DTYPES)
    if not out.is_contiguous():
        raise KernelInputError(
            "gradient_residual: out must be contiguous; got shape "
            f"{tuple(out.shape)} with strides {out.stride()}."
        )
    if out.numel() and out.data_ptr() == u.data_ptr():
        raise KernelInputError(
            "gradient_residual: out must not be u, which keeps what is left of it."
        )


def gradient_residual_cost(M: int, N: int, R: int, dtype: torch.dtype) -> Cost:
    """u, p and r read once, out and u written once. dtype is out's."""
    moved = M * N * (8 + dtype.itemsize) + 4 * R * (M + N)
    return Cost(bytes=moved, flops=M * N * (2 * R + 1))


SPECS = [
    launch_spec(
        gradient_residual_kernel, torch.float32, block_launch(R),
        f"R={R}, gradients in {TRITON_TYPES[dtype]}", u_ptr="*", p_ptr="*", r_ptr="*",
        out_ptr=f"*{TRITON_TYPES[dtype]}", M="i32", N="i32",
    )
    for *_, R in BENCHMARK_SHAPES
    for dtype in KERNEL_DTYPES
]  # fmt: skip
"""Every configuration that `gradient_residual` launches at BENCHMARK_SHAPES."""
