"""Lab 04a's kernel exercise, 4.K, and the mistakes it expects."""
# mypy: allow-untyped-defs

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from kernels.language import jit, tl
from labs.lab_04a import kernels_ours as ours
from labsupport.exercise import Exercise, WrongAnswer, expect_close


def numbers(n: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, generator=generator)


def stats_probes() -> Sequence[tuple[Tensor, Tensor]]:
    """One block; several, the last one not full; one number alone."""
    return [
        (numbers(n, seed=n), numbers(n, seed=n + 1)) for n in (16, 37, 50, 1)
    ]


def by_hand(candidate: Callable[..., Any]) -> None:
    g, e = torch.tensor([1.0, 2.0, -3.0]), torch.tensor([0.5, -4.0, 0.0])
    u, _, square_B = candidate(g, e)
    asked = "g = [1, 2, -3], e = [0.5, -4, 0]"
    expect_close(
        u, torch.tensor([1.5, -2.0, -3.0]), f"{asked}: u in e's place"
    )
    expect_close(square_B, torch.tensor([15.25]), f"{asked}: sum of u^2")


def every_probe(candidate: Callable[..., Any]) -> None:
    for g, e in stats_probes():
        u, g_after, square_B = candidate(g, e)
        asked = f"{len(g)} numbers"
        right_n = g.double() + e.double()
        expect_close(u, right_n.float(), f"{asked}: u in e's place")
        each = [block.square().sum() for block in right_n.split(ours.BLOCK)]
        wanted_B = torch.stack(each).float()
        expect_close(square_B, wanted_B, f"{asked}: sum of u^2 of each block")
        expect_close(g_after, g, f"{asked}: g left as it was")


@jit
def not_squared(g_ptr, e_ptr, square_ptr, n, BLOCK: tl.constexpr):
    b = tl.program_id(0)
    i = b * BLOCK + tl.arange(0, BLOCK)
    g = tl.load(g_ptr + i, mask=i < n, other=0.0)
    u = g + tl.load(e_ptr + i, mask=i < n, other=0.0)
    tl.store(e_ptr + i, u, mask=i < n)
    tl.store(square_ptr + b, tl.sum(u, axis=0))


@jit
def square_of_sum(g_ptr, e_ptr, square_ptr, n, BLOCK: tl.constexpr):
    b = tl.program_id(0)
    i = b * BLOCK + tl.arange(0, BLOCK)
    g = tl.load(g_ptr + i, mask=i < n, other=0.0)
    u = g + tl.load(e_ptr + i, mask=i < n, other=0.0)
    tl.store(e_ptr + i, u, mask=i < n)
    total = tl.sum(u, axis=0)
    tl.store(square_ptr + b, total * total)


@jit
def squares_of_g(g_ptr, e_ptr, square_ptr, n, BLOCK: tl.constexpr):
    b = tl.program_id(0)
    i = b * BLOCK + tl.arange(0, BLOCK)
    g = tl.load(g_ptr + i, mask=i < n, other=0.0)
    u = g + tl.load(e_ptr + i, mask=i < n, other=0.0)
    tl.store(e_ptr + i, u, mask=i < n)
    tl.store(square_ptr + b, tl.sum(g * g, axis=0))


@jit
def squares_apart(g_ptr, e_ptr, square_ptr, n, BLOCK: tl.constexpr):
    b = tl.program_id(0)
    i = b * BLOCK + tl.arange(0, BLOCK)
    g = tl.load(g_ptr + i, mask=i < n, other=0.0)
    e = tl.load(e_ptr + i, mask=i < n, other=0.0)
    tl.store(e_ptr + i, g + e, mask=i < n)
    tl.store(square_ptr + b, tl.sum(g * g + e * e, axis=0))


@jit
def added_twice(g_ptr, e_ptr, square_ptr, n, BLOCK: tl.constexpr):
    b = tl.program_id(0)
    i = b * BLOCK + tl.arange(0, BLOCK)
    g = tl.load(g_ptr + i, mask=i < n, other=0.0)
    u = g + tl.load(e_ptr + i, mask=i < n, other=0.0)
    tl.store(e_ptr + i, u, mask=i < n)
    again = g + tl.load(e_ptr + i, mask=i < n, other=0.0)
    tl.store(square_ptr + b, tl.sum(again * again, axis=0))


@jit
def not_written(g_ptr, e_ptr, square_ptr, n, BLOCK: tl.constexpr):
    b = tl.program_id(0)
    i = b * BLOCK + tl.arange(0, BLOCK)
    g = tl.load(g_ptr + i, mask=i < n, other=0.0)
    u = g + tl.load(e_ptr + i, mask=i < n, other=0.0)
    tl.store(square_ptr + b, tl.sum(u * u, axis=0))


