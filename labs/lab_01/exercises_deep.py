"""The deep exercises of lab 01, 1.4 and 1.5, and the mistakes they expect.

Shape suffixes: n lanes, M tokens, P = n + n + n² coefficients of a branch.
"""
# mypy: allow-untyped-defs

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from labs.lab_01.exercises_core import Arguments, random, sinkhorn_knopp
from labsupport.exercise import CheckFailed, Exercise, WrongAnswer
from labsupport.exercise.check import expect_close, expect_tensor, same_as
from labsupport.nn import GPT, GPTConfig, ManifoldHyperConnection

# --- 1.4 the backward of Sinkhorn (deep) -------------------------------------


def sinkhorn_backward(
    gradient_nnM: Tensor, res_nnM: Tensor, scales: Sequence[Tensor]
) -> Tensor:
    """The gradient at the logits, from the result and the scales alone.

    Args:
        gradient_nnM: the gradient at the result.
        res_nnM: the result of Sinkhorn-Knopp.
        scales: what each normalisation multiplied with, first one first: columns
            (1, n, M), rows (n, 1, M), columns, rows, ...
    """
    for number in reversed(range(len(scales))):
        axis, scale = number % 2, scales[number]
        inner = (gradient_nnM * res_nnM).sum(dim=axis, keepdim=True)
        gradient_nnM = scale * (gradient_nnM - inner)
        res_nnM = res_nnM / scale
    return gradient_nnM * res_nnM


def with_scales(
    logits_nnM: Tensor, iterations: int
) -> tuple[Tensor, list[Tensor]]:
    """Sinkhorn-Knopp that remembers what it multiplied with."""
    res_nnM = torch.exp(logits_nnM - logits_nnM.amax(dim=0, keepdim=True))
    scales = []
    for _ in range(iterations):
        for axis in (0, 1):
            scales.append(1 / res_nnM.sum(dim=axis, keepdim=True))
            res_nnM = res_nnM * scales[-1]
    return res_nnM, scales


def backward_probes() -> Sequence[Arguments]:
    found = []
    for seed, spread, iterations in ((0, 1.0, 1), (1, 2.0, 3), (2, 1.0, 20)):
        logits_nnM = random(4, 4, 3, seed=seed, scale=spread).double()
        res_nnM, scales = with_scales(logits_nnM, iterations)
        found.append(
            (random(4, 4, 3, seed=seed + 9).double(), res_nnM, scales)
        )
    return found


def backward_is_autograd(candidate: Callable[..., Any]) -> None:
    """To 1e-9 in float64, with a random gradient at the result."""
    logits_nnM = random(4, 4, 6, seed=5, scale=2.0).double().requires_grad_()
    weights_nnM = random(4, 4, 6, seed=6).double()
    (wanted,) = torch.autograd.grad(
        (sinkhorn_knopp(logits_nnM, 4) * weights_nnM).sum(), logits_nnM
    )
    res_nnM, scales = with_scales(logits_nnM.detach(), 4)
    came = candidate(weights_nnM, res_nnM, scales)
    expect_close(
        came, wanted, "autograd's gradient through 4 iterations", 1e-9
    )


def _final_only(g, m, scales):  # type: ignore[no-untyped-def]
    for number in reversed(range(len(scales))):
        axis = number % 2
        g = scales[number] * (g - (g * m).sum(dim=axis, keepdim=True))
    return g * m


def _axes_swapped(g, m, scales):  # type: ignore[no-untyped-def]
    for number in reversed(range(len(scales))):
        axis = 1 - number % 2
        g = scales[number] * (g - (g * m).sum(dim=axis, keepdim=True))
        m = m / scales[number]
    return g * m


def _no_inner(g, m, scales):  # type: ignore[no-untyped-def]
    for scale in reversed(scales):
        g, m = scale * g, m / scale
    return g * m


def _final_inside(g, m, scales):  # type: ignore[no-untyped-def]
    final = m
    for number in reversed(range(len(scales))):
        inner = (g * final).sum(dim=number % 2, keepdim=True)
        g, m = scales[number] * (g - inner), m / scales[number]
    return g * m


def _final_for_exp(g, m, scales):  # type: ignore[no-untyped-def]
    return _before_exp(g, m, scales) * m


def _before_exp(g, m, scales):  # type: ignore[no-untyped-def]
    for number in reversed(range(len(scales))):
        inner = (g * m).sum(dim=number % 2, keepdim=True)
        g, m = scales[number] * (g - inner), m / scales[number]
    return g


