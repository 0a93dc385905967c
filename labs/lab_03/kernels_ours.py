"""Our solution of lab 03's kernel exercise, and what it computes.

Shape suffixes: M rows, K columns, T columns of a tile, J tiles in a row.
"""
# mypy: allow-untyped-defs

from __future__ import annotations

import torch
from torch import Tensor

from kernels.float8 import E4M3
from kernels.fp8_scaling import quantise_reference
from kernels.language import cdiv, jit, tl
from labsupport.exercise.kernel import launch_watched, where_kernels_run

TILE = 16
"""Columns of a tile, a power of two."""


@jit
def quantise_kernel(x_ptr, q_ptr, scale_ptr, K, J, T: tl.constexpr):
    m, j = tl.program_id(0), tl.program_id(1)
    k = j * T + tl.arange(0, T)
    x = tl.load(x_ptr + m * K + k, mask=k < K, other=0.0)
    amax = tl.max(tl.abs(x), axis=0)
    # A tile of zeros must not divide by 0.
    scale = tl.maximum(amax / 448.0, 2.0**-126)
    q = (x / scale).to(tl.float8e4nv)
    tl.store(q_ptr + m * K + k, q, mask=k < K)
    tl.store(scale_ptr + m * J + j, scale)


def launch_quantise(kernel, x_MK: Tensor) -> tuple[Tensor, Tensor]:
    """Run a kernel of these arguments: codes and scales of tiles of 1 x TILE."""
    (x,) = where_kernels_run(x_MK.float().contiguous())
    M, K = x.shape
    J = cdiv(K, TILE)
    q_MK = torch.empty(M, K, dtype=E4M3.dtype, device=x.device)
    q_MK.view(torch.uint8).fill_(E4M3.nan)
    scale_MJ = x.new_full((M, J), torch.nan)
    launch_watched(kernel, (M, J), x, q_MK, scale_MJ, K, J, T=TILE)
    return q_MK.to(x_MK.device), scale_MJ.to(x_MK.device)


def quantise(x_MK: Tensor) -> tuple[Tensor, Tensor]:
    """The same in plain PyTorch."""
    return quantise_reference(x_MK, (1, TILE))
