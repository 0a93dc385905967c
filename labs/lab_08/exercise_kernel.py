"""Lab 08's kernel exercise, 8.K, and the mistakes it expects."""
# mypy: allow-untyped-defs

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from kernels.language import jit, tl
from labs.lab_08 import kernels_ours as ours
from labsupport.exercise import Exercise, WrongAnswer, expect_close

Given = tuple[Tensor, Tensor]


def rows(N: int, V: int, seed: int = 0, size: float = 2.0) -> Given:
    """A teacher's and a student's scores; the teacher's rise along a row.

    So a later block has the larger scores, and what was added up has to shrink.
    """
    generator = torch.Generator().manual_seed(seed)
    t_NV = size * torch.randn((N, V), generator=generator)
    t_NV += torch.linspace(0, 4, V)
    return t_NV, size * torch.randn((N, V), generator=generator)


def kl_probes() -> Sequence[Given]:
    """Whole blocks; a last one that is not full; large, falling, rising scores; one."""
    large_t, large_s = rows(2, 40, seed=3)
    falling = torch.linspace(150, -150, 40)
    return [
        rows(2, 32),
        rows(3, 37, seed=1),
        rows(2, 5, seed=2),
        (large_t + 300.0, large_s - 300.0),
        (large_t + falling, large_s),
        (large_t, large_s + 200.0 + falling),
        (large_t - falling, large_s - falling / 2),
        rows(1, 1, seed=4),
    ]


def by_hand(candidate: Callable[..., Any]) -> None:
    """p = 1/4, 3/4 and q = 1/2, 1/2, whatever is added to the scores."""
    t_NV = torch.tensor([[1.0, 3.0], [1.0, 3.0]]).log() + torch.tensor(
        [[0.0], [7.0]]
    )
    s_NV = torch.tensor([[0.0, 0.0], [5.0, 5.0]])
    asked = "p = [1/4, 3/4], q = [1/2, 1/2], and 7 and 5 added to the scores of row 1"
    expect_close(candidate(t_NV, s_NV), torch.full((2,), 0.1308121), asked)


def every_probe(candidate: Callable[..., Any]) -> None:
    """Against float64."""
    for t_NV, s_NV in kl_probes():
        log_p, log_q = (
            t_NV.double().log_softmax(-1),
            s_NV.double().log_softmax(-1),
        )
        wanted_N = (log_p.exp() * (log_p - log_q)).sum(-1).float()
        N, V = t_NV.shape
        asked = f"{N} rows of {V} scores, the largest {t_NV.max():.0f}: KL"
        # Sums of hundreds cancel where scores are large.
        expect_close(
            candidate(t_NV.clone(), s_NV.clone()), wanted_N, asked, 1e-4
        )


@jit
def apart_not_shrunk(t_ptr, s_ptr, kl_ptr, V, BLOCK: tl.constexpr):
    n = tl.program_id(0)
    top_t, sum_t = float("-inf"), 0.0
    top_s, sum_s = float("-inf"), 0.0
    apart = 0.0
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        t = tl.load(t_ptr + n * V + v, mask=v < V, other=-1e9)
        s = tl.load(s_ptr + n * V + v, mask=v < V, other=-1e9)
        new_s = tl.maximum(top_s, tl.max(s, axis=0))
        e_s = tl.exp(s - new_s)
        sum_s = sum_s * tl.exp(top_s - new_s) + tl.sum(e_s, axis=0)
        top_s = new_s
        new_t = tl.maximum(top_t, tl.max(t, axis=0))
        e = tl.exp(t - new_t)
        shrink = tl.exp(top_t - new_t)
        apart += tl.sum(e * (t - s), axis=0)
        sum_t = sum_t * shrink + tl.sum(e, axis=0)
        top_t = new_t
    lse_t, lse_s = top_t + tl.log(sum_t), top_s + tl.log(sum_s)
    tl.store(kl_ptr + n, apart / sum_t - lse_t + lse_s)


