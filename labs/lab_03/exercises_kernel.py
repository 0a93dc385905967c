"""Lab 03's kernel exercise, 3.K, and the mistakes it expects."""
# mypy: allow-untyped-defs

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from kernels.float8 import E4M3
from kernels.language import jit, tl
from labs.lab_03 import kernels_ours as ours
from labsupport.exercise import Exercise, WrongAnswer, expect_close


def rows(M: int, K: int, seed: int = 0) -> Tensor:
    """Rows of very different sizes, the second one negative."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((M, K), generator=generator)
    x = x * torch.logspace(-4, 4, M)[:, None]
    if M > 1:
        x[1] = -x[1].abs()
    return x


def scale_probes() -> Sequence[tuple[Tensor]]:
    """Whole tiles; a last one that is not full; a tile of zeros; one number."""
    zeros = rows(2, 32, seed=3)
    zeros[0, :16] = 0.0
    return [(rows(3, 32),), (rows(3, 37, seed=1),), (zeros,), (rows(1, 1),)]


def by_hand(candidate: Callable[..., Any]) -> None:
    """A tile whose largest number is -224: the scale is a half."""
    x = torch.zeros(1, 16)
    x[0, :3] = torch.tensor([-224.0, 7.0, 0.25])
    q = torch.zeros(1, 16)
    q[0, :3] = torch.tensor([-448.0, 14.0, 0.5])
    wanted = (q, torch.tensor([[0.5]]))
    expect_close(candidate(x), wanted, "-224, 7, 0.25 and zeros")


def every_probe(candidate: Callable[..., Any]) -> None:
    """Scales are close, numbers come back to a sixteenth: a GPU's division may be
    off by a bit, and then a code by one."""
    for (x_MK,) in scale_probes():
        q, scale = candidate(x_MK.clone())
        _, wanted = ours.quantise(x_MK)
        asked = f"{x_MK.shape[0]} rows of {x_MK.shape[1]}"
        expect_close(
            scale / wanted, torch.ones_like(wanted), f"{asked}: scales"
        )
        each = scale.repeat_interleave(ours.TILE, dim=1)[:, : x_MK.shape[1]]
        back, size = q.float() * each, (448 * each)
        right = x_MK / size
        expect_close(back / size, right, f"{asked}: numbers", tolerance=0.04)
    expect_close(
        q.float(),
        torch.full((1, 1), E4M3.largest),
        "one number alone: its code",
    )


@jit
def no_abs(x_ptr, q_ptr, scale_ptr, K, J, T: tl.constexpr):
    m, j = tl.program_id(0), tl.program_id(1)
    k = j * T + tl.arange(0, T)
    x = tl.load(x_ptr + m * K + k, mask=k < K, other=0.0)
    scale = tl.maximum(tl.max(x, axis=0) / 448.0, 2.0**-126)
    q = (x / scale).to(tl.float8e4nv)
    tl.store(q_ptr + m * K + k, q, mask=k < K)
    tl.store(scale_ptr + m * J + j, scale)


@jit
def no_floor(x_ptr, q_ptr, scale_ptr, K, J, T: tl.constexpr):
    m, j = tl.program_id(0), tl.program_id(1)
    k = j * T + tl.arange(0, T)
    x = tl.load(x_ptr + m * K + k, mask=k < K, other=0.0)
    scale = tl.max(tl.abs(x), axis=0) / 448.0
    q = (x / scale).to(tl.float8e4nv)
    tl.store(q_ptr + m * K + k, q, mask=k < K)
    tl.store(scale_ptr + m * J + j, scale)


@jit
def times_scale(x_ptr, q_ptr, scale_ptr, K, J, T: tl.constexpr):
    m, j = tl.program_id(0), tl.program_id(1)
    k = j * T + tl.arange(0, T)
    x = tl.load(x_ptr + m * K + k, mask=k < K, other=0.0)
    scale = tl.maximum(tl.max(tl.abs(x), axis=0) / 448.0, 2.0**-126)
    q = (x * scale).to(tl.float8e4nv)
    tl.store(q_ptr + m * K + k, q, mask=k < K)
    tl.store(scale_ptr + m * J + j, scale)


@jit
def inverse_scale(x_ptr, q_ptr, scale_ptr, K, J, T: tl.constexpr):
    m, j = tl.program_id(0), tl.program_id(1)
    k = j * T + tl.arange(0, T)
    x = tl.load(x_ptr + m * K + k, mask=k < K, other=0.0)
    scale = 448.0 / tl.maximum(tl.max(tl.abs(x), axis=0), 2.0**-118)
    q = (x * scale).to(tl.float8e4nv)
    tl.store(q_ptr + m * K + k, q, mask=k < K)
    tl.store(scale_ptr + m * J + j, scale)


@jit
def amax_stored(x_ptr, q_ptr, scale_ptr, K, J, T: tl.constexpr):
    m, j = tl.program_id(0), tl.program_id(1)
    k = j * T + tl.arange(0, T)
    x = tl.load(x_ptr + m * K + k, mask=k < K, other=0.0)
    amax = tl.maximum(tl.max(tl.abs(x), axis=0), 2.0**-118)
    q = (x / amax * 448.0).to(tl.float8e4nv)
    tl.store(q_ptr + m * K + k, q, mask=k < K)
    tl.store(scale_ptr + m * J + j, amax)


@jit
def not_divided(x_ptr, q_ptr, scale_ptr, K, J, T: tl.constexpr):
    m, j = tl.program_id(0), tl.program_id(1)
    k = j * T + tl.arange(0, T)
    x = tl.load(x_ptr + m * K + k, mask=k < K, other=0.0)
    scale = tl.maximum(tl.max(tl.abs(x), axis=0) / 448.0, 2.0**-126)
    tl.store(q_ptr + m * K + k, x.to(tl.float8e4nv), mask=k < K)
    tl.store(scale_ptr + m * J + j, scale)


@jit
def scale_of_the_row(x_ptr, q_ptr, scale_ptr, K, J, T: tl.constexpr):
    m, j = tl.program_id(0), tl.program_id(1)
    k = j * T + tl.arange(0, T)
    x = tl.load(x_ptr + m * K + k, mask=k < K, other=0.0)
    scale = tl.maximum(tl.max(tl.abs(x), axis=0) / 448.0, 2.0**-126)
    q = (x / scale).to(tl.float8e4nv)
    tl.store(q_ptr + m * K + k, q, mask=k < K)
    tl.store(scale_ptr + m, scale)


SCALE = Exercise(
    id="3.K",
    title="the largest number of a tile",
    minutes=10,
    difficulty=2,
    ours=ours.quantise_kernel,
    launch=ours.launch_quantise,
    reference=ours.quantise,
    checks=(
        ("by hand", by_hand),
        ("full and last tiles, zeros, one number", every_probe),
    ),
    probes=scale_probes,
    wrong=(
        WrongAnswer(
            "no abs",
            no_abs,
            "the largest number is taken, not the largest size: in a tile of negative "
            "numbers the scale comes out far too small.",
            1,
        ),
        WrongAnswer(
            "no floor",
            no_floor,
            "a tile of zeros has the scale 0, and 0 / 0 is NaN: take the maximum of "
            "the scale and 2.0**-126.",
            2,
        ),
        WrongAnswer(
            "times scale",
            times_scale,
            "numbers are multiplied by the scale. Divide, so that the largest becomes "
            "448.",
            2,
        ),
        WrongAnswer(
            "inverse scale",
            inverse_scale,
            "448 / amax is stored. The scale is what a code is multiplied by to get "
            "the number back: amax / 448.",
            2,
        ),
        WrongAnswer(
            "amax stored",
            amax_stored,
            "the largest size itself is stored as the scale: divide it by 448.",
            2,
        ),
        WrongAnswer(
            "not divided",
            not_divided,
            "the scale is computed but not used: divide x by it before the cast.",
            2,
        ),
        WrongAnswer(
            "scale of the row",
            scale_of_the_row,
            "all tiles of a row store their scale at one place: row m has J scales, "
            "and this tile's is number j.",
            3,
        ),
    ),
    hints=(
        "`tl.abs(x)`, then `tl.max(..., axis=0)`: lanes beyond the row hold 0, which "
        "is never the largest size.",
        "The scale is amax / 448.0, at least 2.0**-126 (`tl.maximum`). The code is "
        "x / scale, cast with `.to(tl.float8e4nv)`.",
        "Codes go to `q_ptr + m * K + k`, with the mask. The one scale of this tile "
        "goes to `scale_ptr + m * J + j`, without.",
    ),
)
