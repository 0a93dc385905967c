"""The exercises of the Triton primer, T.1 to T.6, and the mistakes they expect."""
# mypy: allow-untyped-defs

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from kernels.language import jit, tl
from labs.lab_triton import kernels_ours as ours
from labsupport.exercise import Exercise, WrongAnswer
from labsupport.exercise.check import CheckFailed, same_as

Probes = Sequence[tuple[Tensor, ...]]


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(shape, generator=generator)


# --- T.1 add -----------------------------------------------------------------


def add_probes() -> Probes:
    """One block, several, and a last one that is not full."""
    return [(random(N), random(N, seed=1)) for N in (16, 32, 37, 1)]


@jit
def add_without_mask(x_ptr, y_ptr, out_ptr, N, BLOCK: tl.constexpr):
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + n, tl.load(x_ptr + n) + tl.load(y_ptr + n))


@jit
def add_same_block(x_ptr, y_ptr, out_ptr, N, BLOCK: tl.constexpr):
    n = tl.arange(0, BLOCK)
    inside = n < N
    x = tl.load(x_ptr + n, mask=inside)
    tl.store(out_ptr + n, x + tl.load(y_ptr + n, mask=inside), mask=inside)


@jit
def add_one_off(x_ptr, y_ptr, out_ptr, N, BLOCK: tl.constexpr):
    n = (tl.program_id(0) + 1) * BLOCK + tl.arange(0, BLOCK)
    inside = n < N
    x = tl.load(x_ptr + n, mask=inside)
    tl.store(out_ptr + n, x + tl.load(y_ptr + n, mask=inside), mask=inside)


ADD = Exercise(
    id="T.1",
    title="add two vectors",
    minutes=5,
    difficulty=1,
    ours=ours.add_kernel,
    launch=ours.launch_add,
    reference=torch.add,
    checks=(("vectors of 16, 32, 37 and 1", same_as(torch.add, add_probes)),),
    probes=add_probes,
    wrong=(
        WrongAnswer(
            "missing mask",
            add_without_mask,
            "the mask is missing: the last program's lanes go past the end.",
            2,
        ),
        WrongAnswer(
            "same block",
            add_same_block,
            "tl.program_id is missing: every program works on the first block.",
            1,
        ),
        WrongAnswer(
            "off by one",
            add_one_off,
            "programs are counted from 0, so program 0 owns the first block.",
            1,
        ),
    ),
    hints=(
        "Program p owns elements p * BLOCK to (p + 1) * BLOCK - 1: "
        "n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK).",
        "The last block may reach past N: give mask=n < N to both loads and to "
        "the store.",
        "tl.store(out_ptr + n, x + y, mask=n < N)",
    ),
)

# --- T.2 row sum -------------------------------------------------------------


def row_probes() -> Probes:
    """Rows side by side, rows with a gap between them, one short row."""
    return [(random(3, 16),), (random(4, 26)[:, :13],), (random(2, 1),)]


@jit
def row_sum_wrong_stride(x_ptr, out_ptr, stride, N, BLOCK: tl.constexpr):
    r = tl.program_id(0)
    n = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + r * N + n, mask=n < N, other=0.0)
    tl.store(out_ptr + r, tl.sum(x, axis=0))


@jit
def row_sum_without_mask(x_ptr, out_ptr, stride, N, BLOCK: tl.constexpr):
    r = tl.program_id(0)
    x = tl.load(x_ptr + r * stride + tl.arange(0, BLOCK))
    tl.store(out_ptr + r, tl.sum(x, axis=0))


@jit
def row_mean(x_ptr, out_ptr, stride, N, BLOCK: tl.constexpr):
    r = tl.program_id(0)
    n = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + r * stride + n, mask=n < N, other=0.0)
    tl.store(out_ptr + r, tl.sum(x, axis=0) / N)