@jit
def sum_not_shrunk(t_ptr, s_ptr, kl_ptr, V, BLOCK: tl.constexpr):
    n = tl.program_id(0)
    top_t, sum_t = float("-inf"), 0.0
    top_s, sum_s = float("-inf"), 0.0
    apart = 0.0
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        t = tl.load(t_ptr + n * V + v, mask=v < V, other=-1e9)
        s = tl.load(s_ptr + n * V + v, mask=v < V, other=-1e9)
        new_s = tl.maximum(top_s, tl.max(s, axis=0))
        e_s = tl.exp(s - new_s)
        sum_s = sum_s * tl.exp(top_s - new_s) + tl.sum(e_s, axis=0)
        top_s = new_s
        new_t = tl.maximum(top_t, tl.max(t, axis=0))
        e = tl.exp(t - new_t)
        shrink = tl.exp(top_t - new_t)
        apart = apart * shrink + tl.sum(e * (t - s), axis=0)
        sum_t += tl.sum(e, axis=0)
        top_t = new_t
    lse_t, lse_s = top_t + tl.log(sum_t), top_s + tl.log(sum_s)
    tl.store(kl_ptr + n, apart / sum_t - lse_t + lse_s)


@jit
def nothing_shrunk(t_ptr, s_ptr, kl_ptr, V, BLOCK: tl.constexpr):
    n = tl.program_id(0)
    top_t, sum_t = float("-inf"), 0.0
    top_s, sum_s = float("-inf"), 0.0
    apart = 0.0
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        t = tl.load(t_ptr + n * V + v, mask=v < V, other=-1e9)
        s = tl.load(s_ptr + n * V + v, mask=v < V, other=-1e9)
        new_s = tl.maximum(top_s, tl.max(s, axis=0))
        e_s = tl.exp(s - new_s)
        sum_s = sum_s * tl.exp(top_s - new_s) + tl.sum(e_s, axis=0)
        top_s = new_s
        new_t = tl.maximum(top_t, tl.max(t, axis=0))
        e = tl.exp(t - new_t)
        apart += tl.sum(e * (t - s), axis=0)
        sum_t += tl.sum(e, axis=0)
        top_t = new_t
    lse_t, lse_s = top_t + tl.log(sum_t), top_s + tl.log(sum_s)
    tl.store(kl_ptr + n, apart / sum_t - lse_t + lse_s)


@jit
def grown(t_ptr, s_ptr, kl_ptr, V, BLOCK: tl.constexpr):
    n = tl.program_id(0)
    top_t, sum_t = float("-inf"), 0.0
    top_s, sum_s = float("-inf"), 0.0
    apart = 0.0
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        t = tl.load(t_ptr + n * V + v, mask=v < V, other=-1e9)
        s = tl.load(s_ptr + n * V + v, mask=v < V, other=-1e9)
        new_s = tl.maximum(top_s, tl.max(s, axis=0))
        e_s = tl.exp(s - new_s)
        sum_s = sum_s * tl.exp(top_s - new_s) + tl.sum(e_s, axis=0)
        top_s = new_s
        new_t = tl.maximum(top_t, tl.max(t, axis=0))
        e = tl.exp(t - new_t)
        shrink = tl.exp(new_t - top_t)
        apart = apart * shrink + tl.sum(e * (t - s), axis=0)
        sum_t = sum_t * shrink + tl.sum(e, axis=0)
        top_t = new_t
    lse_t, lse_s = top_t + tl.log(sum_t), top_s + tl.log(sum_s)
    tl.store(kl_ptr + n, apart / sum_t - lse_t + lse_s)


