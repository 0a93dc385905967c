"""The core exercises of lab 02, 2.1 to 2.3, and the mistakes they expect.

Shape suffixes: N tokens, E experts, K experts of a token, D width, R = N K rows:
a row is one token's visit to one expert.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from labsupport.exercise import Exercise, WrongAnswer
from labsupport.exercise.check import (
    CheckFailed,
    expect_close,
    same_as,
    same_gradient,
)
from labsupport.nn.moe_balance import sign_update

Arguments = tuple[Any, ...]


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(shape, generator=generator)


# --- 2.1 the gate ------------------------------------------------------------


def gate(
    logits_NE: Tensor, bias_E: Tensor, top_k: int
) -> tuple[Tensor, Tensor]:
    """The experts of each token and their weights (V3, equations 13 to 16).

    Returns:
        index_NK, the largest biased score first, and weight_NK, which sums to 1.
    """
    score_NE = torch.sigmoid(logits_NE)
    index_NK = torch.topk(score_NE + bias_E, top_k).indices
    chosen_NK = score_NE.gather(1, index_NK)
    return index_NK, chosen_NK / chosen_NK.sum(dim=1, keepdim=True)


def gate_probes() -> Sequence[Arguments]:
    """Biases that change who is chosen."""
    return [
        (random(N, E, seed=N), random(E, seed=E, scale=0.5), K)
        for N, E, K in ((5, 8, 2), (3, 4, 3), (2, 6, 1))
    ]


def gate_by_hand(candidate: Callable[..., Any]) -> None:
    """Scores 0.9, 0.5, 0.1; the bias lifts the third over the second."""
    logits_NE = torch.logit(torch.tensor([[0.9, 0.5, 0.1]]))
    bias_E = torch.tensor([0.0, 0.0, 0.6])
    wanted = (torch.tensor([[0, 2]]), torch.tensor([[0.9, 0.1]]))
    came = candidate(logits_NE, bias_E, 2)
    expect_close(
        came,
        wanted,
        "two experts for scores 0.9, 0.5, 0.1 and biases 0, 0, 0.6",
    )


def _gate(logits, bias, top_k, score=torch.sigmoid, weigh=None, norm=True):  # type: ignore[no-untyped-def]
    s = score(logits)
    index = torch.topk(s + bias, top_k).indices
    chosen = (s if weigh is None else weigh(s, bias)).gather(1, index)
    return index, chosen / chosen.sum(1, keepdim=True) if norm else chosen


def _chosen_by_logits(logits, bias, top_k):  # type: ignore[no-untyped-def]
    index = torch.topk(logits + bias, top_k).indices
    chosen = torch.sigmoid(logits).gather(1, index)
    return index, chosen / chosen.sum(1, keepdim=True)


def _sorted_by_number(logits, bias, top_k):  # type: ignore[no-untyped-def]
    index, weight = gate(logits, bias, top_k)
    index, order = index.sort(dim=1)
    return index, weight.gather(1, order)


GATE = Exercise(
    id="2.1",
    title="the gate with its bias",
    minutes=10,
    difficulty=1,
    ours=gate,
    checks=(
        ("by hand", gate_by_hand),
        ("random scores", same_as(gate, gate_probes)),
        ("gradient", same_gradient(gate, gate_probes)),
    ),
    probes=gate_probes,
    wrong=(
        WrongAnswer(
            "bias weighs",
            lambda x, b, k: _gate(x, b, k, weigh=lambda s, bias: s + bias),
            "the bias takes part in the weights. It decides who is chosen and nothing "
            "else: take the weights from the scores without it.",
            2,
        ),
        WrongAnswer(
            "bias forgotten",
            lambda x, b, k: _gate(x, 0 * b, k),
            "the bias does not take part in the choice: add it to the scores before "
            "topk.",
            1,
        ),
        WrongAnswer(
            "not normalised",
            lambda x, b, k: _gate(x, b, k, norm=False),
            "the weights of a token do not sum to 1: divide by the sum of the chosen "
            "scores.",
            3,
        ),
        WrongAnswer(
            "normalised over all",
            lambda x, b, k: _gate(
                x,
                b,
                k,
                weigh=lambda s, bias: s / s.sum(1, keepdim=True),
                norm=False,
            ),
            "scores are divided by the sum over all experts; it has to be the sum "
            "over the chosen ones.",
            3,
        ),
        WrongAnswer(
            "softmax",
            lambda x, b, k: _gate(x, b, k, lambda y: y.softmax(1)),
            "scores come from a softmax. V3 takes a sigmoid: each expert is scored "
            "for itself.",
            1,
        ),
        WrongAnswer(
            "bias on the logits",
            lambda x, b, k: _gate(x + b, 0 * b, k),
            "the bias is added to the logits, before the sigmoid. It belongs to the "
            "scores, and only for the choice.",
            2,
        ),
        WrongAnswer(
            "chosen by logits",
            lambda x, b, k: _chosen_by_logits(x, b, k),
            "experts are chosen by logits plus biases; it has to be scores, the "
            "sigmoids of logits, plus biases.",
            1,
        ),
        WrongAnswer(
            "sorted by number",
            lambda x, b, k: _sorted_by_number(x, b, k),
            "the experts are right, but in another order: the largest biased score "
            "comes first, as `topk` gives them.",
            1,
        ),
    ),
    hints=(
        "A score is the sigmoid of a logit. `torch.topk(...).indices` of scores plus "
        "biases says who is chosen.",
        "Two different tensors: scores plus biases for the choice, scores alone for "
        "the weights. `gather` picks the chosen scores.",
        "A token's weights sum to 1: divide its K chosen scores by their own sum, "
        "with keepdim=True.",
    ),
)

# --- 2.2 the update ----------------------------------------------------------


def update_bias(bias_E: Tensor, count_E: Tensor, speed: float) -> Tensor:
    """b + u sign(mean(c) - c) (2408.15664, algorithm 1)."""
    return sign_update(bias_E, count_E, speed)


def update_probes() -> Sequence[Arguments]:
    """One expert is exactly at the mean; the median lies elsewhere; the last mean,
    7 / 4, is no whole number and would round down to a count."""
    return [
        (random(4, seed=1), torch.tensor([10.0, 2.0, 4.0, 0.0]), 0.001),
        (random(3, seed=2), torch.tensor([1.0, 1.0, 10.0]), 0.5),
        (random(4, seed=3), torch.tensor([5.0, 1.0, 1.0, 0.0]), 0.1),
    ]


def update_by_hand(candidate: Callable[..., Any]) -> None:
    """Counts 6, 3, 0: the mean is 3."""
    bias_E = torch.tensor([0.5, 0.0, -0.5])
    came = candidate(bias_E, torch.tensor([6, 3, 0]), 0.1)
    wanted = torch.tensor([0.4, 0.0, -0.4])
    expect_close(
        came, wanted, "biases 0.5, 0, -0.5 after counts 6, 3, 0 at speed 0.1"
    )
    before = torch.tensor([0.5, 0.0, -0.5])
    expect_close(bias_E, before, "the old biases left as they were")


UPDATE = Exercise(
    id="2.2",
    title="the loss-free update",
    minutes=6,
    difficulty=1,
    ours=update_bias,
    checks=(
        ("by hand", update_by_hand),
        ("random biases", same_as(update_bias, update_probes)),
    ),
    probes=update_probes,
    wrong=(
        WrongAnswer(
            "wrong way round",
            lambda b, c, u: b + u * torch.sign(c - c.float().mean()),
            "the biases of busy experts rise. They have to fall: mean minus count.",
            1,
        ),
        WrongAnswer(
            "no sign",
            lambda b, c, u: b + u * (c.float().mean() - c),
            "the bias moves by the size of the error. Algorithm 1 takes its sign only: "
            "every bias moves by the speed or not at all.",
            2,
        ),
        WrongAnswer(
            "median",
            lambda b, c, u: b + u * torch.sign(c.float().median() - c),
            "counts are held against their median. An even load is the mean.",
            1,
        ),
        WrongAnswer(
            "rounded mean",
            lambda b, c, u: b + u * torch.sign(c.float().mean().floor() - c),
            "the mean is rounded down to a whole number, so counts just below it seem "
            "to be even.",
            2,
        ),
        WrongAnswer(
            "at the mean is not below it",
            lambda b, c, u: torch.where(c > c.float().mean(), b - u, b + u),
            "an expert exactly at the mean moves up. The sign of 0 is 0: it stays.",
            2,
        ),
        WrongAnswer(
            "no speed",
            lambda b, c, u: b + torch.sign(c.float().mean() - c),
            "the speed is missing: a step of 1 carries any expert past all others, as "
            "scores lie between 0 and 1.",
            2,
        ),
        WrongAnswer(
            "bias replaced",
            lambda b, c, u: u * torch.sign(c.float().mean() - c),
            "the old biases are lost: the step is added to them.",
            1,
        ),
    ),
    hints=(
        "Whoever got more than the mean has to become less attractive: the error is "
        "mean minus count, and it is added to the old bias.",
        "`torch.sign` keeps the direction of the error; `speed` is the length of the "
        "step. Counts may be integers: take the mean of `count_E.float()`.",
    ),
    otherwise={
        "by hand": ("counts are integers, and integers have no mean().", 2)
    },
)

# --- 2.3 dispatch and combine ------------------------------------------------


def dispatch(
    x_ND: Tensor,
    index_NK: Tensor,
    weight_NK: Tensor,
    experts: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Send tokens to their experts, bring the results back, weigh and add.

    Args:
        experts: (rows_RD, expert_R) -> y_RD; rows sorted by expert.

    Returns:
        y_ND.
    """
    N, K = index_NK.shape
    expert_R = index_NK.flatten()
    order_R = torch.argsort(expert_R, stable=True)
    made_RD = experts(x_ND[order_R // K], expert_R[order_R])
    back_RD = torch.empty_like(made_RD)
    back_RD[order_R] = made_RD
    return (weight_NK[:, :, None] * back_RD.view(N, K, -1)).sum(dim=1)


def times_and_plus(rows_RD: Tensor, expert_R: Tensor) -> Tensor:
    """Stands in for experts: expert e makes (e + 1) x + e of a row.

    Raises:
        CheckFailed: rows that are not sorted.
    """
    if (expert_R.diff() < 0).any():
        came = f"rows for experts {expert_R.tolist()}"
        raise CheckFailed("rows sorted by their expert", came)
    if rows_RD.shape[0] != expert_R.shape[0]:
        came = f"{rows_RD.shape[0]} rows for {expert_R.shape[0]} visits"
        raise CheckFailed("one row for every visit, N times K", came)
    e_R1 = expert_R[:, None].to(rows_RD)
    return (e_R1 + 1) * rows_RD + e_R1


def dispatch_probes() -> Sequence[Arguments]:
    """Experts without tokens, one that gets all, and one expert a token."""
    generator = torch.Generator().manual_seed(3)

    def some(N: int, E: int, K: int) -> Tensor:
        return torch.rand(N, E, generator=generator).topk(K).indices

    busy_NK = torch.tensor([[5, 1], [5, 0], [5, 3]])
    indices = [some(7, 8, 3), some(4, 6, 2), busy_NK, some(5, 4, 1)]
    return [
        (
            random(len(i), 3, seed=n),
            i,
            random(*i.shape, seed=n + 9).abs(),
            times_and_plus,
        )
        for n, i in enumerate(indices)
    ]


def dispatch_by_hand(candidate: Callable[..., Any]) -> None:
    """Token 0 goes to experts 2 and 0, token 1 to 0 and 1."""
    x_ND = torch.tensor([[1.0], [10.0]])
    index_NK = torch.tensor([[2, 0], [0, 1]])
    weight_NK = torch.tensor([[0.5, 0.5], [0.25, 0.75]])
    came = candidate(x_ND, index_NK, weight_NK, times_and_plus)
    wanted = torch.tensor([[0.5 * 5 + 0.5 * 1], [0.25 * 10 + 0.75 * 21]])
    expect_close(
        came, wanted, "tokens 1 and 10, where expert e makes (e + 1) x + e"
    )


def _sorted(x, index, experts):  # type: ignore[no-untyped-def]
    flat = index.flatten()
    order = torch.argsort(flat, stable=True)
    made = experts(x[order // index.shape[1]], flat[order])
    return order, made


def _not_put_back(x, index, weight, experts):  # type: ignore[no-untyped-def]
    _, made = _sorted(x, index, experts)
    return (weight[:, :, None] * made.view(*index.shape, -1)).sum(1)


def _once_per_token(x, index, weight, experts):  # type: ignore[no-untyped-def]
    order, made = _sorted(x, index, experts)
    y = torch.zeros_like(x)
    y[order // index.shape[1]] += weight.flatten()[order, None] * made
    return y


def _weighted_before(x, index, weight, experts):  # type: ignore[no-untyped-def]
    flat = index.flatten()
    order = torch.argsort(flat, stable=True)
    rows = x[order // index.shape[1]] * weight.flatten()[order, None]
    made = experts(rows, flat[order])
    back = torch.empty_like(made)
    back[order] = made
    return back.view(*index.shape, -1).sum(1)


def _put_back_twice(x, index, weight, experts):  # type: ignore[no-untyped-def]
    order, made = _sorted(x, index, experts)
    return (weight[:, :, None] * made[order].view(*index.shape, -1)).sum(1)


def _weights_not_sorted(x, index, weight, experts):  # type: ignore[no-untyped-def]
    order, made = _sorted(x, index, experts)
    rows = weight.flatten()[:, None] * made
    return torch.zeros_like(x).index_add(0, order // index.shape[1], rows)


def _unweighted(x, index, weight, experts):  # type: ignore[no-untyped-def]
    return dispatch(x, index, torch.ones_like(weight), experts)


def _wrong_token(x, index, weight, experts):  # type: ignore[no-untyped-def]
    flat = index.flatten()
    order = torch.argsort(flat, stable=True)
    made = experts(x[order % len(x)], flat[order])
    back = torch.empty_like(made)
    back[order] = made
    return (weight[:, :, None] * back.view(*index.shape, -1)).sum(1)


def _unsorted(x, index, weight, experts):  # type: ignore[no-untyped-def]
    K = index.shape[1]
    made = experts(x.repeat_interleave(K, 0), index.flatten())
    return (weight[:, :, None] * made.view(*index.shape, -1)).sum(1)


DISPATCH = Exercise(
    id="2.3",
    title="to the experts and back",
    minutes=15,
    difficulty=2,
    ours=dispatch,
    checks=(
        ("by hand", dispatch_by_hand),
        ("random tokens", same_as(dispatch, dispatch_probes)),
        ("gradient", same_gradient(dispatch, dispatch_probes)),
    ),
    probes=dispatch_probes,
    wrong=(
        WrongAnswer(
            "not put back",
            _not_put_back,
            "results stay in the experts' order, so tokens get each other's. Undo the "
            "permutation before you add up.",
            3,
        ),
        WrongAnswer(
            "permuted twice",
            _put_back_twice,
            "`made[order]` applies the permutation once more; its inverse is wanted: "
            "row i of the result belongs to place order[i].",
            3,
        ),
        WrongAnswer(
            "weights not permuted",
            _weights_not_sorted,
            "the weights are in the tokens' order while the rows are in the experts'.",
            3,
        ),
        WrongAnswer(
            "not weighted",
            _unweighted,
            "results are added without their weights.",
            3,
        ),
        WrongAnswer(
            "one visit a token",
            _once_per_token,
            "`y[token] += row` writes each token once, however often it occurs: all "
            "but one of its rows are lost. `index_add` adds them all.",
            3,
        ),
        WrongAnswer(
            "weighted before",
            _weighted_before,
            "tokens are weighted before their experts see them. Experts are no linear "
            "maps: weigh what comes back.",
            3,
        ),
        WrongAnswer(
            "wrong token",
            _wrong_token,
            "experts get the wrong tokens: place i of the flattened index belongs to "
            "token i // K.",
            2,
        ),
        WrongAnswer(
            "not sorted",
            _unsorted,
            "rows are not sorted by expert.",
            1,
        ),
    ),
    hints=(
        "Flatten index_NK: now there is one entry for each visit, R = N K of them. "
        "`torch.argsort(..., stable=True)` of it is the order in which experts want "
        "them.",
        "Visit i belongs to token i // K. So the rows are x_ND at the order divided "
        "by K, and their experts are the flattened index in that order.",
        "What comes back is in the experts' order. Make an empty tensor like it and "
        "write row i to place order[i]; then view it as (N, K, D), multiply by the "
        "weights and add over K.",
    ),
    otherwise={
        "by hand": (
            "results end at the wrong token, or with the wrong weight.",
            3,
        ),
        "random tokens": ("results end at the wrong token, or at too few.", 3),
    },
)

EXERCISES = (GATE, UPDATE, DISPATCH)
