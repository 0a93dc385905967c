"""Lab 07's kernel exercise, 7.K, and the mistakes it expects."""
# mypy: allow-untyped-defs

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from kernels.language import jit, tl
from labs.lab_07 import kernels_ours as ours
from labsupport.exercise import Exercise, WrongAnswer, expect_close

Given = tuple[Tensor, Tensor, Tensor, float]


def tokens(N: int, V: int, T: float = 1.0, seed: int = 0) -> Given:
    """z_NV, y_N, g_N of both signs, and T; the last token is the last entry."""
    generator = torch.Generator().manual_seed(seed)
    z_NV = 2 * torch.randn((N, V), generator=generator)
    y_N = torch.randint(V, (N,), generator=generator)
    y_N[-1] = V - 1
    return z_NV, y_N, torch.randn((N,), generator=generator), T


def backward_probes() -> Sequence[Given]:
    """Whole blocks; a last one that is not full; temperatures; one number."""
    return [
        tokens(2, 32),
        tokens(3, 37, seed=1),
        tokens(3, 20, T=2.0, seed=2),
        tokens(2, 5, T=0.5, seed=3),
        tokens(1, 1, seed=4),
    ]


def by_hand(candidate: Callable[..., Any]) -> None:
    """Row 0 at T = 2: z / T = log 1, log 2, log 5, so p = 1/8, 2/8, 5/8."""
    z_NV = 2 * torch.tensor([[1.0, 2.0, 5.0], [1.0, 1.0, 2.0]]).log()
    y_N, g_N = torch.tensor([1, 2]), torch.tensor([8.0, -4.0])
    wanted_NV = torch.tensor([[-0.5, 3.0, -2.5], [0.5, 0.5, -1.0]])
    asked = (
        "T = 2, p = [1/8, 2/8, 5/8] with token 1 and g = 8, and "
        "p = [1/4, 1/4, 1/2] with token 2 and g = -4"
    )
    expect_close(candidate(z_NV, y_N, g_N, 2.0), wanted_NV, asked)


def every_probe(candidate: Callable[..., Any]) -> None:
    """Against autograd in float64."""
    for z_NV, y_N, g_N, T in backward_probes():
        leaf = z_NV.double().requires_grad_()
        logp_N = torch.log_softmax(leaf / T, -1)[range(len(y_N)), y_N]
        (wanted_NV,) = torch.autograd.grad(logp_N, leaf, g_N.double())
        N, V = z_NV.shape
        asked = f"{N} tokens of {V} entries at T = {T:g}: dz"
        found = candidate(z_NV.clone(), y_N.clone(), g_N.clone(), T)
        expect_close(found, wanted_NV.float(), asked)


