"""Lab 06's kernel exercise, 6.K, and the mistakes it expects."""
# mypy: allow-untyped-defs

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from kernels.language import jit, tl
from labs.lab_06 import kernels_ours as ours
from labsupport.exercise import Exercise, WrongAnswer, expect_close


def rows(N: int, V: int, seed: int = 0) -> Tensor:
    """z_NV of a few units."""
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn((N, V), generator=generator)


def sloping(V: int) -> Tensor:
    """One row that rises by 400, one that falls: exp of that overflows."""
    rising_V = torch.linspace(-200, 200, V)
    return torch.stack([rising_V, rising_V.flip(0)])


def lse_probes() -> Sequence[tuple[Tensor]]:
    """Full and last blocks, the largest first and last, far from 0, one number."""
    return [
        (rows(3, 37),),
        (rows(2, 16, seed=1),),
        (sloping(50),),
        (rows(2, 40, seed=2) + 200,),
        (rows(2, 40, seed=3) - 200,),
        (rows(1, 1, seed=4),),
    ]


def by_hand(candidate: Callable[..., Any]) -> None:
    """Row 0: 20 times exp(0). Row 1: 16 times 1, in its last block 4 times 5."""
    z_NV = torch.zeros(2, 20)
    z_NV[1, 16:] = torch.tensor(5.0).log()
    asked = (
        "20 zeros, and 16 zeros followed by 4 times log 5: log 20 and log 36"
    )
    expect_close(candidate(z_NV), torch.tensor([20.0, 36.0]).log(), asked)


def every_probe(candidate: Callable[..., Any]) -> None:
    """Against float64."""
    for (z_NV,) in lse_probes():
        N, V = z_NV.shape
        asked = (
            f"{N} rows of {V} logits from {z_NV.min():.0f} to "
            f"{z_NV.max():.0f}: lse"
        )
        wanted_N = z_NV.double().logsumexp(-1).float()
        expect_close(candidate(z_NV.clone()), wanted_N, asked)


@jit
def rescale_forgotten(z_ptr, lse_ptr, V, BLOCK: tl.constexpr):
    n = tl.program_id(0)
    largest = float("-inf")
    total = 0.0
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        z = tl.load(z_ptr + n * V + v, mask=v < V, other=float("-inf"))
        new = tl.maximum(largest, tl.max(z, axis=0))
        total = total + tl.sum(tl.exp(z - new), axis=0)
        largest = new
    tl.store(lse_ptr + n, largest + tl.log(total))


@jit
def rescaled_backwards(z_ptr, lse_ptr, V, BLOCK: tl.constexpr):
    n = tl.program_id(0)
    largest = float("-inf")
    total = 0.0
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        z = tl.load(z_ptr + n * V + v, mask=v < V, other=float("-inf"))
        new = tl.maximum(largest, tl.max(z, axis=0))
        rescaled = total * tl.exp(new - largest)
        total = rescaled + tl.sum(tl.exp(z - new), axis=0)
        largest = new
    tl.store(lse_ptr + n, largest + tl.log(total))


@jit
def last_block_only(z_ptr, lse_ptr, V, BLOCK: tl.constexpr):
    n = tl.program_id(0)
    largest = float("-inf")
    total = 0.0
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        z = tl.load(z_ptr + n * V + v, mask=v < V, other=float("-inf"))
        new = tl.maximum(largest, tl.max(z, axis=0))
        total = tl.sum(tl.exp(z - new), axis=0)
        largest = new
    tl.store(lse_ptr + n, largest + tl.log(total))


@jit
def blocks_own_largest(z_ptr, lse_ptr, V, BLOCK: tl.constexpr):
    n = tl.program_id(0)
    largest = float("-inf")
    total = 0.0
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        z = tl.load(z_ptr + n * V + v, mask=v < V, other=float("-inf"))
        new = tl.max(z, axis=0)
        rescaled = total * tl.exp(largest - new)
        total = rescaled + tl.sum(tl.exp(z - new), axis=0)
        largest = new
    tl.store(lse_ptr + n, largest + tl.log(total))


