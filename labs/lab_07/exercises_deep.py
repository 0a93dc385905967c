"""The deep exercises of lab 07, 7.4 and 7.5, and the mistakes they expect.

Shape suffixes: R rows, N tokens, B pairs.
"""
# mypy: allow-untyped-defs

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from labs.lab_07.reward_model import preference_loss
from labsupport.exercise import Exercise, WrongAnswer
from labsupport.exercise.check import CheckFailed, expect_close, same_as
from labsupport.rl.kl import k1, k2, k3

Arguments = tuple[Any, ...]

# --- 7.4 staying near ------------------------------------------------------------


def kl_penalty(logp_RN: Tensor, old_RN: Tensor, ref_RN: Tensor) -> Tensor:
    """rho k3, whose gradient is that of KL(pi || ref).

    Source: DeepSeek-V3.2, section 3.1.

    Args:
        logp_RN: under the policy that is trained; has a gradient.
        old_RN: under the one that wrote the tokens.
        ref_RN: under the reference.

    Returns:
        kl_RN.
    """
    return (logp_RN - old_RN).exp() * k3(logp_RN, ref_RN)


def kl_probes() -> Sequence[Arguments]:
    """Three policies each, near to one another and not."""
    found = []
    for seed, spread in ((0, 0.1), (1, 0.7), (2, 2.0)):
        generator = torch.Generator().manual_seed(seed)
        logp_RN = -torch.rand((3, 5), generator=generator) - 0.2
        steps_2RN = spread * torch.randn((2, 3, 5), generator=generator)
        found.append((logp_RN, logp_RN + steps_2RN[0], logp_RN + steps_2RN[1]))
    return found


def values(candidate: Callable[..., Any]) -> None:
    """rho = 1, r = 2; and rho = 2, r = 1/2."""
    two = torch.tensor([[2.0]]).log()
    zero = torch.zeros(1, 1)
    wanted = torch.tensor([[1 - 0.6931472]])
    came = candidate(zero.clone(), zero.clone(), two)
    expect_close(came, wanted, "rho = 1, ref / pi = 2: rho (2 - 1 - log 2)")
    came = candidate(two.clone(), zero.clone(), zero.clone())
    wanted = torch.tensor([[2 * (0.5 - 1 + 0.6931472)]])
    asked = "rho = 2, ref / pi = 1/2: rho (1/2 - 1 + log 2)"
    expect_close(came, wanted, asked)


def the_right_gradient(candidate: Callable[..., Any]) -> None:
    """The mean gradient over all tokens of a small vocabulary, summed exactly."""
    generator = torch.Generator().manual_seed(3)
    logits_V, other_V = torch.randn((2, 5), generator=generator).double()
    leaf_V = logits_V.clone().requires_grad_()
    logp_V, ref_V = leaf_V.log_softmax(-1), other_V.log_softmax(-1)
    kl = (logp_V.exp() * (logp_V - ref_V)).sum()
    (wanted_V,) = torch.autograd.grad(kl, leaf_V)
    logp_V = leaf_V.log_softmax(-1)
    old_V = logp_V.detach()
    came = candidate(logp_V[None], old_V[None], ref_V[None])
    if not isinstance(came, Tensor) or came.shape != (1, 5):
        raise CheckFailed("a tensor of shape (1, 5)", str(came))
    mean = (old_V.exp() * came[0]).sum()
    if not mean.requires_grad:
        raise CheckFailed("a gradient to logp_RN", "none")
    (found_V,) = torch.autograd.grad(mean, leaf_V)
    asked = "the mean gradient over all tokens, that of KL(pi || ref)"
    expect_close(found_V, wanted_V, asked)


def _no_ratio(logp, old, ref):
    return k3(logp, ref)


def _plain(logp, old, ref):
    return (logp - old).exp() * k1(logp, ref)


def _square(logp, old, ref):
    return (logp - old).exp() * k2(logp, ref)


def _turned(logp, old, ref):
    return (logp - old).exp() * k3(ref, logp)


def _held(logp, old, ref):
    return (logp - old).detach().exp() * k3(logp, ref)


def _from_old(logp, old, ref):
    return (logp - old).exp() * k3(old, ref)


def _ratio_down(logp, old, ref):
    return (old - logp).exp() * k3(logp, ref)


def _no_one(logp, old, ref):
    return (logp - old).exp() * (k3(logp, ref) + 1)


KL = Exercise(
    id="7.4",
    title="staying near a reference",
    minutes=15,
    difficulty=3,
    ours=kl_penalty,
    checks=(
        ("by hand", values),
        ("many tokens", same_as(kl_penalty, kl_probes)),
        ("the right gradient", the_right_gradient),
    ),
    probes=kl_probes,
    wrong=(
        WrongAnswer(
            "no ratio",
            _no_ratio,
            "that is k3 alone. Where pi = pi_old the number is right, but its gradient "
            "is that of KL(ref || pi). Multiply by rho.",
            2,
        ),
        WrongAnswer(
            "k1",
            _plain,
            "log (pi / ref) is right on average and may be negative. k3 is asked for: "
            "r - 1 - log r.",
            1,
        ),
        WrongAnswer(
            "k2",
            _square,
            "half of the square is not right on average. k3 is asked for: r - 1 - log "
            "r.",
            1,
        ),
        WrongAnswer(
            "r upside down",
            _turned,
            "r is ref / pi, not pi / ref.",
            1,
        ),
        WrongAnswer(
            "the ratio is held",
            _held,
            "the values are right, and the gradient is not: rho or k3 was detached. "
            "That of rho shows how the sampling itself depends on the weights, that of "
            "k3 what the penalty does.",
            3,
        ),
        WrongAnswer(
            "k3 of the old policy",
            _from_old,
            "r is computed with old_RN. The policy that is trained is logp_RN.",
            1,
        ),
        WrongAnswer(
            "ratio upside down",
            _ratio_down,
            "rho is pi / pi_old: exp(logp_RN - old_RN).",
            2,
        ),
        WrongAnswer(
            "1 forgotten",
            _no_one,
            "r - log r is at least 1: take 1 away, so that equal policies have 0.",
            1,
        ),
    ),
    hints=(
        "log r = ref_RN - logp_RN, and k3 = r - 1 - log r.",
        "rho = exp(logp_RN - old_RN) stands in front, token by token.",
        "Nothing is detached but what comes in without a gradient.",
    ),
    otherwise={
        "the right gradient": (
            "values are right, the gradient is not: it has to flow through rho and "
            "through r.",
            3,
        )
    },
)


