"""The deep exercises of lab 02, 2.4 and 2.5, and the mistakes they expect.

Shape suffixes: N tokens, E experts, G groups of experts, K experts of a token.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from labs.lab_02.exercises_core import Arguments, random
from labsupport.exercise import Exercise, WrongAnswer
from labsupport.exercise.check import expect_close, same_as

INF = float("inf")

# --- 2.4 node-limited routing ------------------------------------------------


def limit_groups(biased_NE: Tensor, groups: int, kept: int) -> Tensor:
    """Leave each token the experts of its best groups (V3, section 2.1.2).

    A group's score is the sum of its two largest biased scores.

    Returns:
        biased_NE, -inf for the experts of the other groups.
    """
    N, E = biased_NE.shape
    score_NG = biased_NE.view(N, groups, -1).topk(2).values.sum(dim=2)
    best_NG = torch.zeros(N, groups, dtype=torch.bool)
    best_NG.scatter_(1, score_NG.topk(kept).indices, True)
    allowed_NE = best_NG.repeat_interleave(E // groups, dim=1)
    return biased_NE.masked_fill(~allowed_NE, -INF)


def limit_probes() -> Sequence[Arguments]:
    """Many scores are negative, so a mask of 0 would let others in."""
    return [
        (random(N, E, seed=N) - 0.5, G, kept)
        for N, E, G, kept in ((6, 8, 4, 2), (5, 12, 3, 1), (4, 6, 3, 2))
    ]


def limit_by_hand(candidate: Callable[..., Any]) -> None:
    """Groups (0.9, -0.8, 0) and (0.5, 0.5, -2): 0.9 + 0 against 0.5 + 0.5."""
    biased_NE = torch.tensor([[0.9, -0.8, 0.0, 0.5, 0.5, -2.0]])
    wanted = torch.tensor([[-INF, -INF, -INF, 0.5, 0.5, -2.0]])
    came = candidate(biased_NE.clone(), 2, 1)
    expect_close(
        came, wanted, "the better one of groups (0.9, -0.8, 0), (0.5, 0.5, -2)"
    )


def _limit(biased, groups, kept, value=-INF, most=2, turned=False):  # type: ignore[no-untyped-def]
    N, E = biased.shape
    score = biased.view(N, groups, -1).topk(most or E // groups).values.sum(2)
    best = torch.zeros(N, groups, dtype=torch.bool)
    best.scatter_(1, score.topk(kept).indices, True)
    allowed = best.repeat_interleave(E // groups, 1)
    return biased.masked_fill(allowed if turned else ~allowed, value)


def _interleaved(biased, groups, kept):  # type: ignore[no-untyped-def]
    N, E = biased.shape
    score = biased.view(N, groups, -1).topk(2).values.sum(2)
    best = torch.zeros(N, groups, dtype=torch.bool)
    best.scatter_(1, score.topk(kept).indices, True)
    return biased.masked_fill(~best.repeat(1, E // groups), -INF)


def limit_leaves_scores(candidate: Callable[..., Any]) -> None:
    """The scores are needed again, for the weights."""
    biased_NE = random(4, 8, seed=1)
    before_NE = biased_NE.clone()
    candidate(biased_NE, 4, 2)
    expect_close(biased_NE, before_NE, "the scores left as they were")


LIMIT = Exercise(
    id="2.4",
    title="at most so many nodes",
    minutes=12,
    difficulty=2,
    ours=limit_groups,
    checks=(
        ("by hand", limit_by_hand),
        ("random scores", same_as(limit_groups, limit_probes)),
        ("not in place", limit_leaves_scores),
    ),
    probes=limit_probes,
    wrong=(
        WrongAnswer(
            "zero mask",
            lambda b, g, k: _limit(b, g, k, value=0.0),
            "forbidden experts get a score of 0. A biased score may be negative, and "
            "then a forbidden expert beats an allowed one. Use -inf. (A well-known "
            "library has the zero.)",
            3,
        ),
        WrongAnswer(
            "best expert only",
            lambda b, g, k: _limit(b, g, k, most=1),
            "groups are ranked by their best expert; V3 adds the two best.",
            1,
        ),
        WrongAnswer(
            "all experts",
            lambda b, g, k: _limit(b, g, k, most=0),
            "groups are ranked by the sum of all their experts; V3 adds the two best.",
            1,
        ),
        WrongAnswer(
            "interleaved groups",
            lambda b, g, k: _interleaved(b, g, k),
            "the groups' answers are repeated one after the other, `repeat`, so they "
            "reach experts of other groups. Neighbours form a group: "
            "`repeat_interleave`.",
            2,
        ),
        WrongAnswer(
            "turned round",
            lambda b, g, k: _limit(b, g, k, turned=True),
            "the best groups are forbidden, and the others allowed.",
            2,
        ),
    ),
    hints=(
        "View the scores as (N, groups, E / groups). A group's score is the sum of "
        "`topk(2).values` over its last axis.",
        "Make a boolean (N, groups) that is True at the `kept` best groups "
        "(`scatter_`), and repeat it for the experts of a group "
        "(`repeat_interleave`).",
        "`masked_fill` with -inf wherever the boolean is False: no bias can lift that.",
    ),
)

# --- 2.5 quantile balancing --------------------------------------------------


def quantile_update(score_NE: Tensor, bias_E: Tensor, top_k: int) -> Tensor:
    """Biases with which each expert would have had its even share of this batch.

    A token's bar is its (K + 1)-th largest biased score; an expert's margin is how
    far its biased score is above the bar. Each expert should clear the bar for
    q = N K / E tokens, so its (q + 1)-th largest margin has to be 0: subtract it.
    Source: J. Su, kexue.fm/archives/11619 (2026), with a step of 1.
    """
    N, E = score_NE.shape
    biased_NE = score_NE + bias_E
    bar_N1 = biased_NE.topk(top_k + 1).values[:, -1:]
    margin_NE = biased_NE - bar_N1
    q = N * top_k // E
    return bias_E - margin_NE.topk(q + 1, dim=0).values[-1]


def quantile_probes() -> Sequence[Arguments]:
    return [
        (torch.sigmoid(random(N, E, seed=N)), random(E, seed=E, scale=0.1), K)
        for N, E, K in ((16, 4, 1), (24, 6, 2), (40, 8, 3))
    ]


def quantile_by_hand(candidate: Callable[..., Any]) -> None:
    """Both tokens prefer expert 0, by 0.3 and 0.1: lowering it by 0.1 sends one away.

    q = 1; expert 0's second largest margin is 0.1. Expert 1 is the bar itself.
    """
    score_NE = torch.tensor([[0.8, 0.5], [0.7, 0.6]])
    bias_E = torch.zeros(2)
    came = candidate(score_NE, bias_E, 1)
    expect_close(bias_E, torch.zeros(2), "the old biases left as they were")
    expect_close(
        came,
        torch.tensor([-0.1, 0.0]),
        "biases for scores (0.8, 0.5), (0.7, 0.6), old biases 0, K = 1",
    )


def _quantile(s, b, k, bar=1, rank=1, sign=-1.0, biased=True):  # type: ignore[no-untyped-def]
    N, E = s.shape
    x = s + b if biased else s
    margin = x - x.topk(k + bar).values[:, -1:]
    return b + sign * margin.topk(N * k // E + rank, dim=0).values[-1]


QUANTILE = Exercise(
    id="2.5",
    title="balance without a step size",
    minutes=15,
    difficulty=3,
    ours=quantile_update,
    checks=(
        ("by hand", quantile_by_hand),
        ("random scores", same_as(quantile_update, quantile_probes)),
    ),
    probes=quantile_probes,
    wrong=(
        WrongAnswer(
            "bar of the last chosen",
            lambda s, b, k: _quantile(s, b, k, bar=0),
            "the bar is the K-th largest biased score, that of the last one chosen. An "
            "expert is chosen if it beats the (K + 1)-th.",
            1,
        ),
        WrongAnswer(
            "one row too early",
            lambda s, b, k: _quantile(s, b, k, rank=0),
            "the q-th largest margin is subtracted; that would leave q - 1 tokens "
            "above 0. Take the next one.",
            2,
        ),
        WrongAnswer(
            "wrong way round",
            lambda s, b, k: _quantile(s, b, k, sign=1.0),
            "the margin is added: busy experts become busier. Subtract it.",
            2,
        ),
        WrongAnswer(
            "margin without bias",
            lambda s, b, k: _quantile(s, b, k, biased=False),
            "margins are taken of the bare scores. What is chosen are biased scores, "
            "so both score and bar need the bias.",
            1,
        ),
    ),
    hints=(
        "Add the bias first. `topk(top_k + 1).values[:, -1:]` is each token's bar, "
        "and the margin is biased score minus bar.",
        "q = N K // E tokens is an even share. Sort each expert's margins, "
        "`topk(q + 1, dim=0).values`, take the last one, subtract it from the bias.",
    ),
)

EXERCISES = (LIMIT, QUANTILE)