@jit
def by_the_student(t_ptr, s_ptr, kl_ptr, V, BLOCK: tl.constexpr):
    n = tl.program_id(0)
    top_t, sum_t = float("-inf"), 0.0
    top_s, sum_s = float("-inf"), 0.0
    apart = 0.0
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        t = tl.load(t_ptr + n * V + v, mask=v < V, other=-1e9)
        s = tl.load(s_ptr + n * V + v, mask=v < V, other=-1e9)
        new_s = tl.maximum(top_s, tl.max(s, axis=0))
        e_s = tl.exp(s - new_s)
        sum_s = sum_s * tl.exp(top_s - new_s) + tl.sum(e_s, axis=0)
        top_s = new_s
        new_t = tl.maximum(top_t, tl.max(t, axis=0))
        e = tl.exp(t - new_t)
        shrink = tl.exp(top_t - new_t)
        apart = apart * shrink + tl.sum(e_s * (t - s), axis=0)
        sum_t = sum_t * shrink + tl.sum(e, axis=0)
        top_t = new_t
    lse_t, lse_s = top_t + tl.log(sum_t), top_s + tl.log(sum_s)
    tl.store(kl_ptr + n, apart / sum_t - lse_t + lse_s)


@jit
def other_way(t_ptr, s_ptr, kl_ptr, V, BLOCK: tl.constexpr):
    n = tl.program_id(0)
    top_t, sum_t = float("-inf"), 0.0
    top_s, sum_s = float("-inf"), 0.0
    apart = 0.0
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        t = tl.load(t_ptr + n * V + v, mask=v < V, other=-1e9)
        s = tl.load(s_ptr + n * V + v, mask=v < V, other=-1e9)
        new_s = tl.maximum(top_s, tl.max(s, axis=0))
        e_s = tl.exp(s - new_s)
        sum_s = sum_s * tl.exp(top_s - new_s) + tl.sum(e_s, axis=0)
        top_s = new_s
        new_t = tl.maximum(top_t, tl.max(t, axis=0))
        e = tl.exp(t - new_t)
        shrink = tl.exp(top_t - new_t)
        apart = apart * shrink + tl.sum(e * (s - t), axis=0)
        sum_t = sum_t * shrink + tl.sum(e, axis=0)
        top_t = new_t
    lse_t, lse_s = top_t + tl.log(sum_t), top_s + tl.log(sum_s)
    tl.store(kl_ptr + n, apart / sum_t - lse_t + lse_s)


@jit
def not_weighed(t_ptr, s_ptr, kl_ptr, V, BLOCK: tl.constexpr):
    n = tl.program_id(0)
    top_t, sum_t = float("-inf"), 0.0
    top_s, sum_s = float("-inf"), 0.0
    apart = 0.0
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        t = tl.load(t_ptr + n * V + v, mask=v < V, other=-1e9)
        s = tl.load(s_ptr + n * V + v, mask=v < V, other=-1e9)
        new_s = tl.maximum(top_s, tl.max(s, axis=0))
        e_s = tl.exp(s - new_s)
        sum_s = sum_s * tl.exp(top_s - new_s) + tl.sum(e_s, axis=0)
        top_s = new_s
        new_t = tl.maximum(top_t, tl.max(t, axis=0))
        e = tl.exp(t - new_t)
        shrink = tl.exp(top_t - new_t)
        apart = apart * shrink + tl.sum(tl.where(v < V, t - s, 0.0), axis=0)
        sum_t = sum_t * shrink + tl.sum(e, axis=0)
        top_t = new_t
    lse_t, lse_s = top_t + tl.log(sum_t), top_s + tl.log(sum_s)
    tl.store(kl_ptr + n, apart / sum_t - lse_t + lse_s)