def _matrix_before(g, m, scales):  # type: ignore[no-untyped-def]
    for number in reversed(range(len(scales))):
        m = m / scales[number]
        inner = (g * m).sum(dim=number % 2, keepdim=True)
        g = scales[number] * (g - inner)
    return g * m


BACKWARD = Exercise(
    id="1.4",
    title="Sinkhorn-Knopp backwards",
    minutes=20,
    difficulty=3,
    ours=sinkhorn_backward,
    checks=(
        ("autograd", backward_is_autograd),
        ("random cases", same_as(sinkhorn_backward, backward_probes)),
    ),
    probes=backward_probes,
    wrong=(
        WrongAnswer(
            "final matrix at every step",
            _final_only,
            "the final matrix is used at every step. A well-known library does that; "
            "the error is small only where Sinkhorn has converged. Undo each scaling: "
            "`res = res / scale`.",
            2,
        ),
        WrongAnswer(
            "axes",
            _axes_swapped,
            "rows and columns are exchanged: scales[0] belongs to columns (dim 0), the "
            "last one to rows.",
            2,
        ),
        WrongAnswer(
            "final matrix in the inner product",
            _final_inside,
            "the matrix is walked back, but the inner product takes the final one at "
            "every step: it belongs to the m' of its own step.",
            2,
        ),
        WrongAnswer(
            "final matrix for exp",
            _final_for_exp,
            "at the end the gradient is multiplied with the final matrix. exp made the "
            "first one, before any scaling: what walking back arrives at.",
            3,
        ),
        WrongAnswer(
            "exp forgotten",
            _before_exp,
            "this is the gradient at exp(logits): one step back is missing, exp's.",
            3,
        ),
        WrongAnswer(
            "m for m'",
            _matrix_before,
            "the inner product takes the matrix before the scaling, m. It needs the "
            "one after it, m': compute it first, then walk back.",
            1,
        ),
        WrongAnswer(
            "scales taken as constants",
            _no_inner,
            "the scale is treated as a constant, but it depends on the matrix: "
            "subtract the inner product of gradient and result.",
            1,
        ),
    ),
    hints=(
        "One normalisation is m' = m s with s = 1 / sum(m). Its backward: "
        "g = s (g' - sum(g' m')), the sum over the same axis.",
        "Walk backwards through the scales; number % 2 is the axis. After each step "
        "m = m' / s.",
        "At the start stands exp: its backward multiplies with exp's result, which is "
        "what m has become.",
    ),
)

# --- 1.5 an initialisation that changes nothing (deep) -----------------------


def first_bias(n: int, main: int) -> Tensor:
    """Biases with which mHC begins as the plain residual network, exactly.

    Args:
        n: lanes.
        main: the lane that this branch reads most.

    Returns:
        bias_P: n logits of H_pre (sigmoid), n of H_post (2 sigmoid), and the
        n x n of H_res (Sinkhorn), row by row.
    """
    read_n = torch.full((n,), 0.3 / (n - 1))
    read_n[main] = 0.7
    res_nn = -8.0 * (1 - torch.eye(n))
    return torch.cat([torch.logit(read_n), torch.zeros(n), res_nn.flatten()])


def bias_probes() -> Sequence[Arguments]:
    return [(4, 0), (4, 2), (3, 1)]


def bias_reads(candidate: Callable[..., Any]) -> None:
    for n, main in ((4, 1), (3, 2)):
        bias_P = candidate(n, main)
        expect_tensor(bias_P, (2 * n + n * n,), torch.float32)
        read_n = torch.sigmoid(bias_P[:n])
        expect_close(
            read_n.sum(), torch.tensor(1.0), "reads that sum to one; their sum"
        )
        if read_n.argmax() != main or read_n.max() < read_n.median() + 0.1:
            raise CheckFailed(
                f"lane {main} to be read most", f"reads {read_n.tolist()}"
            )


def bias_writes(candidate: Callable[..., Any]) -> None:
    write_n = 2 * torch.sigmoid(candidate(4, 0)[4:8])
    expect_close(write_n, torch.ones(4), "writes 2 sigmoid(...)")


def bias_keeps(candidate: Callable[..., Any]) -> None:
    res_nn = sinkhorn_knopp(candidate(4, 0)[8:].view(4, 4, 1))[:, :, 0]
    if res_nn.diagonal().min() < 0.99:
        raise CheckFailed(
            "an H_res that keeps 99 % of every lane",
            f"{res_nn.diagonal().tolist()}",
        )


