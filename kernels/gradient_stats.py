# mypy: allow-untyped-defs
"""A bucket's gradients plus the residual, and what there is to know of the sum.

    u_i = g_i + e_i        s_b = sum of u_i^2 over block b
    stats = (sum_b s_b,  max_i |u_i|,  sum_i u_i m_i)

Error feedback adds to the gradient what earlier steps did not send (Karimireddy et
al. 2019, arXiv 1901.09847, algorithm 2). The three numbers are what a rank needs in
order to choose a threshold, to clip, or to see whether u still points along m, a
direction that all ranks know; the blocks' sums of squares rank the blocks.

Shapes: g, e and m have one shape, any; seen as a row of n elements they are cut into
B = ceil(n / 1024) blocks of neighbours, of which the last may be shorter. s_B has one
number for each. b is the bytes per element of g: 4 or 2; e, m and all sums are
float32. u is written over e.

Cost:   n (b + 8) + 4 B + 12 bytes, and 4 n more with m
        (read g, e, m; write u, s, stats)                5 n FLOPs, and 2 n with m

That is 12 bytes an element from float32, 16 with m: the time is that of the bytes. In
PyTorch the sum, the norm, the maximum and the product each go over u again. Nothing
here has a gradient: communication begins when the backward has ended.

A sum over the bucket is made in two stages. A program sums its block in a fixed order
and writes one number; a second kernel adds those up. Atomic additions would save that
kernel and give other bits every time, and ranks that decide by them would drift apart.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.gradient_operands import check_like_state, check_state
from kernels.language import cdiv, jit, tl
from kernels.operation import KERNEL_DTYPES, TRITON_TYPES, Cost, launch_spec, route

BLOCK = 1024
"""Neighbours whose squares are added up."""

BENCHMARK_SHAPES = ((6_553_600,), (65_536_000,))
"""(n,): a bucket as DDP makes it, of 25 MB in float32, and ten of them in one."""

Stats = tuple[Tensor, Tensor, Tensor]
"""u, stats, block_square_B."""


def gradient_stats_reference(g: Tensor, e: Tensor, m: Tensor | None = None) -> Stats:
    """The same in plain PyTorch, on any device, changing nothing: the oracle.

    Args:
        g: any shape, any floating dtype.
        e: the same shape; float32 or float64, in which everything is computed.
        m: the same shape; left out, it is 0.

    Returns:
        u, of e's shape, stats, (3,), and block_square, (B,), all with e's dtype.
    """
    u = g.to(e.dtype) + e
    u_n = u.flatten()
    m_n = torch.zeros_like(u_n) if m is None else m.to(e.dtype).flatten()
    square_BK = F.pad(u_n.square(), (0, -u_n.numel() % BLOCK)).view(-1, BLOCK)
    block_square_B = square_BK.sum(1)
    # An empty bucket has no largest element.
    largest = u_n.abs().amax() if u_n.numel() else u_n.sum()
    stats_3 = torch.stack([block_square_B.sum(), largest, (u_n * m_n).sum()])
    return u, stats_3, block_square_B


@jit
def gradient_stats_kernel(
    g_ptr, e_ptr, m_ptr, partial_ptr, n, B, HAS_M: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # In 64 bits, since a bucket may have more than 2**31 elements.
    b = tl.program_id(0).to(tl.int64)
    i = b * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    # 0 beyond the bucket adds nothing to a sum and is no maximum of |u|.
    g = tl.load(g_ptr + i, mask=inside, other=0.0).to(tl.float32)
    u = g + tl.load(e_ptr + i, mask=inside, other=0.0)
    # No other program reads these: u can take e's place at once.
    tl.store(e_ptr + i, u, mask=inside)
    m = 0.0
    if HAS_M:
        m = tl.load(m_ptr + i, mask=inside, other=0.0)
    tl.store(partial_ptr + b, tl.sum(u * u, axis=0))
    tl.store(partial_ptr + B + b, tl.max(tl.abs(u), axis=0))
    tl.store(partial_ptr + 2 * B + b, tl.sum(u * m, axis=0))


@jit
def gradient_stats_total_kernel(partial_ptr, stats_ptr, B, BLOCK_B: tl.constexpr):
    # One program: the blocks are few, and so the order of the sum is fixed.
    lane = tl.arange(0, BLOCK_B)
    square = tl.zeros((BLOCK_B,), dtype=tl.float32)
    largest = tl.zeros((BLOCK_B,), dtype=tl.float32)
    dot = tl.zeros((BLOCK_B,), dtype=tl.float32)
    for start in range(0, B, BLOCK_B):
        b = start + lane
        inside = b < B
        square += tl.load(partial_ptr + b, mask=inside, other=0.0)
        size = tl.load(partial_ptr + B + b, mask=inside, other=0.0)
        largest = tl.maximum(largest, size)
        dot += tl.load(partial_ptr + 2 * B + b, mask=inside, other=0.0)
    total = tl.sum(square, axis=0)
    tl.store(stats_ptr, total)
    # A GPU's maximum of NaN and a number is the number. A sum keeps a NaN, and a sum
    # of squares has no other way to become one.
    is_number = total == total
    tl.store(stats_ptr + 1, tl.where(is_number, tl.max(largest, axis=0), total))
    tl.store(stats_ptr + 2, tl.sum(dot, axis=0))


def block_launch(has_m: bool) -> dict[str, Any]:
    """A program takes one block: 8 neighbours a thread, which it loads 4 at a time."""
    return {"HAS_M": has_m, "BLOCK": BLOCK, "num_warps": 4, "num_stages": 1}


def total_launch() -> dict[str, Any]:
    """One program goes along the blocks, 1024 at a time."""
    return {"BLOCK_B": 1024, "num_warps": 4, "num_stages": 1}


def gradient_stats(
    g: Tensor, e: Tensor, m: Tensor | None = None, interpret: bool | None = None
) -> Stats:
    """u = g + e in e's place, and its statistics: kernels on a GPU, else reference.

    Args:
        g: the gradients, any shape; float32, float16 or bfloat16, any strides; copied
            where it is not contiguous.
        e: the residual, float32, contiguous, of g's shape: becomes u.
        m: a direction, float32, of g's shape, any strides. Left out, it is not read
            and counts as 0.
        interpret: True runs the kernels interpreted on a CPU (slow).

    Returns:
        u, which is e; stats, (3,): the sum of squares, the largest size, and the
        product with m; block_square, (B,): each block's sum of squares. All float32
        and without a gradient. A NaN in u makes all of stats NaN and its block's sum,
        an infinity makes the first two infinite. Squares overflow from 1.8e19 on.

    Raises:
        KernelInputError: g, e or m are not as above.
        ValueError: interpret=True where kernels are not interpreted.
    """
    check_state("gradient_stats", e, "e")
    check_like_state("gradient_stats", g, "g", e, "e", KERNEL_DTYPES)
    if m is not None:
        check_like_state("gradient_stats", m, "m", e, "e", (torch.float32,))
        m = m.detach()
    g, e = g.detach(), e.detach()
    if route(e, interpret) == "reference":
        u, stats_3, block_square_B = gradient_stats_reference(g, e, m)
        return e.copy_(u), stats_3, block_square_B
    n = e.numel()
    B = cdiv(n, BLOCK)
    partial_3B, stats_3 = e.new_empty((3, B)), e.new_empty(3)
    with torch.cuda.device_of(e):  # Triton launches on the current GPU
        if n:  # a GPU refuses a grid of no programs
            # Where there is no m, e's address stands in for its: nobody reads there.
            m_or_e = e if m is None else m.contiguous()
            gradient_stats_kernel[(B,)](
                g.contiguous(),
                e,
                m_or_e,
                partial_3B,
                n,
                B,
                **block_launch(m is not None),
            )
        gradient_stats_total_kernel[(1,)](partial_3B, stats_3, B, **total_launch())
    return e, stats_3, partial_3B[0]


def gradient_stats_cost(n: int, dtype: torch.dtype, has_m: bool = True) -> Cost:
    """g, e and m read once, u, the blocks' sums and the three numbers written once."""
    each = dtype.itemsize + 8 + (4 if has_m else 0)
    flops = 7 * n if has_m else 5 * n
    return Cost(bytes=n * each + 4 * cdiv(n, BLOCK) + 12, flops=flops)


SPECS = [
    *(
        launch_spec(
            gradient_stats_kernel, dtype, block_launch(has_m),
            "with m" if has_m else "without m", g_ptr=f"*{TRITON_TYPES[dtype]}",
            e_ptr="*fp32", m_ptr="*fp32", partial_ptr="*fp32", n="i32", B="i32",
        )
        for dtype in KERNEL_DTYPES
        for has_m in (False, True)
    ),
    launch_spec(
        gradient_stats_total_kernel, torch.float32, total_launch(), "sums",
        partial_ptr="*fp32", stats_ptr="*fp32", B="i32",
    ),
]  # fmt: skip
"""Every configuration that `gradient_stats` launches at BENCHMARK_SHAPES."""
