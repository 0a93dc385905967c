"""Our solution of lab 05b's kernel exercise, and what it computes.

Shape suffixes: P streams, R rows, D model width.
"""
# mypy: allow-untyped-defs

from __future__ import annotations

import torch
from torch import Tensor

from kernels.language import cdiv, jit, tl
from labsupport.exercise.kernel import launch_watched, where_kernels_run

BLOCK = 16
"""Elements of a row that a program works on, a power of two."""


@jit
def stream_sum_kernel(
    x_ptr, w_ptr, y_ptr, R, D, P: tl.constexpr, BLOCK: tl.constexpr
):
    r = tl.program_id(0)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    y = tl.zeros((BLOCK,), dtype=tl.float32)
    for p in tl.static_range(P):
        w = tl.load(w_ptr + r * P + p)
        x = tl.load(x_ptr + (p * R + r) * D + d, mask=d < D, other=0.0)
        y += w * x
    tl.store(y_ptr + r * D + d, y, mask=d < D)


def launch_stream_sum(kernel, x_PRD: Tensor, w_RP: Tensor) -> Tensor:
    """Run a kernel of these arguments: y_RD.

    Args:
        kernel: adds up P streams by each row's weights.
        x_PRD: the streams, one after the other, float32.
        w_RP: the weights, float32.
    """
    x, w = where_kernels_run(
        x_PRD.float().contiguous(), w_RP.float().contiguous()
    )
    P, R, D = x.shape
    y_RD = x.new_full((R, D), torch.nan)
    grid = (R, cdiv(D, BLOCK))
    launch_watched(kernel, grid, x, w, y_RD, R, D, P=P, BLOCK=BLOCK)
    return y_RD.to(x_PRD.device)


def weighted_sum(x_PRD: Tensor, w_RP: Tensor) -> Tensor:
    """The same in plain PyTorch."""
    return torch.einsum("rp,prd->rd", w_RP.float(), x_PRD.float())