def bias_equals_residual(candidate: Callable[..., Any]) -> None:
    config = GPTConfig(
        vocab_size=20, d_model=8, n_layers=2, n_heads=1, max_len=8
    )
    torch.manual_seed(0)
    plain = GPT(config)
    wide = GPT(config, residual=ManifoldHyperConnection)
    wide.load_state_dict(plain.state_dict(), strict=False)
    with torch.no_grad():
        for block in wide.blocks:
            for part in (block.attention_residual, block.ffn_residual):
                part.bias_P.copy_(candidate(4, part.branch % 4))  # type: ignore[union-attr, operator]
    tokens_BT = torch.arange(16).view(2, 8)
    gap = (plain(tokens_BT) - wide(tokens_BT)).abs().max().item()
    if gap > 1e-6:
        raise CheckFailed(
            "the residual network's logits to 1e-6", f"a gap of {gap:.2g}"
        )


def _weights(n: int, main: int) -> Tensor:
    read_n = torch.sigmoid(first_bias(n, main)[:n])
    res_nn = torch.full((n, n), 0.01 / (n - 1)).fill_diagonal_(0.99)
    return torch.cat([read_n, torch.ones(n), res_nn.flatten()])


def _logit_of_99(n: int, main: int) -> Tensor:
    diagonal_nn = math.log(99) * torch.eye(n)
    return torch.cat([first_bias(n, main)[: 2 * n], diagonal_nn.flatten()])


def _bias(
    n: int,
    main: int,
    pre: Tensor | None = None,
    post: float = 0.0,
    res: float = -8.0,
):  # type: ignore[no-untyped-def]
    ours = first_bias(n, main)
    pre = ours[:n] if pre is None else pre
    return torch.cat(
        [pre, torch.full((n,), post), (res * (1 - torch.eye(n))).flatten()]
    )


FIRST_BIAS = Exercise(
    id="1.5",
    title="begin as the plain residual",
    minutes=12,
    difficulty=2,
    ours=first_bias,
    checks=(
        ("reads", bias_reads),
        ("writes", bias_writes),
        ("keeps", bias_keeps),
        ("equal to the residual", bias_equals_residual),
    ),
    probes=bias_probes,
    wrong=(
        WrongAnswer(
            "all zero",
            lambda n, main: torch.zeros(2 * n + n * n),
            "with all logits 0 every lane is read with 1/2 and H_res mixes all lanes "
            "into one.",
            1,
        ),
        WrongAnswer(
            "weights instead of logits",
            _weights,
            "these are the weights themselves. A bias is a logit: what becomes the "
            "weight under sigmoid, 2 sigmoid or Sinkhorn.",
            1,
        ),
        WrongAnswer(
            "log 99 on the diagonal",
            _logit_of_99,
            "log 99 = 4.6 keeps 99 % beside ONE other lane. n - 1 others together take "
            "more: the diagonal has to lead by more than log(99 (n - 1)).",
            3,
        ),
        WrongAnswer(
            "equal reads",
            lambda n, main: _bias(n, main, torch.full((n,), 1 / n).logit()),
            "all lanes are read alike, so all get the same gradients and stay equal "
            "for ever: lane `main` has to be read more.",
            2,
        ),
        WrongAnswer(
            "writes of logit 1",
            partial(_bias, post=1.0),
            "H_post is 2 sigmoid(logit): a logit of 1 writes 1.46, one of 0 writes 1.",
            1,
        ),
        WrongAnswer(
            "uniform mixing",
            partial(_bias, res=0.0),
            "H_res starts as 1/n everywhere. On equal lanes that changes nothing, but "
            "it would average away every difference that training makes.",
            3,
        ),
    ),
    hints=(
        "sigmoid(b) = p means b = torch.logit(p). Writes: 2 sigmoid(0) = 1.",
        "Reads that sum to one and differ: 0.7 for lane main, 0.3 / (n - 1) for each "
        "other.",
        "Logits of 0 on the diagonal and -8 beside it: exp(-8) is 0.0003.",
    ),
    otherwise={
        "reads": (
            "the first n biases are logits: sigmoid of them has to sum to one, with "
            "lane `main` well above the others.",
            2,
        ),
        "writes": (
            "the second n biases are logits of 2 sigmoid, which has to be 1.",
            1,
        ),
        "keeps": (
            "exp of the diagonal's logit has to be more than 99 times the sum of exp "
            "over the other n - 1.",
            3,
        ),
    },
)