@jit
def only_t(t_ptr, s_ptr, kl_ptr, V, BLOCK: tl.constexpr):
    n = tl.program_id(0)
    top_t, sum_t = float("-inf"), 0.0
    top_s, sum_s = float("-inf"), 0.0
    apart = 0.0
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        t = tl.load(t_ptr + n * V + v, mask=v < V, other=-1e9)
        s = tl.load(s_ptr + n * V + v, mask=v < V, other=-1e9)
        new_s = tl.maximum(top_s, tl.max(s, axis=0))
        e_s = tl.exp(s - new_s)
        sum_s = sum_s * tl.exp(top_s - new_s) + tl.sum(e_s, axis=0)
        top_s = new_s
        new_t = tl.maximum(top_t, tl.max(t, axis=0))
        e = tl.exp(t - new_t)
        shrink = tl.exp(top_t - new_t)
        apart = apart * shrink + tl.sum(tl.where(v < V, e * t, 0.0), axis=0)
        sum_t = sum_t * shrink + tl.sum(e, axis=0)
        top_t = new_t
    lse_t, lse_s = top_t + tl.log(sum_t), top_s + tl.log(sum_s)
    tl.store(kl_ptr + n, apart / sum_t - lse_t + lse_s)


@jit
def block_maximum(t_ptr, s_ptr, kl_ptr, V, BLOCK: tl.constexpr):
    n = tl.program_id(0)
    top_t, sum_t = float("-inf"), 0.0
    top_s, sum_s = float("-inf"), 0.0
    apart = 0.0
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        t = tl.load(t_ptr + n * V + v, mask=v < V, other=-1e9)
        s = tl.load(s_ptr + n * V + v, mask=v < V, other=-1e9)
        new_s = tl.maximum(top_s, tl.max(s, axis=0))
        e_s = tl.exp(s - new_s)
        sum_s = sum_s * tl.exp(top_s - new_s) + tl.sum(e_s, axis=0)
        top_s = new_s
        new_t = tl.max(t, axis=0)
        e = tl.exp(t - new_t)
        shrink = tl.exp(top_t - new_t)
        apart = apart * shrink + tl.sum(e * (t - s), axis=0)
        sum_t = sum_t * shrink + tl.sum(e, axis=0)
        top_t = new_t
    lse_t, lse_s = top_t + tl.log(sum_t), top_s + tl.log(sum_s)
    tl.store(kl_ptr + n, apart / sum_t - lse_t + lse_s)


@jit
def top_kept(t_ptr, s_ptr, kl_ptr, V, BLOCK: tl.constexpr):
    n = tl.program_id(0)
    top_t, sum_t = float("-inf"), 0.0
    top_s, sum_s = float("-inf"), 0.0
    apart = 0.0
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        t = tl.load(t_ptr + n * V + v, mask=v < V, other=-1e9)
        s = tl.load(s_ptr + n * V + v, mask=v < V, other=-1e9)
        new_s = tl.maximum(top_s, tl.max(s, axis=0))
        e_s = tl.exp(s - new_s)
        sum_s = sum_s * tl.exp(top_s - new_s) + tl.sum(e_s, axis=0)
        top_s = new_s
        new_t = tl.maximum(top_t, tl.max(t, axis=0))
        e = tl.exp(t - new_t)
        shrink = tl.exp(top_t - new_t)
        apart = apart * shrink + tl.sum(e * (t - s), axis=0)
        sum_t = sum_t * shrink + tl.sum(e, axis=0)
    lse_t, lse_s = top_t + tl.log(sum_t), top_s + tl.log(sum_s)
    tl.store(kl_ptr + n, apart / sum_t - lse_t + lse_s)


@jit
def overwritten(t_ptr, s_ptr, kl_ptr, V, BLOCK: tl.constexpr):
    n = tl.program_id(0)
    top_t, sum_t = float("-inf"), 0.0
    top_s, sum_s = float("-inf"), 0.0
    apart = 0.0
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        t = tl.load(t_ptr + n * V + v, mask=v < V, other=-1e9)
        s = tl.load(s_ptr + n * V + v, mask=v < V, other=-1e9)
        new_s = tl.maximum(top_s, tl.max(s, axis=0))
        e_s = tl.exp(s - new_s)
        sum_s = sum_s * tl.exp(top_s - new_s) + tl.sum(e_s, axis=0)
        top_s = new_s
        new_t = tl.maximum(top_t, tl.max(t, axis=0))
        e = tl.exp(t - new_t)
        apart = tl.sum(e * (t - s), axis=0)
        sum_t = tl.sum(e, axis=0)
        top_t = new_t
    lse_t, lse_s = top_t + tl.log(sum_t), top_s + tl.log(sum_s)
    tl.store(kl_ptr + n, apart / sum_t - lse_t + lse_s)


