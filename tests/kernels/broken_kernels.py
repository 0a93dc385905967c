"""Kernels with one mistake each, for `test_harness_catches.py`.

The names say what is wrong. Each has the signature of the right kernel of
`kernels/softmax.py`, `rms_norm.py` or `sinkhorn.py` that it stands in for.
"""

from typing import Any

from kernels import sinkhorn
from kernels.language import jit, tl


@jit
def no_mask_on_the_load(x_ptr, y_ptr, x_stride, y_stride, N, BLOCK: tl.constexpr):
    r = tl.program_id(0)
    n = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + r * x_stride + n).to(tl.float32)
    e = tl.exp(x - tl.max(x, axis=0))
    tl.store(y_ptr + r * y_stride + n, e / tl.sum(e, axis=0), mask=n < N)


@jit
def no_mask_on_the_store(x_ptr, y_ptr, x_stride, y_stride, N, BLOCK: tl.constexpr):
    r = tl.program_id(0)
    n = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + r * x_stride + n, mask=n < N, other=float("-inf"))
    e = tl.exp(x.to(tl.float32) - tl.max(x.to(tl.float32), axis=0))
    tl.store(y_ptr + r * y_stride + n, e / tl.sum(e, axis=0))


@jit
def no_maximum(x_ptr, y_ptr, x_stride, y_stride, N, BLOCK: tl.constexpr):
    r = tl.program_id(0)
    n = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + r * x_stride + n, mask=n < N, other=float("-inf"))
    e = tl.exp(x.to(tl.float32))
    tl.store(y_ptr + r * y_stride + n, e / tl.sum(e, axis=0), mask=n < N)


@jit
def last_column_forgotten(x_ptr, y_ptr, x_stride, y_stride, N, BLOCK: tl.constexpr):
    r = tl.program_id(0)
    n = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + r * x_stride + n, mask=n < N, other=float("-inf"))
    e = tl.exp(x.to(tl.float32) - tl.max(x.to(tl.float32), axis=0))
    tl.store(y_ptr + r * y_stride + n, e / tl.sum(e, axis=0), mask=n < N - 1)


@jit
def x_as_scratch(x_ptr, y_ptr, x_stride, y_stride, N, BLOCK: tl.constexpr):
    r = tl.program_id(0)
    n = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + r * x_stride + n, mask=n < N, other=float("-inf"))
    x = x.to(tl.float32) - tl.max(x.to(tl.float32), axis=0)
    tl.store(x_ptr + r * x_stride + n, x, mask=n < N)
    e = tl.exp(x)
    tl.store(y_ptr + r * y_stride + n, e / tl.sum(e, axis=0), mask=n < N)


@jit
def rows_taken_as_packed(x_ptr, y_ptr, x_stride, y_stride, N, BLOCK: tl.constexpr):
    r = tl.program_id(0)
    n = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + r * N + n, mask=n < N, other=float("-inf")).to(tl.float32)
    e = tl.exp(x - tl.max(x, axis=0))
    tl.store(y_ptr + r * y_stride + n, e / tl.sum(e, axis=0), mask=n < N)


@jit
def sum_in_bf16(x_ptr, y_ptr, x_stride, y_stride, N, BLOCK: tl.constexpr):
    r = tl.program_id(0)
    n = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + r * x_stride + n, mask=n < N, other=float("-inf"))
    biggest = tl.max(x.to(tl.float32), axis=0)
    e = tl.exp(x.to(tl.float32) - biggest)
    total = 0.0
    some = tl.arange(0, 32)
    for k in range(0, N, 32):  # one after another, so that every sum is rounded
        x_k = tl.load(
            x_ptr + r * x_stride + k + some, mask=k + some < N, other=float("-inf")
        )
        total += tl.sum(tl.exp(x_k.to(tl.float32) - biggest), axis=0)
        if x.dtype == tl.bfloat16:
            total = total.to(tl.bfloat16).to(tl.float32)
    tl.store(y_ptr + r * y_stride + n, e / total, mask=n < N)


@jit
def backward_without_the_sum(
    y_ptr, dy_ptr, dx_ptr, y_stride, dy_stride, dx_stride, N, BLOCK: tl.constexpr
):
    r = tl.program_id(0)
    n = tl.arange(0, BLOCK)
    y = tl.load(y_ptr + r * y_stride + n, mask=n < N, other=0.0).to(tl.float32)
    dy = tl.load(dy_ptr + r * dy_stride + n, mask=n < N, other=0.0).to(tl.float32)
    tl.store(dx_ptr + r * dx_stride + n, y * dy, mask=n < N)