@jit
def nothing_taken_away(z_ptr, lse_ptr, V, BLOCK: tl.constexpr):
    n = tl.program_id(0)
    total = 0.0
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        z = tl.load(z_ptr + n * V + v, mask=v < V, other=float("-inf"))
        total += tl.sum(tl.exp(z), axis=0)
    tl.store(lse_ptr + n, tl.log(total))


@jit
def largest_too_late(z_ptr, lse_ptr, V, BLOCK: tl.constexpr):
    n = tl.program_id(0)
    largest = float("-inf")
    total = 0.0
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        z = tl.load(z_ptr + n * V + v, mask=v < V, other=float("-inf"))
        new = tl.maximum(largest, tl.max(z, axis=0))
        rescaled = total * tl.exp(largest - new)
        total = rescaled + tl.sum(tl.exp(z - largest), axis=0)
        largest = new
    tl.store(lse_ptr + n, largest + tl.log(total))


@jit
def largest_never_kept(z_ptr, lse_ptr, V, BLOCK: tl.constexpr):
    n = tl.program_id(0)
    largest = float("-inf")
    total = 0.0
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        z = tl.load(z_ptr + n * V + v, mask=v < V, other=float("-inf"))
        new = tl.maximum(largest, tl.max(z, axis=0))
        rescaled = total * tl.exp(largest - new)
        total = rescaled + tl.sum(tl.exp(z - new), axis=0)
    tl.store(lse_ptr + n, largest + tl.log(total))


@jit
def largest_left_out(z_ptr, lse_ptr, V, BLOCK: tl.constexpr):
    n = tl.program_id(0)
    largest = float("-inf")
    total = 0.0
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        z = tl.load(z_ptr + n * V + v, mask=v < V, other=float("-inf"))
        new = tl.maximum(largest, tl.max(z, axis=0))
        rescaled = total * tl.exp(largest - new)
        total = rescaled + tl.sum(tl.exp(z - new), axis=0)
        largest = new
    tl.store(lse_ptr + n, tl.log(total))


@jit
def log_forgotten(z_ptr, lse_ptr, V, BLOCK: tl.constexpr):
    n = tl.program_id(0)
    largest = float("-inf")
    total = 0.0
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        z = tl.load(z_ptr + n * V + v, mask=v < V, other=float("-inf"))
        new = tl.maximum(largest, tl.max(z, axis=0))
        rescaled = total * tl.exp(largest - new)
        total = rescaled + tl.sum(tl.exp(z - new), axis=0)
        largest = new
    tl.store(lse_ptr + n, largest + total)


@jit
def padding_is_zero(z_ptr, lse_ptr, V, BLOCK: tl.constexpr):
    n = tl.program_id(0)
    largest = float("-inf")
    total = 0.0
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        z = tl.load(z_ptr + n * V + v, mask=v < V, other=0.0)
        new = tl.maximum(largest, tl.max(z, axis=0))
        rescaled = total * tl.exp(largest - new)
        total = rescaled + tl.sum(tl.exp(z - new), axis=0)
        largest = new
    tl.store(lse_ptr + n, largest + tl.log(total))


@jit
def load_unmasked(z_ptr, lse_ptr, V, BLOCK: tl.constexpr):
    n = tl.program_id(0)
    largest = float("-inf")
    total = 0.0
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        z = tl.load(z_ptr + n * V + v)
        new = tl.maximum(largest, tl.max(z, axis=0))
        rescaled = total * tl.exp(largest - new)
        total = rescaled + tl.sum(tl.exp(z - new), axis=0)
        largest = new
    tl.store(lse_ptr + n, largest + tl.log(total))


@jit
def row_forgotten(z_ptr, lse_ptr, V, BLOCK: tl.constexpr):
    n = tl.program_id(0)
    largest = float("-inf")
    total = 0.0
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        z = tl.load(z_ptr + v, mask=v < V, other=float("-inf"))
        new = tl.maximum(largest, tl.max(z, axis=0))
        rescaled = total * tl.exp(largest - new)
        total = rescaled + tl.sum(tl.exp(z - new), axis=0)
        largest = new
    tl.store(lse_ptr + n, largest + tl.log(total))


