"""Our solutions of the Triton primer's kernels, and what they compute.

Shape suffixes: N elements, R rows; a matrix product is a_MK @ b_KN.
"""
# mypy: allow-untyped-defs

from __future__ import annotations

import torch
from torch import Tensor

from kernels.language import cdiv, jit, tl
from labsupport.exercise.kernel import launch_watched, where_kernels_run

BLOCK = 16


@jit
def add_kernel(x_ptr, y_ptr, out_ptr, N, BLOCK: tl.constexpr):
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = n < N
    x = tl.load(x_ptr + n, mask=inside)
    y = tl.load(y_ptr + n, mask=inside)
    tl.store(out_ptr + n, x + y, mask=inside)


def launch_add(kernel, x_N: Tensor, y_N: Tensor) -> Tensor:
    x, y = where_kernels_run(x_N, y_N)
    out_N = torch.full_like(x, float("nan"))
    N = x.numel()
    launch_watched(kernel, (cdiv(N, BLOCK),), x, y, out_N, N, BLOCK=BLOCK)
    return out_N.to(x_N.device)


@jit
def row_sum_kernel(x_ptr, out_ptr, stride, N, BLOCK: tl.constexpr):
    r = tl.program_id(0)
    n = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + r * stride + n, mask=n < N, other=0.0)
    tl.store(out_ptr + r, tl.sum(x, axis=0))


def launch_row_sum(kernel, x_RN: Tensor) -> Tensor:
    (x,) = where_kernels_run(x_RN)
    R, N = x.shape
    out_R = x.new_full((R,), float("nan"))
    launch_watched(kernel, (R,), x, out_R, x.stride(0), N, BLOCK=BLOCK)
    return out_R.to(x_RN.device)


def row_sum(x_RN: Tensor) -> Tensor:
    return x_RN.sum(-1)


@jit
def softmax_kernel(x_ptr, out_ptr, stride, N, BLOCK: tl.constexpr):
    r = tl.program_id(0)
    n = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + r * stride + n, mask=n < N, other=float("-inf"))
    e = tl.exp(x - tl.max(x, axis=0))
    tl.store(out_ptr + r * N + n, e / tl.sum(e, axis=0), mask=n < N)


def launch_softmax(kernel, x_RN: Tensor) -> Tensor:
    (x,) = where_kernels_run(x_RN)
    R, N = x.shape
    out_RN = x.new_full((R, N), float("nan"))
    launch_watched(kernel, (R,), x, out_RN, x.stride(0), N, BLOCK=BLOCK)
    return out_RN.to(x_RN.device)


def softmax(x_RN: Tensor) -> Tensor:
    return x_RN.softmax(-1)


@jit
def matmul_kernel(a_ptr, b_ptr, c_ptr, M, N, K, TILE: tl.constexpr):
    m = tl.program_id(0) * TILE + tl.arange(0, TILE)[:, None]
    n = tl.program_id(1) * TILE + tl.arange(0, TILE)[None, :]
    step = tl.arange(0, TILE)
    total = tl.zeros((TILE, TILE), dtype=tl.float32)
    for first in range(0, K, TILE):
        k = first + step
        a = tl.load(
            a_ptr + m * K + k[None, :],
            mask=(m < M) & (k[None, :] < K),
            other=0.0,
        )
        b = tl.load(
            b_ptr + k[:, None] * N + n,
            mask=(k[:, None] < K) & (n < N),
            other=0.0,
        )
        total = tl.dot(a, b, total)
    tl.store(c_ptr + m * N + n, total, mask=(m < M) & (n < N))


def launch_matmul(kernel, a_MK: Tensor, b_KN: Tensor) -> Tensor:
    a, b = where_kernels_run(a_MK, b_KN)
    (M, K), N = a.shape, b.shape[1]
    c_MN = torch.full((M, N), float("nan"), device=a.device)
    grid = (cdiv(M, BLOCK), cdiv(N, BLOCK))
    launch_watched(kernel, grid, a, b, c_MN, M, N, K, TILE=BLOCK)
    return c_MN.to(a_MK.device)


def matmul(a_MK: Tensor, b_KN: Tensor) -> Tensor:
    return a_MK.float() @ b_KN.float()


@jit
def histogram_kernel(x_ptr, counts_ptr, N, BLOCK: tl.constexpr):
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = n < N
    bin = tl.load(x_ptr + n, mask=inside, other=0)
    tl.atomic_add(counts_ptr + bin, 1, mask=inside)


def launch_histogram(kernel, x_N: Tensor) -> Tensor:
    (x,) = where_kernels_run(x_N)
    counts = torch.zeros(8, dtype=torch.int32, device=x.device)
    N = x.numel()
    grid = (cdiv(N, BLOCK),)
    partly = ("counts_ptr",)
    launch_watched(kernel, grid, x, counts, N, partly=partly, BLOCK=BLOCK)
    return counts.to(x_N.device)


def histogram(x_N: Tensor) -> Tensor:
    return torch.bincount(x_N.long(), minlength=8).int()


def softmax_backward(y_RN: Tensor, dy_RN: Tensor) -> Tensor:
    """The gradient of the loss by softmax's input, from y and dy."""
    return y_RN * (dy_RN - (dy_RN * y_RN).sum(-1, keepdim=True))