@jit
def no_maximum(t_ptr, s_ptr, kl_ptr, V, BLOCK: tl.constexpr):
    n = tl.program_id(0)
    top_t, sum_t = 0.0, 0.0
    top_s, sum_s = float("-inf"), 0.0
    apart = 0.0
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        t = tl.load(t_ptr + n * V + v, mask=v < V, other=-1e9)
        s = tl.load(s_ptr + n * V + v, mask=v < V, other=-1e9)
        new_s = tl.maximum(top_s, tl.max(s, axis=0))
        e_s = tl.exp(s - new_s)
        sum_s = sum_s * tl.exp(top_s - new_s) + tl.sum(e_s, axis=0)
        top_s = new_s
        e = tl.exp(t)
        apart += tl.sum(e * (t - s), axis=0)
        sum_t += tl.sum(e, axis=0)
    lse_t, lse_s = top_t + tl.log(sum_t), top_s + tl.log(sum_s)
    tl.store(kl_ptr + n, apart / sum_t - lse_t + lse_s)


@jit
def shared_maximum(t_ptr, s_ptr, kl_ptr, V, BLOCK: tl.constexpr):
    n = tl.program_id(0)
    top_t, sum_t = float("-inf"), 0.0
    top_s, sum_s = float("-inf"), 0.0
    apart = 0.0
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        t = tl.load(t_ptr + n * V + v, mask=v < V, other=-1e9)
        s = tl.load(s_ptr + n * V + v, mask=v < V, other=-1e9)
        new_s = tl.maximum(top_s, tl.max(s, axis=0))
        e_s = tl.exp(s - new_s)
        sum_s = sum_s * tl.exp(top_s - new_s) + tl.sum(e_s, axis=0)
        top_s = new_s
        new_t = tl.maximum(tl.maximum(top_t, tl.max(t, axis=0)), new_s)
        e = tl.exp(t - new_t)
        shrink = tl.exp(top_t - new_t)
        apart = apart * shrink + tl.sum(e * (t - s), axis=0)
        sum_t = sum_t * shrink + tl.sum(e, axis=0)
        top_t = new_t
    lse_t, lse_s = top_t + tl.log(sum_t), top_s + tl.log(sum_s)
    tl.store(kl_ptr + n, apart / sum_t - lse_t + lse_s)


@jit
def shrunk_by_the_student(t_ptr, s_ptr, kl_ptr, V, BLOCK: tl.constexpr):
    n = tl.program_id(0)
    top_t, sum_t = float("-inf"), 0.0
    top_s, sum_s = float("-inf"), 0.0
    apart = 0.0
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        t = tl.load(t_ptr + n * V + v, mask=v < V, other=-1e9)
        s = tl.load(s_ptr + n * V + v, mask=v < V, other=-1e9)
        new_s = tl.maximum(top_s, tl.max(s, axis=0))
        e_s = tl.exp(s - new_s)
        old_s = top_s
        sum_s = sum_s * tl.exp(top_s - new_s) + tl.sum(e_s, axis=0)
        top_s = new_s
        new_t = tl.maximum(top_t, tl.max(t, axis=0))
        e = tl.exp(t - new_t)
        shrink = tl.exp(old_s - new_s)
        apart = apart * shrink + tl.sum(e * (t - s), axis=0)
        sum_t = sum_t * shrink + tl.sum(e, axis=0)
        top_t = new_t
    lse_t, lse_s = top_t + tl.log(sum_t), top_s + tl.log(sum_s)
    tl.store(kl_ptr + n, apart / sum_t - lse_t + lse_s)