ROW_SUM = Exercise(
    id="T.2",
    title="sum each row",
    minutes=5,
    difficulty=1,
    ours=ours.row_sum_kernel,
    launch=ours.launch_row_sum,
    reference=ours.row_sum,
    checks=(
        ("full, strided and short rows", same_as(ours.row_sum, row_probes)),
    ),
    probes=row_probes,
    wrong=(
        WrongAnswer(
            "wrong stride",
            row_sum_wrong_stride,
            "rows are `stride` elements apart, not N: a slice of a wider matrix "
            "has gaps.",
            1,
        ),
        WrongAnswer(
            "missing mask",
            row_sum_without_mask,
            "the mask is missing: a short row's lanes read its neighbour.",
            2,
        ),
        WrongAnswer("mean", row_mean, "divided by N: a sum was asked for.", 3),
    ),
    hints=(
        "Row r begins at x_ptr + r * stride.",
        "Lanes beyond N must add nothing: mask=n < N, other=0.0.",
        "tl.sum(x, axis=0) is one number; store it at out_ptr + r, without a mask.",
    ),
)

# --- T.3 softmax -------------------------------------------------------------


def softmax_probes() -> Probes:
    """Besides the shapes of T.2, scores so large that exp overflows."""
    return [
        *row_probes(),
        (random(2, 9, scale=100.0) - 400.0,),
        (random(2, 5) + 200,),
    ]


@jit
def softmax_no_maximum(x_ptr, out_ptr, stride, N, BLOCK: tl.constexpr):
    r = tl.program_id(0)
    n = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + r * stride + n, mask=n < N, other=float("-inf"))
    e = tl.exp(x)
    tl.store(out_ptr + r * N + n, e / tl.sum(e, axis=0), mask=n < N)


@jit
def softmax_zero_lanes(x_ptr, out_ptr, stride, N, BLOCK: tl.constexpr):
    r = tl.program_id(0)
    n = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + r * stride + n, mask=n < N, other=0.0)
    e = tl.exp(x - tl.max(x, axis=0))
    tl.store(out_ptr + r * N + n, e / tl.sum(e, axis=0), mask=n < N)


@jit
def softmax_wrong_stride(x_ptr, out_ptr, stride, N, BLOCK: tl.constexpr):
    r = tl.program_id(0)
    n = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + r * N + n, mask=n < N, other=float("-inf"))
    e = tl.exp(x - tl.max(x, axis=0))
    tl.store(out_ptr + r * N + n, e / tl.sum(e, axis=0), mask=n < N)


SOFTMAX = Exercise(
    id="T.3",
    title="softmax of each row",
    minutes=7,
    difficulty=2,
    ours=ours.softmax_kernel,
    launch=ours.launch_softmax,
    reference=ours.softmax,
    checks=(
        ("rows, gaps, large scores", same_as(ours.softmax, softmax_probes)),
    ),
    probes=softmax_probes,
    wrong=(
        WrongAnswer(
            "no maximum",
            softmax_no_maximum,
            "exp overflows on large scores: subtract the row's maximum first.",
            1,
        ),
        WrongAnswer(
            "zero lanes",
            softmax_zero_lanes,
            "lanes beyond the row hold 0 and count as scores; exp(-inf) is what "
            "adds nothing.",
            2,
        ),
        WrongAnswer(
            "wrong stride",
            softmax_wrong_stride,
            "x's rows are `stride` elements apart; only out's are N apart.",
            3,
        ),
    ),
    hints=(
        "Subtract tl.max(x, axis=0), take tl.exp, divide by the tl.sum of that.",
        'Load with other=float("-inf"): it is no maximum, and its exp is 0.',
        "Read at x_ptr + r * stride + n, write at out_ptr + r * N + n.",
    ),
)

# --- T.4 one tile of a matrix product ----------------------------------------


def matmul_probes() -> Probes:
    """float16, one tile exactly, and sizes that fill no tile. Large sums."""
    shapes = [(16, 16, 16), (20, 18, 35), (5, 3, 70)]
    return [
        ((random(M, K) + 4).half(), (random(K, N, seed=1) + 4).half())
        for M, N, K in shapes
    ]


