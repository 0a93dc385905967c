"""Our solution of lab 01's kernel exercise, and what it computes.

Shape suffixes: each of M tokens has a matrix of n x n; tokens come last.
"""
# mypy: allow-untyped-defs

from __future__ import annotations

import torch
from torch import Tensor

from kernels.language import cdiv, jit, tl
from labsupport.exercise.kernel import launch_watched, where_kernels_run

BLOCK = 16
"""Tokens a program works on."""


@jit
def sinkhorn_step_kernel(
    p_ptr, out_ptr, M, N: tl.constexpr, BLOCK: tl.constexpr
):
    m = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[None, None, :]
    i = tl.arange(0, N)[:, None, None]
    j = tl.arange(0, N)[None, :, None]
    at = (i * N + j) * M + m
    # 1 in place of tokens beyond the last: their sums are not zero.
    p = tl.load(p_ptr + at, mask=m < M, other=1.0)
    p = p / tl.sum(p, axis=0)[None, :, :]
    p = p / tl.sum(p, axis=1)[:, None, :]
    tl.store(out_ptr + at, p, mask=m < M)


def launch_sinkhorn_step(kernel, p_nnM: Tensor) -> Tensor:
    """Run a kernel of these arguments on p; n has to be a power of two."""
    (p,) = where_kernels_run(p_nnM.contiguous())
    n, _, M = p.shape
    out_nnM = torch.full_like(p, float("nan"))
    launch_watched(kernel, (cdiv(M, BLOCK),), p, out_nnM, M, N=n, BLOCK=BLOCK)
    return out_nnM.to(p_nnM.device)


def sinkhorn_step(p_nnM: Tensor) -> Tensor:
    """T_r(T_c(p)): each column divided by its sum, then each row by its own."""
    p_nnM = p_nnM / p_nnM.sum(0, keepdim=True)
    return p_nnM / p_nnM.sum(1, keepdim=True)
