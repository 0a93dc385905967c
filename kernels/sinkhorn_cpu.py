"""Sinkhorn-Knopp on a CPU: the kernels' algorithm in plain PyTorch operations.

Labs train on a CPU through this. Autograd through `sinkhorn_reference` keeps
all 2 T iterates and allocates each of them; here one matrix a token is changed
in place, and the backward computes the iterates again from logits, as the
kernels do (`kernels/sinkhorn.py` has the equations and the shapes).

The tokens are worked on in tiles, each too small for torch to share an
operation among threads. There are hundreds of operations of a few microseconds
each, and waiting after each for another thread can take a hundred times as
long where the cores are busy. (For the same reason it is 2^x below: torch shares
e^x among threads from 2048 numbers on.)
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from kernels.operation import refuse_second_derivative

SHARED = 32768
"""Numbers from which on torch shares an operation among threads."""

LOG2_E = math.log2(math.e)


def sinkhorn_on_cpu(logits: Tensor, iterations: int) -> Tensor:
    """`sinkhorn` without its checks, for float32 and float64.

    Args:
        logits: (n, n, M), any strides.
        iterations: T, at least 1.
    """
    out: Tensor = _SinkhornOnCPU.apply(logits, iterations)
    return out


class _SinkhornOnCPU(torch.autograd.Function):
    """Keeps logits only."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, iterations: int) -> Tensor:
        ctx.save_for_backward(logits)
        ctx.iterations = iterations
        out = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
        for part, logits_nnm in zip(tiles(out), tiles(logits), strict=True):
            P_nnm, _ = _iterate(_first_iteration(logits_nnm), iterations - 1)
            part.copy_(P_nnm)
        return out

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, None]:
        refuse_second_derivative("sinkhorn")
        (logits,) = ctx.saved_tensors
        dlogits = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
        parts = zip(tiles(dlogits), tiles(logits), tiles(dout), strict=True)
        for part, logits_nnm, dout_nnm in parts:
            part.copy_(_gradient(logits_nnm, dout_nnm, ctx.iterations))
        return dlogits, None


def tiles(x_nnM: Tensor) -> tuple[Tensor, ...]:
    """Views of m tokens each, of fewer than SHARED numbers."""
    n = x_nnM.shape[0]
    return x_nnM.split((SHARED - 1) // n**2, dim=2)


def _first_iteration(logits_nnm: Tensor) -> Tensor:
    """T_r(T_c(exp(logits))), of which no row can underflow."""
    log2_nnm = (logits_nnm - logits_nnm.amax(0, keepdim=True)).mul_(LOG2_E)
    columns_1nm = log2_nnm.exp2().sum(0, keepdim=True)
    P_nnm = log2_nnm.sub_(log2_nnm.amax(1, keepdim=True)).exp2_().div_(columns_1nm)
    return P_nnm.div_(P_nnm.sum(1, keepdim=True))


def _softmax_over_i(logits_nnm: Tensor) -> Tensor:
    e_nnm = (logits_nnm - logits_nnm.amax(0, keepdim=True)).mul_(LOG2_E).exp2_()
    return e_nnm.div_(e_nnm.sum(0, keepdim=True))


def _iterate(P_nnm: Tensor, steps: int) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Changes P in place; returns it and the sums it was divided by."""
    sums = []
    for _ in range(steps):
        columns_1nm = P_nnm.sum(0, keepdim=True)
        P_nnm.div_(columns_1nm)
        rows_n1m = P_nnm.sum(1, keepdim=True)
        P_nnm.div_(rows_n1m)
        sums.append((columns_1nm, rows_n1m))
    return P_nnm, sums


def _gradient(logits_nnm: Tensor, dout_nnm: Tensor, iterations: int) -> Tensor:
    """G is the gradient by log P, at each step."""
    P_nnm, sums = _iterate(_first_iteration(logits_nnm), iterations - 1)
    G_nnm = P_nnm * dout_nnm
    for columns_1nm, rows_n1m in reversed(sums):
        G_nnm.addcmul_(P_nnm, G_nnm.sum(1, keepdim=True), value=-1)
        P_nnm.mul_(rows_n1m)
        G_nnm.addcmul_(P_nnm, G_nnm.sum(0, keepdim=True), value=-1)
        P_nnm.mul_(columns_1nm)
    G_nnm.addcmul_(P_nnm, G_nnm.sum(1, keepdim=True), value=-1)
    columns_nnm = _softmax_over_i(logits_nnm)
    return G_nnm.addcmul_(columns_nnm, G_nnm.sum(0, keepdim=True), value=-1)