@jit
def matmul_in_half(a_ptr, b_ptr, c_ptr, M, N, K, TILE: tl.constexpr):
    m = tl.program_id(0) * TILE + tl.arange(0, TILE)[:, None]
    n = tl.program_id(1) * TILE + tl.arange(0, TILE)[None, :]
    step = tl.arange(0, TILE)
    total = tl.zeros((TILE, TILE), dtype=tl.float16)
    for first in range(0, K, TILE):
        k = first + step
        inside = (m < M) & (k[None, :] < K)
        a = tl.load(a_ptr + m * K + k[None, :], mask=inside, other=0.0)
        inside = (k[:, None] < K) & (n < N)
        b = tl.load(b_ptr + k[:, None] * N + n, mask=inside, other=0.0)
        total += tl.dot(a, b).to(tl.float16)
    tl.store(c_ptr + m * N + n, total, mask=(m < M) & (n < N))


@jit
def matmul_first_tile(a_ptr, b_ptr, c_ptr, M, N, K, TILE: tl.constexpr):
    m = tl.program_id(0) * TILE + tl.arange(0, TILE)[:, None]
    n = tl.program_id(1) * TILE + tl.arange(0, TILE)[None, :]
    k = tl.arange(0, TILE)
    total = tl.zeros((TILE, TILE), dtype=tl.float32)
    for _ in range(0, K, TILE):
        inside = (m < M) & (k[None, :] < K)
        a = tl.load(a_ptr + m * K + k[None, :], mask=inside, other=0.0)
        inside = (k[:, None] < K) & (n < N)
        b = tl.load(b_ptr + k[:, None] * N + n, mask=inside, other=0.0)
        total = tl.dot(a, b, total)
    tl.store(c_ptr + m * N + n, total, mask=(m < M) & (n < N))


@jit
def matmul_open_edge(a_ptr, b_ptr, c_ptr, M, N, K, TILE: tl.constexpr):
    m = tl.program_id(0) * TILE + tl.arange(0, TILE)[:, None]
    n = tl.program_id(1) * TILE + tl.arange(0, TILE)[None, :]
    step = tl.arange(0, TILE)
    total = tl.zeros((TILE, TILE), dtype=tl.float32)
    for first in range(0, K, TILE):
        k = first + step
        a = tl.load(a_ptr + m * K + k[None, :], mask=m < M, other=0.0)
        b = tl.load(b_ptr + k[:, None] * N + n, mask=n < N, other=0.0)
        total = tl.dot(a, b, total)
    tl.store(c_ptr + m * N + n, total, mask=(m < M) & (n < N))


MATMUL = Exercise(
    id="T.4",
    title="one tile of a matrix product",
    minutes=10,
    difficulty=3,
    ours=ours.matmul_kernel,
    launch=ours.launch_matmul,
    reference=ours.matmul,
    checks=(("full and ragged tiles", same_as(ours.matmul, matmul_probes)),),
    probes=matmul_probes,
    wrong=(
        WrongAnswer(
            "half accumulator",
            matmul_in_half,
            "the sum is kept in float16, which rounds at every step: keep it in "
            "float32.",
            2,
        ),
        WrongAnswer(
            "first tile",
            matmul_first_tile,
            "k does not move with the loop: the same tile is added each time.",
            1,
        ),
        WrongAnswer(
            "open edge",
            matmul_open_edge,
            "k goes past K in the last step: mask it in both loads.",
            3,
        ),
    ),
    hints=(
        "The k of this step are first + step: load a's columns k and b's rows k.",
        "tl.dot(a, b, total) returns the float32 tile with the product added.",
        "The masks are (m < M) & (k[None, :] < K) and (k[:, None] < K) & (n < N), "
        "with other=0.0.",
    ),
)

# --- T.5 histogram -----------------------------------------------------------


def histogram_probes() -> Probes:
    """Many equal numbers, and a last block that is not full."""
    generator = torch.Generator().manual_seed(0)
    many = torch.randint(0, 8, (50,), generator=generator, dtype=torch.int32)
    return [(many,), (torch.full((16,), 3, dtype=torch.int32),)]


@jit
def histogram_race(x_ptr, counts_ptr, N, BLOCK: tl.constexpr):
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = n < N
    bin = tl.load(x_ptr + n, mask=inside, other=0)
    count = tl.load(counts_ptr + bin, mask=inside)
    tl.store(counts_ptr + bin, count + 1, mask=inside)