# --- 7.5 learning from preferences -------------------------------------------------


def preference_probes() -> Sequence[Arguments]:
    """Scores near to each other, far apart, and very far."""
    found = []
    for seed, spread in ((0, 1.0), (1, 5.0), (2, 300.0)):
        generator = torch.Generator().manual_seed(seed)
        pair_2B = spread * torch.randn((2, 6), generator=generator)
        found.append((pair_2B[0], pair_2B[1]))
    return found


def odds_by_hand(candidate: Callable[..., Any]) -> None:
    """Equal scores: log 2. One of log 3 more: odds of 3 to 1."""
    zero, more = torch.zeros(1), torch.tensor([3.0]).log()
    came = candidate(zero.clone(), zero.clone())
    expect_close(came, torch.tensor(0.6931472), "equal scores: log 2")
    came = candidate(more.clone(), zero.clone())
    asked = "the better one ahead by log 3, so preferred in 3/4: log 4/3"
    expect_close(came, torch.tensor(0.2876821), asked)


def far_apart(candidate: Callable[..., Any]) -> None:
    """Scores 200 apart, on the wrong side."""
    came = candidate(torch.tensor([-100.0]), torch.tensor([100.0]))
    expect_close(came, torch.tensor(200.0), "scores -100 and 100: 200")


def _other_way(better, worse):
    return preference_loss(worse, better)


def _not_logged(better, worse):
    return 1 - torch.sigmoid(better - worse).mean()


def _sum(better, worse):
    return preference_loss(better, worse) * len(better)


def _overflows(better, worse):
    return -torch.log(torch.sigmoid(better - worse)).mean()


def _hinge(better, worse):
    return (1 - better + worse).clamp(min=0).mean()


def _mean_first(better, worse):
    return preference_loss(better.mean()[None], worse.mean()[None])


def _gap_only(better, worse):
    return (worse - better).mean()


def _no_minus(better_B, worse_B):
    return -preference_loss(better_B, worse_B)


def _each_pair(better_B, worse_B):
    return torch.nn.functional.softplus(worse_B - better_B)


def _added(better_B, worse_B):
    return -((better_B - worse_B).sigmoid() + 1e-8).log().mean()


PREFER = Exercise(
    id="7.5",
    title="a loss for preferences",
    minutes=12,
    difficulty=2,
    ours=preference_loss,
    checks=(
        ("by hand", odds_by_hand),
        ("scores far apart", far_apart),
        ("many pairs", same_as(preference_loss, preference_probes)),
    ),
    probes=preference_probes,
    wrong=(
        WrongAnswer(
            "the other way round",
            _other_way,
            "the loss is small where the worse one has the higher score.",
            1,
        ),
        WrongAnswer(
            "no logarithm",
            _not_logged,
            "that is the probability of being wrong. Its loss is minus the logarithm "
            "of being right.",
            1,
        ),
        WrongAnswer(
            "the sum",
            _sum,
            "pairs are added up. Take their mean.",
            2,
        ),
        WrongAnswer(
            "log of 0",
            _overflows,
            "a sigmoid of -200 is 0 in float32, and log 0 is infinite. Use "
            "`torch.nn.functional.logsigmoid`, or `softplus`.",
            3,
        ),
        WrongAnswer(
            "no minus",
            _no_minus,
            "the minus is missing. A logarithm of a probability is negative, and a "
            "loss gets small where the model is right.",
            1,
        ),
        WrongAnswer(
            "a number for each pair",
            _each_pair,
            "each pair has its loss; their mean is asked for.",
            2,
        ),
        WrongAnswer(
            "a small number added",
            _added,
            "a small number inside the logarithm keeps it finite, and makes it wrong: "
            "at -200 the loss is 200. Use `torch.nn.functional.logsigmoid`.",
            3,
        ),
        WrongAnswer(
            "a margin",
            _hinge,
            "that is a hinge loss with margin 1. Asked for is minus the log of the "
            "probability that the better one is preferred.",
            1,
        ),
        WrongAnswer(
            "mean scores",
            _mean_first,
            "scores are averaged before the loss. Each pair has a loss of its own.",
            2,
        ),
        WrongAnswer(
            "only the difference",
            _gap_only,
            "the difference alone has no limit: it would be widened for ever, also "
            "for pairs that are long clear.",
            1,
        ),
    ),
    hints=(
        "The model says: the better one is preferred with probability sigmoid(score "
        "of the better - score of the worse). The loss is minus the log of that.",
        "One number a pair, then their mean.",
        "`torch.nn.functional.logsigmoid` stays finite where the sigmoid is 0.",
    ),
    otherwise={"scores far apart": ("", 3)},
)