@jit
def rows_a_block_apart(z_ptr, lse_ptr, V, BLOCK: tl.constexpr):
    n = tl.program_id(0)
    largest = float("-inf")
    total = 0.0
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        z = tl.load(z_ptr + n * BLOCK + v, mask=v < V, other=float("-inf"))
        new = tl.maximum(largest, tl.max(z, axis=0))
        rescaled = total * tl.exp(largest - new)
        total = rescaled + tl.sum(tl.exp(z - new), axis=0)
        largest = new
    tl.store(lse_ptr + n, largest + tl.log(total))


KERNEL = Exercise(
    id="6.K",
    title="the log-sum-exp of a row longer than a block",
    minutes=15,
    difficulty=2,
    ours=ours.online_lse_kernel,
    launch=ours.launch_online_lse,
    reference=ours.log_sum_exp,
    checks=(
        ("by hand", by_hand),
        ("many blocks, large and small logits, one number", every_probe),
    ),
    probes=lse_probes,
    wrong=(
        WrongAnswer(
            "rescale forgotten",
            rescale_forgotten,
            "what earlier blocks added up is relative to an older maximum. Where a "
            "block raises it, the sum so far has to shrink.",
            3,
        ),
        WrongAnswer(
            "rescaled backwards",
            rescaled_backwards,
            "the sum so far is rescaled by the wrong sign: a larger maximum makes it "
            "smaller, exp(old - new).",
            3,
        ),
        WrongAnswer(
            "last block only",
            last_block_only,
            "each block overwrites the sum of those before it.",
            3,
        ),
        WrongAnswer(
            "the block's own maximum",
            blocks_own_largest,
            "the maximum falls where a block's own is smaller, and rescaling the sum "
            "then overflows: take the larger of the old one and the block's.",
            2,
        ),
        WrongAnswer(
            "no maximum",
            nothing_taken_away,
            "exp of the logits themselves overflows above 88 and vanishes below -104: "
            "take a maximum away first.",
            2,
        ),
        WrongAnswer(
            "the old maximum",
            largest_too_late,
            "a block is taken relative to the maximum of the blocks before it, which "
            "for the first one is -inf: use the new one.",
            2,
        ),
        WrongAnswer(
            "maximum never kept",
            largest_never_kept,
            "the maximum is never kept for the next block: it is still -inf at the "
            "end.",
            2,
        ),
        WrongAnswer(
            "maximum left out at the end",
            largest_left_out,
            "the sum is relative to the maximum, and that has to be added again after "
            "the logarithm.",
            4,
        ),
        WrongAnswer(
            "log forgotten",
            log_forgotten,
            "the sum is stored as it is: take its logarithm.",
            4,
        ),
        WrongAnswer(
            "padding counts",
            padding_is_zero,
            "lanes beyond the row are loaded as 0, and exp(0) is 1: they need a number "
            "whose exp is 0.",
            1,
        ),
        WrongAnswer(
            "load without a mask",
            load_unmasked,
            "the last block of a row reads on into the next row: the load needs the "
            "mask.",
            1,
        ),
        WrongAnswer(
            "row forgotten",
            row_forgotten,
            "every program reads row 0: the address of z lacks the row.",
            1,
        ),
        WrongAnswer(
            "rows a block apart",
            rows_a_block_apart,
            "rows are taken to be one block long. From a row to the next are all its "
            "entries.",
            1,
        ),
    ),
    hints=(
        "z_NV lies row by row: how many numbers lie before row n? Lanes beyond the row "
        "need a mask, and a value that is no maximum and whose exp is 0.",
        "The maximum so far is the larger of the one before and the block's own. Take "
        "it away from the block before exp, and keep it for the next turn.",
        "What is summed so far is relative to the maximum before this block. By one "
        "factor, exp(m - m'), each exp(a - m) in it becomes exp(a - m'). Then add the "
        "block's own sum.",
        "exp(m) times the sum is the whole, and its logarithm is a sum of two.",
    ),
)
