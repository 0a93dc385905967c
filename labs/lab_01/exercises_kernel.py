"""Lab 01's kernel exercise, 1.K, and the mistakes it expects."""
# mypy: allow-untyped-defs

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from kernels.language import jit, tl
from kernels.sinkhorn import ITERATIONS, sinkhorn_reference
from labs.lab_01 import kernels_ours as ours
from labsupport.exercise import Exercise, WrongAnswer, expect_close
from labsupport.exercise.check import same_as


def matrices(n: int, M: int, seed: int = 0) -> Tensor:
    """Positive numbers, as exp leaves them."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((n, n, M), generator=generator).exp()


def step_probes() -> Sequence[tuple[Tensor, ...]]:
    """One block, several, a last one that is not full, one token alone."""
    return [
        (matrices(n, M, seed=M),)
        for n, M in ((4, 16), (4, 37), (2, 5), (4, 1))
    ]


def step_by_hand(candidate: Callable[..., Any]) -> None:
    """Columns sum to 4 and 6; then rows sum to 7/12 and 17/12."""
    p_nnM = torch.tensor([[1.0, 2.0], [3.0, 4.0]])[:, :, None]
    by_hand = torch.tensor([[3 / 7, 4 / 7], [9 / 17, 8 / 17]])[:, :, None]
    expect_close(candidate(p_nnM), by_hand, "one step on [[1, 2], [3, 4]]")


def twenty_steps(candidate: Callable[..., Any]) -> None:
    """Step after step it becomes what `kernels.sinkhorn` computes at once."""
    p_nnM = matrices(4, 20)
    wanted = sinkhorn_reference(p_nnM.log())
    for _ in range(ITERATIONS):
        p_nnM = candidate(p_nnM)
    expect_close(p_nnM, wanted, f"{ITERATIONS} steps, as mHC takes them")


@jit
def step_rows_first(p_ptr, out_ptr, M, N: tl.constexpr, BLOCK: tl.constexpr):
    m = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[None, None, :]
    i = tl.arange(0, N)[:, None, None]
    j = tl.arange(0, N)[None, :, None]
    at = (i * N + j) * M + m
    p = tl.load(p_ptr + at, mask=m < M, other=1.0)
    p = p / tl.sum(p, axis=1)[:, None, :]
    p = p / tl.sum(p, axis=0)[None, :, :]
    tl.store(out_ptr + at, p, mask=m < M)


@jit
def step_old_sums(p_ptr, out_ptr, M, N: tl.constexpr, BLOCK: tl.constexpr):
    m = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[None, None, :]
    i = tl.arange(0, N)[:, None, None]
    j = tl.arange(0, N)[None, :, None]
    at = (i * N + j) * M + m
    p = tl.load(p_ptr + at, mask=m < M, other=1.0)
    columns = tl.sum(p, axis=0)[None, :, :]
    rows = tl.sum(p, axis=1)[:, None, :]
    tl.store(out_ptr + at, p / columns / rows, mask=m < M)


@jit
def step_sums_turned(p_ptr, out_ptr, M, N: tl.constexpr, BLOCK: tl.constexpr):
    m = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[None, None, :]
    i = tl.arange(0, N)[:, None, None]
    j = tl.arange(0, N)[None, :, None]
    at = (i * N + j) * M + m
    p = tl.load(p_ptr + at, mask=m < M, other=1.0)
    p = p / tl.sum(p, axis=0)[:, None, :]
    p = p / tl.sum(p, axis=1)[None, :, :]
    tl.store(out_ptr + at, p, mask=m < M)


@jit
def step_without_mask(p_ptr, out_ptr, M, N: tl.constexpr, BLOCK: tl.constexpr):
    m = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[None, None, :]
    i = tl.arange(0, N)[:, None, None]
    j = tl.arange(0, N)[None, :, None]
    at = (i * N + j) * M + m
    p = tl.load(p_ptr + at)
    p = p / tl.sum(p, axis=0)[None, :, :]
    p = p / tl.sum(p, axis=1)[:, None, :]
    tl.store(out_ptr + at, p)


@jit
def step_without_none(p_ptr, out_ptr, M, N: tl.constexpr, BLOCK: tl.constexpr):
    m = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[None, None, :]
    i = tl.arange(0, N)[:, None, None]
    j = tl.arange(0, N)[None, :, None]
    at = (i * N + j) * M + m
    p = tl.load(p_ptr + at, mask=m < M, other=1.0)
    p = p / tl.sum(p, axis=0)
    p = p / tl.sum(p, axis=1)
    tl.store(out_ptr + at, p, mask=m < M)


@jit
def step_with_exp(p_ptr, out_ptr, M, N: tl.constexpr, BLOCK: tl.constexpr):
    m = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[None, None, :]
    i = tl.arange(0, N)[:, None, None]
    j = tl.arange(0, N)[None, :, None]
    at = (i * N + j) * M + m
    p = tl.exp(tl.load(p_ptr + at, mask=m < M, other=1.0))
    p = p / tl.sum(p, axis=0)[None, :, :]
    p = p / tl.sum(p, axis=1)[:, None, :]
    tl.store(out_ptr + at, p, mask=m < M)


STEP = Exercise(
    id="1.K",
    title="one Sinkhorn step",
    minutes=10,
    difficulty=2,
    ours=ours.sinkhorn_step_kernel,
    launch=ours.launch_sinkhorn_step,
    reference=ours.sinkhorn_step,
    checks=(
        ("by hand", step_by_hand),
        ("full and last blocks", same_as(ours.sinkhorn_step, step_probes)),
        (f"{ITERATIONS} steps", twenty_steps),
    ),
    probes=step_probes,
    wrong=(
        WrongAnswer(
            "rows first",
            step_rows_first,
            "rows are divided before columns. What is divided last sums to one "
            "exactly, and that has to be the rows.",
            1,
        ),
        WrongAnswer(
            "old sums",
            step_old_sums,
            "both sums are of the same matrix: the rows' have to be taken after the "
            "columns have been divided.",
            2,
        ),
        WrongAnswer(
            "sums turned",
            step_sums_turned,
            "each sum goes to the wrong axis: what axis=0 summed up belongs to "
            "columns, so its place is [None, :, :].",
            2,
        ),
        WrongAnswer(
            "None forgotten",
            step_without_none,
            "a sum stands where Triton puts it without None: before the last axes. "
            "For axis=0 that happens to be right; a row's sum needs [:, None, :].",
            2,
        ),
        WrongAnswer(
            "exp once more",
            step_with_exp,
            "p has been through exp already: this step only divides.",
            1,
        ),
        WrongAnswer(
            "missing mask",
            step_without_mask,
            "the mask is missing: the last program goes past the last token, "
            "into the next entry of the matrices.",
            3,
        ),
    ),
    hints=(
        "Columns first: tl.sum(p, axis=0) adds up the rows i and leaves one sum "
        "for each column and token. Then the rows, with axis=1.",
        "A sum has one axis less than p; None puts it back where it was: "
        "[None, :, :] behind a sum over axis 0, [:, None, :] over axis 1. Divide p "
        "by it, and go on with the quotient.",
        "Give mask=m < M to the load and to the store. With other=1.0 the sums of "
        "what lies beyond are not zero.",
    ),
)

EXERCISES = (STEP,)
