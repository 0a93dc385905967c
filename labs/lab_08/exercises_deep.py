"""The deep exercise of lab 08, 8.4, and the mistakes it expects.

Shape suffixes: N tokens, V vocabulary.
"""
# mypy: allow-untyped-defs

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from labsupport.exercise import Exercise, WrongAnswer
from labsupport.exercise.check import expect_close, same_as, same_gradient

Arguments = tuple[Any, ...]


def mixture_divergence(
    log_p_NV: Tensor, log_q_NV: Tensor, beta: float
) -> Tensor:
    """beta KL(p || M) + (1 - beta) KL(q || M) of each row, M = beta p + (1 - beta) q.

    Args:
        log_p_NV: the teacher's log-probs.
        log_q_NV: the student's.
        beta: above 0 and below 1.
    """
    log_m_NV = torch.logaddexp(
        log_p_NV + math.log(beta), log_q_NV + math.log(1 - beta)
    )
    of_p_N = (log_p_NV.exp() * (log_p_NV - log_m_NV)).sum(-1)
    of_q_N = (log_q_NV.exp() * (log_q_NV - log_m_NV)).sum(-1)
    return beta * of_p_N + (1 - beta) * of_q_N


def mixture_probes() -> Sequence[Arguments]:
    """Random rows, and rows that hardly overlap: probabilities of e^-200."""
    found = []
    for seed, beta in enumerate((0.5, 0.1, 0.8)):
        generator = torch.Generator().manual_seed(seed)
        p_NV = torch.randn((3, 5), generator=generator)
        q_NV = torch.randn((3, 5), generator=generator)
        found.append((p_NV.log_softmax(-1), q_NV.log_softmax(-1), beta))
    apart = torch.tensor([[100.0, 0.0, -100.0]])
    found.append((apart.log_softmax(-1), (-apart).log_softmax(-1), 0.3))
    found.append((apart.log_softmax(-1), (apart + 1).log_softmax(-1), 0.3))
    return found