@jit
def plain_exponentials(t_ptr, s_ptr, kl_ptr, V, BLOCK: tl.constexpr):
    n = tl.program_id(0)
    top_t, sum_t = float("-inf"), 0.0
    top_s, sum_s = float("-inf"), 0.0
    apart = 0.0
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        t = tl.load(t_ptr + n * V + v, mask=v < V, other=-1e9)
        s = tl.load(s_ptr + n * V + v, mask=v < V, other=-1e9)
        new_s = tl.maximum(top_s, tl.max(s, axis=0))
        e_s = tl.exp(s - new_s)
        sum_s = sum_s * tl.exp(top_s - new_s) + tl.sum(e_s, axis=0)
        top_s = new_s
        new_t = tl.maximum(top_t, tl.max(t, axis=0))
        e = tl.exp(t)
        shrink = tl.exp(top_t - new_t)
        apart = apart * shrink + tl.sum(e * (t - s), axis=0)
        sum_t = sum_t * shrink + tl.sum(e, axis=0)
        top_t = new_t
    lse_t, lse_s = top_t + tl.log(sum_t), top_s + tl.log(sum_s)
    tl.store(kl_ptr + n, apart / sum_t - lse_t + lse_s)


@jit
def sum_forgotten(t_ptr, s_ptr, kl_ptr, V, BLOCK: tl.constexpr):
    n = tl.program_id(0)
    top_t, sum_t = float("-inf"), 0.0
    top_s, sum_s = float("-inf"), 0.0
    apart = 0.0
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        t = tl.load(t_ptr + n * V + v, mask=v < V, other=-1e9)
        s = tl.load(s_ptr + n * V + v, mask=v < V, other=-1e9)
        new_s = tl.maximum(top_s, tl.max(s, axis=0))
        e_s = tl.exp(s - new_s)
        sum_s = sum_s * tl.exp(top_s - new_s) + tl.sum(e_s, axis=0)
        top_s = new_s
        new_t = tl.maximum(top_t, tl.max(t, axis=0))
        e = tl.exp(t - new_t)
        shrink = tl.exp(top_t - new_t)
        apart = apart * shrink + tl.sum(e * (t - s), axis=0)
        top_t = new_t
    lse_t, lse_s = top_t + tl.log(sum_t), top_s + tl.log(sum_s)
    tl.store(kl_ptr + n, apart / sum_t - lse_t + lse_s)


@jit
def apart_forgotten(t_ptr, s_ptr, kl_ptr, V, BLOCK: tl.constexpr):
    n = tl.program_id(0)
    top_t, sum_t = float("-inf"), 0.0
    top_s, sum_s = float("-inf"), 0.0
    apart = 0.0
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        t = tl.load(t_ptr + n * V + v, mask=v < V, other=-1e9)
        s = tl.load(s_ptr + n * V + v, mask=v < V, other=-1e9)
        new_s = tl.maximum(top_s, tl.max(s, axis=0))
        e_s = tl.exp(s - new_s)
        sum_s = sum_s * tl.exp(top_s - new_s) + tl.sum(e_s, axis=0)
        top_s = new_s
        new_t = tl.maximum(top_t, tl.max(t, axis=0))
        e = tl.exp(t - new_t)
        shrink = tl.exp(top_t - new_t)
        sum_t = sum_t * shrink + tl.sum(e, axis=0)
        top_t = new_t
    lse_t, lse_s = top_t + tl.log(sum_t), top_s + tl.log(sum_s)
    tl.store(kl_ptr + n, apart / sum_t - lse_t + lse_s)