@jit
def backward_with_dy_taken_as_packed(
    y_ptr, dy_ptr, dx_ptr, y_stride, dy_stride, dx_stride, N, BLOCK: tl.constexpr
):
    r = tl.program_id(0)
    n = tl.arange(0, BLOCK)
    y = tl.load(y_ptr + r * y_stride + n, mask=n < N, other=0.0).to(tl.float32)
    dy = tl.load(dy_ptr + r * N + n, mask=n < N, other=0.0).to(tl.float32)
    dx = y * (dy - tl.sum(dy * y, axis=0))
    tl.store(dx_ptr + r * dx_stride + n, dx, mask=n < N)


@jit
def backward_sum_in_y_dtype(
    y_ptr, dy_ptr, dx_ptr, y_stride, dy_stride, dx_stride, N, BLOCK: tl.constexpr
):
    r = tl.program_id(0)
    n = tl.arange(0, BLOCK)
    y = tl.load(y_ptr + r * y_stride + n, mask=n < N, other=0.0)
    dy = tl.load(dy_ptr + r * dy_stride + n, mask=n < N, other=0.0)
    total = tl.sum(y, axis=0) * 0
    some = tl.arange(0, 32)
    for k in range(0, N, 32):
        y_k = tl.load(y_ptr + r * y_stride + k + some, mask=k + some < N, other=0.0)
        dy_k = tl.load(dy_ptr + r * dy_stride + k + some, mask=k + some < N, other=0.0)
        total += tl.sum(y_k * dy_k, axis=0)
    dx = y.to(tl.float32) * (dy.to(tl.float32) - total.to(tl.float32))
    tl.store(dx_ptr + r * dx_stride + n, dx, mask=n < N)


@jit
def mean_over_the_block(
    x_ptr, w_ptr, y_ptr, x_stride, y_stride, N, eps, BLOCK: tl.constexpr
):
    r = tl.program_id(0)
    n = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + r * x_stride + n, mask=n < N, other=0.0).to(tl.float32)
    w = tl.load(w_ptr + n, mask=n < N, other=0.0).to(tl.float32)
    rstd = 1.0 / tl.sqrt(tl.sum(x * x, axis=0) / BLOCK + eps)
    tl.store(y_ptr + r * y_stride + n, x * rstd * w, mask=n < N)


@jit
def eps_outside_the_root(
    x_ptr, w_ptr, y_ptr, x_stride, y_stride, N, eps, BLOCK: tl.constexpr
):
    r = tl.program_id(0)
    n = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + r * x_stride + n, mask=n < N, other=0.0).to(tl.float32)
    w = tl.load(w_ptr + n, mask=n < N, other=0.0).to(tl.float32)
    rstd = 1.0 / (tl.sqrt(tl.sum(x * x, axis=0) / N) + eps)
    tl.store(y_ptr + r * y_stride + n, x * rstd * w, mask=n < N)


@jit
def dw_starts_from_unwritten_memory(
    x_ptr, w_ptr, dy_ptr, dx_ptr, partial_ptr, x_stride, dy_stride, dx_stride,
    partial_stride, R, N, eps, BLOCK: tl.constexpr
):  # fmt: skip
    p = tl.program_id(0)
    n = tl.arange(0, BLOCK)
    w = tl.load(w_ptr + n, mask=n < N, other=0.0).to(tl.float32)
    dw = tl.load(partial_ptr + p * partial_stride + n, mask=n < N, other=0.0)
    for r in range(p, R, tl.num_programs(0)):
        x = tl.load(x_ptr + r * x_stride + n, mask=n < N, other=0.0).to(tl.float32)
        dy = tl.load(dy_ptr + r * dy_stride + n, mask=n < N, other=0.0).to(tl.float32)
        rstd = 1.0 / tl.sqrt(tl.sum(x * x, axis=0) / N + eps)
        g = w * dy
        dx = rstd * (g - x * rstd * rstd * (tl.sum(g * x, axis=0) / N))
        tl.store(dx_ptr + r * dx_stride + n, dx, mask=n < N)
        dw += dy * x * rstd
    tl.store(partial_ptr + p * partial_stride + n, dw, mask=n < N)


