"""Exercise 0.1: root-mean-square normalisation.

Shape suffixes: B batch, T time, D model width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from labsupport.exercise import (
    CheckFailed,
    Exercise,
    WrongAnswer,
    expect_close,
    expect_tensor,
)
from labsupport.exercise.check import same_as, same_gradient

EPS = 1e-6


def rms_norm(x_BTD: Tensor, weight_D: Tensor, eps: float = EPS) -> Tensor:
    """Scale every token to root mean square 1, then by a learned weight.

    Zhang and Sennrich, "Root Mean Square Layer Normalization",
    arXiv 1910.07467, equation 4.

    Args:
        x_BTD: activations, any floating-point dtype.
        weight_D: the learned gain of each channel.
        eps: keeps an all-zero token finite.

    Returns:
        a tensor like `x_BTD`.
    """
    mean_square_BT1 = x_BTD.pow(2).mean(dim=-1, keepdim=True)
    return x_BTD * torch.rsqrt(mean_square_BT1 + eps) * weight_D


def probes() -> Sequence[tuple[Tensor, Tensor]]:
    """Random inputs: a plain one, a large one, one token, one channel count odd."""
    g = torch.Generator().manual_seed(0)
    draws = []
    for shape, scale in [
        ((2, 3, 8), 1.0),
        ((1, 5, 4), 30.0),
        ((2, 1, 7), 0.1),
    ]:
        x_BTD = scale * torch.randn(shape, generator=g) + 0.5 * scale
        weight_D = 0.5 + torch.rand(shape[-1], generator=g)
        draws.append((x_BTD, weight_D))
    return draws


def check_shape(candidate: Callable[..., Any]) -> None:
    x_BTD = torch.ones(2, 3, 4)
    expect_tensor(candidate(x_BTD, torch.ones(4)), (2, 3, 4), torch.float32)


def check_by_hand(candidate: Callable[..., Any]) -> None:
    """[3, 4] has mean square (9 + 16) / 2 = 12.5 and root 3.5355."""
    came = candidate(torch.tensor([[[3.0, 4.0]]]), torch.tensor([1.0, 10.0]))
    wanted = torch.tensor([[[0.848528, 11.313708]]])
    expect_close(came, wanted, "rms_norm([3, 4]) with weight [1, 10]")


def check_zeros(candidate: Callable[..., Any]) -> None:
    came = candidate(torch.zeros(1, 1, 4), torch.ones(4))
    expect_close(
        came, torch.zeros(1, 1, 4), "an all-zero token, kept finite by eps,"
    )


def check_causal(candidate: Callable[..., Any]) -> None:
    """A token's output may not depend on any other token."""
    x_BTD, weight_D = probes()[0]
    changed_BTD = x_BTD.clone()
    changed_BTD[:, -1] += 1.0
    before = candidate(x_BTD, weight_D)[:, :-1]
    after = candidate(changed_BTD, weight_D)[:, :-1]
    if not torch.allclose(before, after, atol=1e-6):
        raise CheckFailed(
            "tokens that ignore each other",
            "earlier tokens that moved when only the last one changed",
        )


WRONG = (
    WrongAnswer(
        "time axis",
        lambda x, w, eps=EPS: (
            x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + eps) * w
        ),
        "the mean runs over time (dim 1), so each token sees the future; "
        "it has to run over the channels of one token (dim -1).",
        2,
    ),
    WrongAnswer(
        "whole tensor",
        lambda x, w, eps=EPS: x * torch.rsqrt(x.pow(2).mean() + eps) * w,
        "the mean runs over the whole tensor; every token needs its own "
        "(dim=-1, keepdim=True).",
        2,
    ),
    WrongAnswer(
        "sum",
        lambda x, w, eps=EPS: (
            x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) + eps) * w
        ),
        "a sum where a mean is meant: that scales each token to length 1, not to "
        "root mean square 1.",
        1,
    ),
    WrongAnswer(
        "no root",
        lambda x, w, eps=EPS: x / (x.pow(2).mean(-1, keepdim=True) + eps) * w,
        "divided by the mean square instead of by its root.",
        1,
    ),
    WrongAnswer(
        "layer norm",
        lambda x, w, eps=EPS: torch.layer_norm(x, x.shape[-1:], w, None, eps),
        "that is LayerNorm: RMSNorm does not subtract the mean.",
        1,
    ),
    WrongAnswer(
        "no weight",
        lambda x, w, eps=EPS: (
            x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
        ),
        "the learned weight is missing.",
        3,
    ),
    WrongAnswer(
        "eps outside the root",
        lambda x, w, eps=EPS: x / (x.pow(2).mean(-1, True).sqrt() + eps) * w,
        "eps belongs under the root, added to the mean square.",
        3,
    ),
    WrongAnswer(
        "no keepdim",
        lambda x, w, eps=EPS: x * torch.rsqrt(x.pow(2).mean(-1) + eps) * w,
        "the mean has lost its axis, so it no longer lines up with x_BTD: "
        "keepdim=True keeps it.",
        2,
    ),
    WrongAnswer(
        "no eps",
        lambda x, w, eps=EPS: (
            x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True)) * w
        ),
        "without eps an all-zero token gives 0 / 0.",
        3,
    ),
)

EXERCISES = (
    Exercise(
        id="0.1",
        title="RMSNorm",
        minutes=10,
        difficulty=1,
        ours=rms_norm,
        checks=(
            ("shape and dtype", check_shape),
            ("a token by hand", check_by_hand),
            ("an all-zero token", check_zeros),
            ("random inputs against the reference", same_as(rms_norm, probes)),
            (
                "gradients against the reference",
                same_gradient(rms_norm, probes),
            ),
            ("no token sees another", check_causal),
        ),
        probes=lambda: [*probes(), (torch.zeros(1, 1, 4), torch.ones(4))],
        wrong=WRONG,
        hints=(
            "The root mean square of one token is the square root of the mean of "
            "its squares. Divide by it; subtract nothing.",
            "One number per token: take the mean over the last axis and keep that "
            "axis, so that the division broadcasts: .mean(dim=-1, keepdim=True).",
            "x_BTD * torch.rsqrt(mean_square_BT1 + eps) * weight_D, where "
            "mean_square_BT1 is the mean of x_BTD squared.",
        ),
    ),
)