@jit
def sign_turned(
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
    tl.store(dz_ptr + n * V + v, g / T * (p - chosen), mask=v < V)


@jit
def temperature_forgotten_outside(
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
    tl.store(dz_ptr + n * V + v, g * (chosen - p), mask=v < V)


@jit
def temperature_forgotten_inside(
    z_ptr, y_ptr, lse_ptr, g_ptr, dz_ptr, T, V, BLOCK: tl.constexpr
):
    n = tl.program_id(0)
    v = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    y = tl.load(y_ptr + n)
    lse = tl.load(lse_ptr + n)
    g = tl.load(g_ptr + n)
    z = tl.load(z_ptr + n * V + v, mask=v < V, other=0.0)
    p = tl.exp(z - lse)
    chosen = tl.where(v == y, 1.0, 0.0)
    tl.store(dz_ptr + n * V + v, g / T * (chosen - p), mask=v < V)


@jit
def gradient_forgotten(
    z_ptr, y_ptr, lse_ptr, g_ptr, dz_ptr, T, V, BLOCK: tl.constexpr
):
    n = tl.program_id(0)
    v = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    y = tl.load(y_ptr + n)
    lse = tl.load(lse_ptr + n)
    tl.load(g_ptr + n)  # and not used
    z = tl.load(z_ptr + n * V + v, mask=v < V, other=0.0)
    p = tl.exp(z / T - lse)
    chosen = tl.where(v == y, 1.0, 0.0)
    tl.store(dz_ptr + n * V + v, (chosen - p) / T, mask=v < V)


@jit
def chosen_forgotten(
    z_ptr, y_ptr, lse_ptr, g_ptr, dz_ptr, T, V, BLOCK: tl.constexpr
):
    n = tl.program_id(0)
    v = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    tl.load(y_ptr + n)  # and not used
    lse = tl.load(lse_ptr + n)
    g = tl.load(g_ptr + n)
    z = tl.load(z_ptr + n * V + v, mask=v < V, other=0.0)
    p = tl.exp(z / T - lse)
    tl.store(dz_ptr + n * V + v, -g / T * p, mask=v < V)


@jit
def others_forgotten(
    z_ptr, y_ptr, lse_ptr, g_ptr, dz_ptr, T, V, BLOCK: tl.constexpr
):
    n = tl.program_id(0)
    v = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    y = tl.load(y_ptr + n)
    lse = tl.load(lse_ptr + n)
    g = tl.load(g_ptr + n)
    z = tl.load(z_ptr + n * V + v, mask=v < V, other=0.0)
    p = tl.exp(z / T - lse)
    dz = tl.where(v == y, g / T * (1.0 - p), 0.0)
    tl.store(dz_ptr + n * V + v, dz, mask=v < V)


@jit
def log_p_for_p(
    z_ptr, y_ptr, lse_ptr, g_ptr, dz_ptr, T, V, BLOCK: tl.constexpr
):
    n = tl.program_id(0)
    v = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    y = tl.load(y_ptr + n)
    lse = tl.load(lse_ptr + n)
    g = tl.load(g_ptr + n)
    z = tl.load(z_ptr + n * V + v, mask=v < V, other=0.0)
    log_p = z / T - lse
    chosen = tl.where(v == y, 1.0, 0.0)
    tl.store(dz_ptr + n * V + v, g / T * (chosen - log_p), mask=v < V)


@jit
def softmax_of_the_block(
    z_ptr, y_ptr, lse_ptr, g_ptr, dz_ptr, T, V, BLOCK: tl.constexpr
):
    n = tl.program_id(0)
    v = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    y = tl.load(y_ptr + n)
    lse = tl.load(lse_ptr + n)
    g = tl.load(g_ptr + n)
    z = tl.load(z_ptr + n * V + v, mask=v < V, other=float("-inf"))
    e = tl.exp(z / T - lse)
    p = e / tl.sum(e, axis=0)
    chosen = tl.where(v == y, 1.0, 0.0)
    tl.store(dz_ptr + n * V + v, g / T * (chosen - p), mask=v < V)


@jit
def not_normalised(
    z_ptr, y_ptr, lse_ptr, g_ptr, dz_ptr, T, V, BLOCK: tl.constexpr
):
    n = tl.program_id(0)
    v = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    y = tl.load(y_ptr + n)
    tl.load(lse_ptr + n)  # and not used
    g = tl.load(g_ptr + n)
    z = tl.load(z_ptr + n * V + v, mask=v < V, other=0.0)
    p = tl.exp(z / T)
    chosen = tl.where(v == y, 1.0, 0.0)
    tl.store(dz_ptr + n * V + v, g / T * (chosen - p), mask=v < V)


@jit
def place_in_the_block(
    z_ptr, y_ptr, lse_ptr, g_ptr, dz_ptr, T, V, BLOCK: tl.constexpr
):
    n = tl.program_id(0)
    lane = tl.arange(0, BLOCK)
    v = tl.program_id(1) * BLOCK + lane
    y = tl.load(y_ptr + n)
    lse = tl.load(lse_ptr + n)
    g = tl.load(g_ptr + n)
    z = tl.load(z_ptr + n * V + v, mask=v < V, other=0.0)
    p = tl.exp(z / T - lse)
    chosen = tl.where(lane == y, 1.0, 0.0)
    tl.store(dz_ptr + n * V + v, g / T * (chosen - p), mask=v < V)


@jit
def row_forgotten(
    z_ptr, y_ptr, lse_ptr, g_ptr, dz_ptr, T, V, BLOCK: tl.constexpr
):
    n = tl.program_id(0)
    v = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    y = tl.load(y_ptr + n)
    lse = tl.load(lse_ptr + n)
    g = tl.load(g_ptr + n)
    z = tl.load(z_ptr + v, mask=v < V, other=0.0)
    p = tl.exp(z / T - lse)
    chosen = tl.where(v == y, 1.0, 0.0)
    tl.store(dz_ptr + n * V + v, g / T * (chosen - p), mask=v < V)


@jit
def only_the_chosen_stored(
    z_ptr, y_ptr, lse_ptr, g_ptr, dz_ptr, T, V, BLOCK: tl.constexpr
):
    n = tl.program_id(0)
    v = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    y = tl.load(y_ptr + n)
    lse = tl.load(lse_ptr + n)
    g = tl.load(g_ptr + n)
    z = tl.load(z_ptr + n * V + v, mask=v < V, other=0.0)
    p = tl.exp(z / T - lse)
    tl.store(dz_ptr + n * V + v, g / T * (1.0 - p), mask=v == y)


@jit
def load_unmasked(
    z_ptr, y_ptr, lse_ptr, g_ptr, dz_ptr, T, V, BLOCK: tl.constexpr
):
    n = tl.program_id(0)
    v = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    y = tl.load(y_ptr + n)
    lse = tl.load(lse_ptr + n)
    g = tl.load(g_ptr + n)
    p = tl.exp(tl.load(z_ptr + n * V + v) / T - lse)
    chosen = tl.where(v == y, 1.0, 0.0)
    tl.store(dz_ptr + n * V + v, g / T * (chosen - p), mask=v < V)


@jit
def store_unmasked(
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
    tl.store(dz_ptr + n * V + v, g / T * (chosen - p))


KERNEL = Exercise(
    id="7.K",
    title="the gradient of the chosen token's log p",
    minutes=15,
    difficulty=2,
    ours=ours.logprob_backward_kernel,
    launch=ours.launch_logprob_backward,
    reference=ours.logprob_backward,
    checks=(
        ("by hand", by_hand),
        ("full and last blocks, temperatures, one number", every_probe),
    ),
    probes=backward_probes,
    wrong=(
        WrongAnswer(
            "sign turned",
            sign_turned,
            "the sign is that of cross-entropy, which is -log p. Here the gradient of "
            "log p itself is asked for: it raises the chosen logit.",
            2,
        ),
        WrongAnswer(
            "temperature forgotten outside",
            temperature_forgotten_outside,
            "z is divided by T before anything else: by the chain rule its gradient is "
            "divided by T too.",
            3,
        ),
        WrongAnswer(
            "temperature forgotten inside",
            temperature_forgotten_inside,
            "p is not that of the policy that was sampled: lse was made from z / T.",
            2,
        ),
        WrongAnswer(
            "gradient forgotten",
            gradient_forgotten,
            "what arrives at log p of this token, g, has to weigh its whole row.",
            3,
        ),
        WrongAnswer(
            "chosen token forgotten",
            chosen_forgotten,
            "only -p is left: the chosen entry has 1 - p.",
            3,
        ),
        WrongAnswer(
            "all others forgotten",
            others_forgotten,
            "only the chosen entry has a gradient here. log p contains the "
            "log-sum-exp, and through it every logit of the row.",
            2,
        ),
        WrongAnswer(
            "log p for p",
            log_p_for_p,
            "the logarithm of the probabilities is taken away, not the probabilities.",
            2,
        ),
        WrongAnswer(
            "softmax of the block",
            softmax_of_the_block,
            "p adds up to 1 in each block. lse is that of the whole row already: "
            "nothing has to be divided.",
            2,
        ),
        WrongAnswer(
            "not normalised",
            not_normalised,
            "exp(z / T) is no probability: the log-sum-exp of the row is missing.",
            2,
        ),
        WrongAnswer(
            "place in the block",
            place_in_the_block,
            "the chosen token is looked for in every block anew: compare y with the "
            "entry of the vocabulary, not with the lane.",
            3,
        ),
        WrongAnswer(
            "row forgotten",
            row_forgotten,
            "every program reads row 0: the address of z lacks the row.",
            1,
        ),
        WrongAnswer(
            "only the chosen entry stored",
            only_the_chosen_stored,
            "entries that were not chosen are never stored: their gradient is not 0.",
            3,
        ),
        WrongAnswer(
            "load without a mask",
            load_unmasked,
            "the last block of a row reads on into the next row: the load needs the "
            "mask, and so does the store.",
            1,
        ),
        WrongAnswer(
            "store without a mask",
            store_unmasked,
            "the last block of a row writes on into the next row: the store needs the "
            "mask.",
            1,
        ),
    ),
    hints=(
        "Row n of z_NV begins after n rows of V numbers, and dz lies as z does. Lanes "
        "with v beyond V need a mask, at the load and at the store.",
        "The row's log-sum-exp was saved on the way: what is exp of z / T less that? "
        "log p of the chosen token falls where any other logit rises.",
        "By z / T the gradient is 1 for the chosen entry, 0 for others, less p. T was "
        "divided by, and g weighs the row. Compare v with y to find the chosen one.",
    ),
)
