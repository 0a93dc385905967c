"""Our solution of lab 07's kernel exercise, and what it computes.

Shape suffixes: N tokens, V entries of the vocabulary.
"""
# mypy: allow-untyped-defs

from __future__ import annotations

import torch
from torch import Tensor

from kernels.language import cdiv, jit, tl
from labsupport.exercise.kernel import launch_watched, where_kernels_run

BLOCK = 16
"""Entries of a row that a program works on, a power of two."""


@jit
def logprob_backward_kernel(
    z_ptr, y_ptr, lse_ptr, g_ptr, dz_ptr, T, V, BLOCK: tl.constexpr
):
    n = tl.program_id(0)
    v = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    y = tl.load(y_ptr + n)
    lse = tl.load(lse_ptr + n)
    g = tl.load(g_ptr + n)
    z = tl.load(z_ptr + n * V + v, mask=v < V, other=0.0)
    p = tl.exp(z / T - lse)
    chosen = tl.where(v == y, 1.0, 0.0)
    dz = g / T * (chosen - p)
    tl.store(dz_ptr + n * V + v, dz, mask=v < V)


def launch_logprob_backward(
    kernel, z_NV: Tensor, y_N: Tensor, g_N: Tensor, T: float
) -> Tensor:
    """Run a kernel of these arguments: dz_NV.

    Args:
        kernel: the gradient of logits, of log p of the chosen tokens.
        z_NV: logits, float32.
        y_N: the chosen tokens, 0 to V - 1, integers.
        g_N: the gradient that arrives at each log p, float32.
        T: the temperature, above 0.
    """
    z, y, g = where_kernels_run(
        z_NV.float().contiguous(),
        y_N.int().contiguous(),
        g_N.float().contiguous(),
    )
    N, V = z.shape
    lse_N = (z / T).logsumexp(-1)
    dz_NV = z.new_full((N, V), torch.nan)
    grid = (N, cdiv(V, BLOCK))
    launch_watched(
        kernel, grid, z, y, lse_N, g, dz_NV, float(T), V, BLOCK=BLOCK
    )
    return dz_NV.to(z_NV.device)


def logprob_backward(
    z_NV: Tensor, y_N: Tensor, g_N: Tensor, T: float
) -> Tensor:
    """The same in plain PyTorch."""
    p_NV = torch.softmax(z_NV.float() / T, -1)
    chosen_NV = torch.nn.functional.one_hot(y_N.long(), z_NV.shape[1])
    return g_N.float()[:, None] / T * (chosen_NV - p_NV)