@jit
def histogram_without_mask(x_ptr, counts_ptr, N, BLOCK: tl.constexpr):
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    bin = tl.load(x_ptr + n, mask=n < N, other=0)
    tl.atomic_add(counts_ptr + bin, 1)


@jit
def histogram_same_block(x_ptr, counts_ptr, N, BLOCK: tl.constexpr):
    n = tl.arange(0, BLOCK)
    inside = n < N
    bin = tl.load(x_ptr + n, mask=inside, other=0)
    tl.atomic_add(counts_ptr + bin, 1, mask=inside)


HISTOGRAM = Exercise(
    id="T.5",
    title="a histogram without a race",
    minutes=5,
    difficulty=2,
    ours=ours.histogram_kernel,
    launch=ours.launch_histogram,
    reference=ours.histogram,
    checks=(("repeated numbers", same_as(ours.histogram, histogram_probes)),),
    probes=histogram_probes,
    wrong=(
        WrongAnswer(
            "race",
            histogram_race,
            "load, add, store: two lanes with the same bin read the same count, "
            "and one increment is lost.",
            1,
        ),
        WrongAnswer(
            "missing mask",
            histogram_without_mask,
            "lanes beyond N count too: they hold 0, so bin 0 gets too much.",
            2,
        ),
        WrongAnswer(
            "same block",
            histogram_same_block,
            "tl.program_id is missing: every program counts the first block.",
            2,
        ),
    ),
    hints=(
        "tl.atomic_add(pointer, 1) reads, adds and writes in one step that nobody "
        "can interrupt.",
        "It takes a mask, as a store does.",
        "tl.atomic_add(counts_ptr + bin, 1, mask=inside)",
    ),
)

# --- T.6 the backward --------------------------------------------------------


def backward_probes() -> Probes:
    y_RN = random(3, 5).softmax(-1)
    return [(y_RN, random(3, 5, seed=1)), (y_RN[:1, :2], random(1, 2, seed=2))]


class _Joined(torch.autograd.Function):
    """Softmax with somebody's backward, for gradcheck."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, backward: Callable[..., Any]) -> Tensor:
        y = x.softmax(-1)
        ctx.save_for_backward(y)
        ctx.backward_of = backward
        return y

    @staticmethod
    def backward(ctx: Any, *dy: Tensor) -> tuple[Tensor, None]:
        return ctx.backward_of(*ctx.saved_tensors, *dy), None


def check_gradcheck(candidate: Callable[..., Any]) -> None:
    """Against finite differences, in float64."""
    x = random(2, 4).double().requires_grad_()
    try:
        torch.autograd.gradcheck(lambda x: _Joined.apply(x, candidate), (x,))
    except torch.autograd.gradcheck.GradcheckError:
        raise CheckFailed(
            "what finite differences give", "another gradient"
        ) from None


BACKWARD = Exercise(
    id="T.6",
    title="softmax's backward",
    minutes=8,
    difficulty=2,
    ours=ours.softmax_backward,
    checks=(
        ("random inputs", same_as(ours.softmax_backward, backward_probes)),
        ("gradcheck", check_gradcheck),
    ),
    probes=backward_probes,
    wrong=(
        WrongAnswer(
            "diagonal",
            lambda y, dy: y * (1 - y) * dy,
            "that is the diagonal alone: every output depends on every input of "
            "its row.",
            1,
        ),
        WrongAnswer(
            "whole sum",
            lambda y, dy: y * (dy - (dy * y).sum()),
            "the sum runs over the whole matrix; each row has its own.",
            2,
        ),
        WrongAnswer(
            "no weights",
            lambda y, dy: y * (dy - dy.sum(-1, keepdim=True)),
            "the sum is over dy * y, not over dy.",
            1,
        ),
    ),
    hints=(
        "dx_n = y_n (dy_n - sum over k of dy_k y_k).",
        "(dy_RN * y_RN).sum(-1, keepdim=True) has one number a row.",
        "y_RN * (dy_RN - (dy_RN * y_RN).sum(-1, keepdim=True))",
    ),
)

EXERCISES = (ADD, ROW_SUM, SOFTMAX, MATMUL, HISTOGRAM, BACKWARD)