@jit
def dw_rounded_to_bf16_after_every_row(
    x_ptr, w_ptr, dy_ptr, dx_ptr, partial_ptr, x_stride, dy_stride, dx_stride,
    partial_stride, R, N, eps, BLOCK: tl.constexpr
):  # fmt: skip
    p = tl.program_id(0)
    n = tl.arange(0, BLOCK)
    w = tl.load(w_ptr + n, mask=n < N, other=0.0)
    dw = w.to(tl.float32) * 0
    for r in range(p, R, tl.num_programs(0)):
        x = tl.load(x_ptr + r * x_stride + n, mask=n < N, other=0.0).to(tl.float32)
        dy = tl.load(dy_ptr + r * dy_stride + n, mask=n < N, other=0.0).to(tl.float32)
        rstd = 1.0 / tl.sqrt(tl.sum(x * x, axis=0) / N + eps)
        g = w.to(tl.float32) * dy
        dx = rstd * (g - x * rstd * rstd * (tl.sum(g * x, axis=0) / N))
        tl.store(dx_ptr + r * dx_stride + n, dx, mask=n < N)
        dw += dy * x * rstd
        if w.dtype == tl.bfloat16:
            dw = dw.to(tl.bfloat16).to(tl.float32)
    tl.store(partial_ptr + p * partial_stride + n, dw, mask=n < N)


class GridOffBy:
    """A right kernel, launched with some programs too many or too some."""

    def __init__(self, kernel: Any, programs: int) -> None:
        self.kernel, self.programs = kernel, programs

    def __getitem__(self, grid: tuple[int]) -> Any:
        return self.kernel[(grid[0] + self.programs,)]


@jit
def rows_divided_first(
    logits_ptr, out_ptr, i_stride, j_stride, out_i_stride, out_j_stride,
    n, M, iterations, m_stride: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    m = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[None, None, :]
    i, j = tl.arange(0, N)[:, None, None], tl.arange(0, N)[None, :, None]
    inside = (i < n) & (j < n) & (m < M)
    identity = tl.where(i == j, 0.0, float("-inf"))
    at = i * i_stride + j * j_stride + m * m_stride
    P = tl.exp(tl.load(logits_ptr + at, mask=inside, other=identity))
    for _ in range(iterations):
        P /= tl.sum(P, axis=1)[:, None, :]
        P /= tl.sum(P, axis=0)[None, :, :]
    tl.store(out_ptr + i * out_i_stride + j * out_j_stride + m, P, mask=inside)


@jit
def tokens_beyond_the_last_written(
    logits_ptr, out_ptr, i_stride, j_stride, out_i_stride, out_j_stride,
    n, M, iterations, m_stride: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    m = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[None, None, :]
    i, j = tl.arange(0, N)[:, None, None], tl.arange(0, N)[None, :, None]
    inside = (i < n) & (j < n)
    identity = tl.where(i == j, 0.0, float("-inf"))
    at = i * i_stride + j * j_stride + m * m_stride
    logits = tl.load(logits_ptr + at, mask=inside & (m < M), other=identity)
    P = sinkhorn._iterate(sinkhorn._first_iteration(logits), iterations - 1)
    tl.store(out_ptr + i * out_i_stride + j * out_j_stride + m, P, mask=inside)


@jit
def backward_with_the_last_iterate_for_all(
    logits_ptr, dout_ptr, dlogits_ptr, i_stride, j_stride, dout_i_stride,
    dout_j_stride, out_i_stride, out_j_stride, n, M, m_stride: tl.constexpr,
    dout_m_stride: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr,
    EARLIER: tl.constexpr, LAST: tl.constexpr, STEPS: tl.constexpr
):  # fmt: skip
    m = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[None, None, :]
    i, j = tl.arange(0, N)[:, None, None], tl.arange(0, N)[None, :, None]
    inside = (i < n) & (j < n) & (m < M)
    identity = tl.where(i == j, 0.0, float("-inf"))
    at = i * i_stride + j * j_stride + m * m_stride
    logits = tl.load(logits_ptr + at, mask=inside, other=identity)
    at = i * dout_i_stride + j * dout_j_stride + m * dout_m_stride
    dout = tl.load(dout_ptr + at, mask=inside, other=0.0)
    P = sinkhorn._iterate(sinkhorn._first_iteration(logits), EARLIER + LAST)
    G = P * dout
    for _ in range(EARLIER + LAST + 1):
        G -= P * tl.sum(G, axis=1)[:, None, :]
        G -= P * tl.sum(G, axis=0)[None, :, :]
    tl.store(dlogits_ptr + i * out_i_stride + j * out_j_stride + m, G, mask=inside)