KERNEL = Exercise(
    id="8.K",
    title="KL of two rows in one pass",
    minutes=15,
    difficulty=2,
    ours=ours.one_pass_kl_kernel,
    launch=ours.launch_one_pass_kl,
    reference=ours.one_pass_kl,
    checks=(
        ("by hand", by_hand),
        ("several blocks, large scores, one number", every_probe),
    ),
    probes=kl_probes,
    wrong=(
        WrongAnswer(
            "what was added up is not shrunk",
            apart_not_shrunk,
            "the weighed sum of an earlier block stands as it was, though the "
            "maximum has grown since: multiply it by exp(old - new), as the sum of "
            "exponentials.",
            2,
        ),
        WrongAnswer(
            "the sum is not shrunk",
            sum_not_shrunk,
            "the sum of exponentials of an earlier block stands as it was, though "
            "the maximum has grown since.",
            2,
        ),
        WrongAnswer(
            "nothing is shrunk",
            nothing_shrunk,
            "neither sum is shrunk when the maximum grows: both were made with "
            "the old one. (If you have a factor: it is 1 once `top_t` is the new one.)",
            2,
        ),
        WrongAnswer(
            "grown instead of shrunk",
            grown,
            "what was added up is multiplied by exp(new - old). Those numbers "
            "were made with the old maximum, and are too large now: exp(old - "
            "new).",
            2,
        ),
        WrongAnswer(
            "the student weighs",
            by_the_student,
            "t - s is weighed by the student's probabilities. KL(p || q) is a "
            "mean under the teacher's.",
            3,
        ),
        WrongAnswer(
            "s - t",
            other_way,
            "the sign is turned: t - s is to be weighed.",
            3,
        ),
        WrongAnswer(
            "not weighed",
            not_weighed,
            "t - s is added up without weights. Multiply by e, the teacher's "
            "exponentials.",
            3,
        ),
        WrongAnswer(
            "the student is missing",
            only_t,
            "only the teacher's scores are weighed: that gives its entropy. The "
            "student's are to be subtracted.",
            3,
        ),
        WrongAnswer(
            "the block's maximum",
            block_maximum,
            "the maximum is that of this block alone. A later block with smaller "
            "scores then makes earlier sums overflow or count too much: take the "
            "larger of both.",
            1,
        ),
        WrongAnswer(
            "the maximum is forgotten",
            top_kept,
            "`top_t` is never set, so it stays -inf, and every block throws away "
            "what came before.",
            1,
        ),
        WrongAnswer(
            "only the last block",
            overwritten,
            "each block overwrites what was added up. Add to it.",
            2,
        ),
        WrongAnswer(
            "one maximum for both",
            shared_maximum,
            "the teacher's maximum is taken of the student's scores, too. Where those "
            "are 200 larger, every exponential of the teacher is 0.",
            1,
        ),
        WrongAnswer(
            "shrunk by the student's",
            shrunk_by_the_student,
            "the sums shrink by the student's maximum. They were made with the "
            "teacher's.",
            2,
        ),
        WrongAnswer(
            "plain exponentials",
            plain_exponentials,
            "e is exp(t), without the maximum taken away.",
            1,
        ),
        WrongAnswer(
            "the sum is forgotten",
            sum_forgotten,
            "`sum_t` stays 0: add the exponentials up in it.",
            3,
        ),
        WrongAnswer(
            "the weighed sum is forgotten",
            apart_forgotten,
            "`apart` stays 0: add e (t - s) up in it.",
            3,
        ),
        WrongAnswer(
            "no maximum",
            no_maximum,
            "exp of a score of 300 is infinite in float32. Take away the largest "
            "score first.",
            1,
        ),
    ),
    hints=(
        "The new maximum is the larger of the old one and that of this block. Then "
        "e = exp(t - new maximum), and at the end the maximum is kept.",
        "Both sums were made with the old maximum. exp(old - new) makes them what they "
        "would be with the new one; it is 0 at the first block.",
        "KL(p || q) = sum p (t - s) - lse_t + lse_s, and p = e / sum of e. So add up "
        "e (t - s) and e; the last lines divide.",
    ),
)