@jit
def written_over_g(g_ptr, e_ptr, square_ptr, n, BLOCK: tl.constexpr):
    b = tl.program_id(0)
    i = b * BLOCK + tl.arange(0, BLOCK)
    g = tl.load(g_ptr + i, mask=i < n, other=0.0)
    u = g + tl.load(e_ptr + i, mask=i < n, other=0.0)
    tl.store(g_ptr + i, u, mask=i < n)
    tl.store(square_ptr + b, tl.sum(u * u, axis=0))


@jit
def one_place(g_ptr, e_ptr, square_ptr, n, BLOCK: tl.constexpr):
    b = tl.program_id(0)
    i = b * BLOCK + tl.arange(0, BLOCK)
    g = tl.load(g_ptr + i, mask=i < n, other=0.0)
    u = g + tl.load(e_ptr + i, mask=i < n, other=0.0)
    tl.store(e_ptr + i, u, mask=i < n)
    tl.store(square_ptr, tl.sum(u * u, axis=0))


@jit
def store_unmasked(g_ptr, e_ptr, square_ptr, n, BLOCK: tl.constexpr):
    b = tl.program_id(0)
    i = b * BLOCK + tl.arange(0, BLOCK)
    g = tl.load(g_ptr + i, mask=i < n, other=0.0)
    u = g + tl.load(e_ptr + i, mask=i < n, other=0.0)
    tl.store(e_ptr + i, u)
    tl.store(square_ptr + b, tl.sum(u * u, axis=0))


@jit
def loads_unmasked(g_ptr, e_ptr, square_ptr, n, BLOCK: tl.constexpr):
    b = tl.program_id(0)
    i = b * BLOCK + tl.arange(0, BLOCK)
    u = tl.load(g_ptr + i) + tl.load(e_ptr + i)
    tl.store(e_ptr + i, u, mask=i < n)
    tl.store(square_ptr + b, tl.sum(u * u, axis=0))


@jit
def length_stored(g_ptr, e_ptr, square_ptr, n, BLOCK: tl.constexpr):
    b = tl.program_id(0)
    i = b * BLOCK + tl.arange(0, BLOCK)
    g = tl.load(g_ptr + i, mask=i < n, other=0.0)
    u = g + tl.load(e_ptr + i, mask=i < n, other=0.0)
    tl.store(e_ptr + i, u, mask=i < n)
    tl.store(square_ptr + b, tl.sqrt(tl.sum(u * u, axis=0)))


STATS = Exercise(
    id="4.K",
    title="add the residual, sum the squares",
    minutes=10,
    difficulty=1,
    ours=ours.stats_kernel,
    launch=ours.launch_stats,
    reference=ours.stats,
    checks=(
        ("by hand", by_hand),
        ("full and last blocks, one number", every_probe),
    ),
    probes=stats_probes,
    wrong=(
        WrongAnswer(
            "not squared",
            not_squared,
            "u is added up, not its squares: numbers of both signs cancel.",
            2,
        ),
        WrongAnswer(
            "square of the sum",
            square_of_sum,
            "the sum is squared. Square each number first, then add up.",
            2,
        ),
        WrongAnswer(
            "squares of g",
            squares_of_g,
            "the squares are those of g. They are to be those of u = g + e.",
            2,
        ),
        WrongAnswer(
            "squares apart",
            squares_apart,
            "g and e are squared apart, which leaves out 2 g e: square their sum.",
            2,
        ),
        WrongAnswer(
            "added twice",
            added_twice,
            "e is loaded again after u took its place, so g is added twice: use the "
            "u that you have.",
            3,
        ),
        WrongAnswer(
            "not written",
            not_written,
            "u is never stored: it has to take e's place.",
            3,
        ),
        WrongAnswer(
            "written over g",
            written_over_g,
            "u is stored in g's place. e is what is kept until the next step.",
            3,
        ),
        WrongAnswer(
            "one place for all",
            one_place,
            "all programs store their sum at one place: block b has number b.",
            3,
        ),
        WrongAnswer(
            "store without a mask",
            store_unmasked,
            "u is stored beyond the end, where something else may lie: the store "
            "needs the mask, too.",
            1,
        ),
        WrongAnswer(
            "loads without a mask",
            loads_unmasked,
            "the last block reads beyond the end, and what lies there gets into its "
            "sum: every load and store of a block needs the mask.",
            1,
        ),
        WrongAnswer(
            "length",
            length_stored,
            "the root is taken in each block. Blocks are added up later, and lengths "
            "do not add: store the sum of squares.",
            2,
        ),
    ),
    hints=(
        "Lanes beyond the end have i >= n. Mask them in every load and store of the "
        "block, and let loads give 0.0 there (`other`), which adds nothing.",
        "u is the sum of what lies at g and at e. Square it in registers, then "
        "`tl.sum(..., axis=0)`: one number for the block.",
        "Two stores: u goes where e was, with the mask; the one sum of this block "
        "goes to place b of `square_ptr`, without.",
    ),
)