def of_scores(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same of scores: only their gradient is what a model learns from.

    By the log-probs alone it may differ, as those of a row are tied together.
    """

    def called(teacher_NV: Tensor, student_NV: Tensor, beta: float) -> Any:
        return function(
            teacher_NV.log_softmax(-1), student_NV.log_softmax(-1), beta
        )

    return called


def pulls(candidate: Callable[..., Any]) -> None:
    """Fail where the gradient to the scores is another than ours."""
    ours = of_scores(mixture_divergence)
    same_gradient(ours, mixture_probes)(of_scores(candidate))


def apart(candidate: Callable[..., Any]) -> None:
    """No token in common: log 2 at beta = 1/2, and never more."""
    sure = torch.tensor([[0.0, -200.0]])
    wanted = torch.tensor([math.log(2)])
    asked = "p = [1, 0] and q = [0, 1], beta = 1/2: log 2"
    expect_close(candidate(sure, sure.flip(-1), 0.5), wanted, asked)


def equal(candidate: Callable[..., Any]) -> None:
    """Nothing between equals."""
    log_p_NV = torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log()
    asked = "p = q, beta = 0.3: 0 for each row"
    expect_close(
        candidate(log_p_NV, log_p_NV.clone(), 0.3), torch.zeros(2), asked
    )


def _halves(log_p_NV, log_q_NV, beta):
    return mixture_divergence(log_p_NV, log_q_NV, 0.5)


def _turned(log_p_NV, log_q_NV, beta):
    return mixture_divergence(log_p_NV, log_q_NV, 1 - beta)


def _mean_of_logs(log_p_NV, log_q_NV, beta):
    log_m_NV = beta * log_p_NV + (1 - beta) * log_q_NV
    of_p_N = (log_p_NV.exp() * (log_p_NV - log_m_NV)).sum(-1)
    of_q_N = (log_q_NV.exp() * (log_q_NV - log_m_NV)).sum(-1)
    return beta * of_p_N + (1 - beta) * of_q_N


def _underflow(log_p_NV, log_q_NV, beta):
    p_NV, q_NV = log_p_NV.exp(), log_q_NV.exp()
    m_NV = beta * p_NV + (1 - beta) * q_NV
    of_p_N = (p_NV * (p_NV / m_NV).log()).sum(-1)
    of_q_N = (q_NV * (q_NV / m_NV).log()).sum(-1)
    return beta * of_p_N + (1 - beta) * of_q_N


def _log_after(log_p_NV, log_q_NV, beta):
    p_NV, q_NV = log_p_NV.exp(), log_q_NV.exp()
    log_m_NV = (beta * p_NV + (1 - beta) * q_NV).log()
    of_p_N = (p_NV * (log_p_NV - log_m_NV)).sum(-1)
    of_q_N = (q_NV * (log_q_NV - log_m_NV)).sum(-1)
    return beta * of_p_N + (1 - beta) * of_q_N


def _torch_log(log_p_NV, log_q_NV, beta):
    return torch.logaddexp(log_p_NV + torch.log(beta), log_q_NV)


def _weighed(log_p_NV, log_q_NV, inside, outside):
    log_m_NV = torch.logaddexp(
        log_p_NV + math.log(inside), log_q_NV + math.log(1 - inside)
    )
    of_p_N = (log_p_NV.exp() * (log_p_NV - log_m_NV)).sum(-1)
    of_q_N = (log_q_NV.exp() * (log_q_NV - log_m_NV)).sum(-1)
    return outside * of_p_N + (1 - outside) * of_q_N


def _turned_in_m(log_p_NV, log_q_NV, beta):
    return _weighed(log_p_NV, log_q_NV, 1 - beta, beta)


def _turned_in_front(log_p_NV, log_q_NV, beta):
    return _weighed(log_p_NV, log_q_NV, beta, 1 - beta)


def _sign(log_p_NV, log_q_NV, beta):
    return -mixture_divergence(log_p_NV, log_q_NV, beta)


def _two_kls(log_p_NV, log_q_NV, beta):
    of_p_N = (log_p_NV.exp() * (log_p_NV - log_q_NV)).sum(-1)
    of_q_N = (log_q_NV.exp() * (log_q_NV - log_p_NV)).sum(-1)
    return beta * of_p_N + (1 - beta) * of_q_N


def _not_weighed(log_p_NV, log_q_NV, beta):
    log_m_NV = torch.logaddexp(
        log_p_NV + math.log(beta), log_q_NV + math.log(1 - beta)
    )
    of_p_N = (log_p_NV.exp() * (log_p_NV - log_m_NV)).sum(-1)
    of_q_N = (log_q_NV.exp() * (log_q_NV - log_m_NV)).sum(-1)
    return of_p_N + of_q_N


def _from_m(log_p_NV, log_q_NV, beta):
    log_m_NV = torch.logaddexp(
        log_p_NV + math.log(beta), log_q_NV + math.log(1 - beta)
    )
    of_p_N = (log_m_NV.exp() * (log_m_NV - log_p_NV)).sum(-1)
    of_q_N = (log_m_NV.exp() * (log_m_NV - log_q_NV)).sum(-1)
    return beta * of_p_N + (1 - beta) * of_q_N


def _one_number(log_p_NV, log_q_NV, beta):
    return mixture_divergence(log_p_NV, log_q_NV, beta).mean()


def _no_sum(log_p_NV, log_q_NV, beta):
    log_m_NV = torch.logaddexp(
        log_p_NV + math.log(beta), log_q_NV + math.log(1 - beta)
    )
    of_p_NV = log_p_NV.exp() * (log_p_NV - log_m_NV)
    of_q_NV = log_q_NV.exp() * (log_q_NV - log_m_NV)
    return beta * of_p_NV + (1 - beta) * of_q_NV


def _m_not_weighed(log_p_NV, log_q_NV, beta):
    log_m_NV = torch.logaddexp(log_p_NV, log_q_NV)
    of_p_N = (log_p_NV.exp() * (log_p_NV - log_m_NV)).sum(-1)
    of_q_N = (log_q_NV.exp() * (log_q_NV - log_m_NV)).sum(-1)
    return beta * of_p_N + (1 - beta) * of_q_N


MIXTURE = Exercise(
    id="8.4",
    title="between forward and reverse",
    minutes=12,
    difficulty=2,
    ours=mixture_divergence,
    checks=(
        ("equals", equal),
        ("nothing in common", apart),
        ("many rows", same_as(mixture_divergence, mixture_probes)),
        ("the gradient to the scores", pulls),
    ),
    otherwise={
        "the gradient to the scores": (
            "the value is right and its gradient is not: p or q is detached.",
            1,
        )
    },
    probes=mixture_probes,
    wrong=(
        WrongAnswer(
            "beta is 1/2",
            _halves,
            "beta is not used: this is the divergence at one half.",
            1,
        ),
        WrongAnswer(
            "beta turned round",
            _turned,
            "beta and 1 - beta have changed places. beta belongs to the teacher's p, "
            "in M and in front.",
            1,
        ),
        WrongAnswer(
            "a mean of logs",
            _mean_of_logs,
            "log M is taken as a mean of logarithms. M is a mean of probabilities.",
            2,
        ),
        WrongAnswer(
            "small numbers lost",
            _underflow,
            "probabilities of e^-200 are 0 in float32, and 0 log 0 is not a number. "
            "Stay with logarithms: `torch.logaddexp`.",
            3,
        ),
        WrongAnswer(
            "M, then its log",
            _log_after,
            "where both p and q are e^-200, M is 0 in float32 and log M infinite. "
            "Stay with logarithms: `torch.logaddexp`.",
            3,
        ),
        WrongAnswer(
            "torch.log of a number",
            _torch_log,
            "beta is a Python number, and `torch.log` takes tensors: `math.log`.",
            2,
        ),
        WrongAnswer(
            "turned round in M",
            _turned_in_m,
            "in M beta and 1 - beta have changed places: M = beta p + (1 - beta) q.",
            2,
        ),
        WrongAnswer(
            "turned round in front",
            _turned_in_front,
            "in front beta and 1 - beta have changed places: beta weighs KL(p || M).",
            1,
        ),
        WrongAnswer(
            "sign turned",
            _sign,
            "the sign is turned: log p - log M is weighed, not log M - log p.",
            1,
        ),
        WrongAnswer(
            "no M",
            _two_kls,
            "p and q are compared with each other. Both are to be compared with M, "
            "which keeps it below log 2.",
            1,
        ),
        WrongAnswer(
            "not weighed",
            _not_weighed,
            "both divergences are added as they are. They are weighed by beta and "
            "1 - beta.",
            1,
        ),
        WrongAnswer(
            "the other way round",
            _from_m,
            "that is KL(M || p) and KL(M || q). Asked for are KL(p || M) and "
            "KL(q || M): p and q weigh.",
            1,
        ),
        WrongAnswer(
            "no sum",
            _no_sum,
            "entries of the vocabulary are not added up: a number for each row is "
            "asked for, not one for each entry.",
            1,
        ),
        WrongAnswer(
            "M without weights",
            _m_not_weighed,
            "M is p + q. It is beta p + (1 - beta) q: add the logarithms of both "
            "weights before `logaddexp`.",
            2,
        ),
        WrongAnswer(
            "one number",
            _one_number,
            "rows are averaged. A number for each row is asked for.",
            1,
        ),
    ),
    hints=(
        "Write it in two steps: log M first, then both divergences, each a sum over "
        "the last dimension.",
        "M = beta p + (1 - beta) q. In logarithms: p has `log_p_NV + math.log(beta)`.",
        "`torch.logaddexp(a, b)` is log(e^a + e^b), without leaving logarithms.",
    ),
)
