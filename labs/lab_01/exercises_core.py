"""The core exercises of lab 01, 1.1 to 1.3, and the mistakes they expect.

Shape suffixes: L maps in the order in which the stream meets them, n lanes,
M tokens, C width of a lane.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from labsupport.exercise import Exercise, WrongAnswer
from labsupport.exercise.check import (
    expect_close,
    expect_tensor,
    same_as,
    same_gradient,
)
from labsupport.nn.hyper_connections import connect_lanes

Arguments = tuple[Any, ...]
ITERATIONS = 20


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(shape, generator=generator)


# --- 1.1 composite gain ------------------------------------------------------


def composite_gain(res_Lnn: Tensor) -> Tensor:
    """How much a chain of maps can amplify forward, and backward.

    The paper's measure (mHC, figure 3): of the product of all maps, the last
    one leftmost, the largest absolute row sum and the largest absolute column
    sum.

    Returns:
        gains_2: forward, backward.
    """
    product_nn = torch.eye(res_Lnn.shape[-1])
    for res_nn in res_Lnn:
        product_nn = res_nn @ product_nn
    size_nn = product_nn.abs()
    return torch.stack([size_nn.sum(dim=1).max(), size_nn.sum(dim=0).max()])


def gain_probes() -> Sequence[Arguments]:
    """Chains whose order, signs and axes all matter."""
    return [(random(L, n, n, seed=L),) for L, n in ((2, 3), (5, 4), (1, 4))]


def gain_by_hand(candidate: Callable[..., Any]) -> None:
    """First double lane 0, then send it to lane 1 with a minus sign."""
    first = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    second = torch.tensor([[1.0, 0.0], [-3.0, 1.0]])
    wanted = torch.tensor([7.0, 8.0])
    came = candidate(torch.stack([first, second]))
    expect_close(
        came, wanted, "the gains of [[1, 0], [-3, 1]] after [[2, 0], [0, 1]]"
    )


def _gain(
    res_Lnn: Tensor, product: Callable[[Tensor], Tensor], signed: bool = False
):  # type: ignore[no-untyped-def]
    size_nn = product(res_Lnn) if signed else product(res_Lnn).abs()
    return torch.stack([size_nn.sum(1).max(), size_nn.sum(0).max()])


def _in_order(res_Lnn: Tensor) -> Tensor:
    product_nn = torch.eye(res_Lnn.shape[-1])
    for res_nn in res_Lnn:
        product_nn = res_nn @ product_nn
    return product_nn


def _reversed(res_Lnn: Tensor) -> Tensor:
    product_nn = torch.eye(res_Lnn.shape[-1])
    for res_nn in res_Lnn:
        product_nn = product_nn @ res_nn
    return product_nn


def _signed_sums(res_Lnn: Tensor) -> Tensor:
    product_nn = _in_order(res_Lnn)
    return torch.stack(
        [product_nn.sum(1).abs().max(), product_nn.sum(0).abs().max()]
    )


def _product_of_gains(res_Lnn: Tensor) -> Tensor:
    size_Lnn = res_Lnn.abs()
    rows = size_Lnn.sum(2).amax(1).prod()
    return torch.stack([rows, size_Lnn.sum(1).amax(1).prod()])


GAIN = Exercise(
    id="1.1",
    title="the gain of a chain of maps",
    minutes=8,
    difficulty=1,
    ours=composite_gain,
    checks=(
        (
            "two numbers",
            lambda f: expect_tensor(
                f(torch.eye(4)[None]), (2,), torch.float32
            ),
        ),
        ("by hand", gain_by_hand),
        ("random chains", same_as(composite_gain, gain_probes)),
    ),
    probes=gain_probes,
    wrong=(
        WrongAnswer(
            "order",
            lambda r: _gain(r, _reversed),
            "the maps are multiplied in the wrong order: what the stream meets last "
            "stands leftmost, H_L ... H_2 H_1.",
            1,
        ),
        WrongAnswer(
            "signs",
            lambda r: _gain(r, _in_order, signed=True),
            "entries of opposite sign cancel in the sums: take absolute values first.",
            2,
        ),
        WrongAnswer(
            "absolute values of sums",
            _signed_sums,
            "absolute values are taken of the sums: entries of opposite sign have "
            "cancelled by then. Take them of the entries.",
            2,
        ),
        WrongAnswer(
            "axes",
            lambda r: _gain(r, _in_order).flip(0),
            "rows and columns are exchanged: a row sum collects what arrives at one "
            "lane, so it is the forward gain.",
            2,
        ),
        WrongAnswer(
            "gains multiplied",
            _product_of_gains,
            "the gains of single maps are multiplied. That is an upper bound: maps may "
            "undo each other, so multiply the maps first.",
            1,
        ),
    ),
    hints=(
        "Start with the identity and multiply each map from the left: "
        "`product = res @ product`.",
        "`product.abs().sum(dim=1)` has one number for each row. The largest of "
        "them is the forward gain.",
        "`torch.stack([size.sum(dim=1).max(), size.sum(dim=0).max()])`.",
    ),
)

# --- 1.2 Sinkhorn-Knopp ------------------------------------------------------


def sinkhorn_knopp(logits_nnM: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """Doubly stochastic matrices from any logits (mHC, equation 9).

    Each token's matrix is exponentiated, then its columns and its rows are
    scaled to sum to one, in turn: columns first, rows last.

    Args:
        logits_nnM: [i, j] of every token's matrix; tokens last.
        iterations: how often both are scaled.
    """
    # What is subtracted from a column is undone by the first normalisation, and
    # exp cannot overflow.
    res_nnM = torch.exp(logits_nnM - logits_nnM.amax(dim=0, keepdim=True))
    for _ in range(iterations):
        res_nnM = res_nnM / res_nnM.sum(dim=0, keepdim=True)
        res_nnM = res_nnM / res_nnM.sum(dim=1, keepdim=True)
    return res_nnM


def sinkhorn_probes() -> Sequence[Arguments]:
    """Few iterations and spread logits, where order and axes show."""
    return [
        (random(4, 4, 5, seed=1, scale=2.0), 3),
        (random(3, 3, 7, seed=2, scale=3.0), 1),
        (random(4, 4, 2, seed=3), 20),
    ]


def sinkhorn_by_hand(candidate: Callable[..., Any]) -> None:
    """exp gives [[1, 3], [1, 1]]: columns [[.5, .75], [.5, .25]], then rows."""
    logits_nnM = torch.tensor([[1.0, 3.0], [1.0, 1.0]]).log()[:, :, None]
    wanted = torch.tensor([[0.4, 0.6], [2 / 3, 1 / 3]])[:, :, None]
    came = candidate(logits_nnM, 1)
    expect_close(
        came, wanted, "one iteration on exp(logits) = [[1, 3], [1, 1]]"
    )


def sinkhorn_large(candidate: Callable[..., Any]) -> None:
    """exp(200) is infinite in float32."""
    logits_nnM = torch.tensor([[200.0, 0.0], [0.0, 200.0]])[:, :, None]
    wanted = torch.eye(2)[:, :, None]
    expect_close(
        candidate(logits_nnM, 20), wanted, "logits of 200 on the diagonal"
    )


def _sinkhorn(
    logits: Tensor, steps: int, axes: tuple[int, ...], shift: int = 0
):  # type: ignore[no-untyped-def]
    m = torch.exp(logits - logits.amax(dim=shift, keepdim=True))
    return _scaled(m, steps, axes)


def _scaled(m: Tensor, steps: int, axes: tuple[int, ...]) -> Tensor:
    for _ in range(steps):
        for axis in axes:
            m = m / m.sum(dim=axis, keepdim=True)
    return m


SINKHORN = Exercise(
    id="1.2",
    title="Sinkhorn-Knopp for all tokens at once",
    minutes=12,
    difficulty=2,
    ours=sinkhorn_knopp,
    checks=(
        (
            "shape and dtype",
            lambda f: expect_tensor(
                f(torch.zeros(4, 4, 3), 2), (4, 4, 3), torch.float32
            ),
        ),
        ("by hand", sinkhorn_by_hand),
        ("random logits", same_as(sinkhorn_knopp, sinkhorn_probes)),
        ("large logits", sinkhorn_large),
        ("gradient", same_gradient(sinkhorn_knopp, sinkhorn_probes)),
    ),
    probes=sinkhorn_probes,
    wrong=(
        WrongAnswer(
            "rows first",
            lambda x, t=ITERATIONS: _sinkhorn(x, t, (1, 0), shift=1),
            "rows are scaled before columns. What is scaled last is exact, and that "
            "has to be the rows (dim 1): no lane may grow on its way forward.",
            1,
        ),
        WrongAnswer(
            "rows only",
            lambda x, t=ITERATIONS: _sinkhorn(x, t, (1,), shift=1),
            "only rows are scaled: that is a softmax, and columns may still sum to "
            "anything up to n.",
            2,
        ),
        WrongAnswer(
            "columns only",
            lambda x, t=ITERATIONS: _sinkhorn(x, t, (0,)),
            "only columns are scaled; rows need it, too.",
            2,
        ),
        WrongAnswer(
            "over tokens",
            lambda x, t=ITERATIONS: _sinkhorn(x, t, (0, 2)),
            "a sum runs over the tokens (dim 2), so tokens influence each other.",
            2,
        ),
        WrongAnswer(
            "last two dims",
            lambda x, t=ITERATIONS: _sinkhorn(x, t, (1, 2)),
            "sums run over the last two dims. Tokens stand last: a column's sum is "
            "over dim 0, a row's over dim 1.",
            2,
        ),
        WrongAnswer(
            "softmax over rows, then columns and rows",
            lambda x, t=ITERATIONS: _scaled(x.softmax(1), t, (0, 1)),
            "a softmax over rows (dim 1) comes before the first column sums, and "
            "they are others by then. exp alone, or softmax over dim 0.",
            1,
        ),
        WrongAnswer(
            "softmax over rows as the first step",
            lambda x, t=ITERATIONS: _scaled(x.softmax(1), t - 1, (0, 1)),
            "the first step is a softmax over rows (dim 1). Columns come first: "
            "softmax over dim 0, and then the rows.",
            1,
        ),
        WrongAnswer(
            "row maximum subtracted",
            lambda x, t=ITERATIONS: _sinkhorn(x, t, (0, 1), shift=1),
            "each row's largest logit is subtracted. That scales rows, and the next "
            "step is the columns' sums, which it changes. Subtract the columns'.",
            3,
        ),
        WrongAnswer(
            "no exp",
            lambda x, t=ITERATIONS: _sinkhorn(x.abs().log(), t, (0, 1)),
            "the logits are not exponentiated: negative ones have to become small.",
            1,
        ),
    ),
    hints=(
        "exp first. Then, `iterations` times: divide by the column sums, then by the "
        "row sums.",
        "A column's sum runs over the rows: `res.sum(dim=0, keepdim=True)`; a row's "
        "over dim=1. dim 2 are tokens, which know nothing of each other.",
        "exp overflows at 89 in float32. Subtract each column's largest logit first: "
        "the first division undoes it.",
    ),
    otherwise={
        "large logits": (
            "overflow: exp of a logit above 88 is infinite in float32, and infinity "
            "over infinity is NaN.",
            3,
        ),
        "gradient": (
            "the matrices are right, but autograd cannot follow: divide with "
            "`res = res / ...`, without .detach() and torch.no_grad().",
            2,
        ),
    },
)

# --- 1.3 read, write, pass on ------------------------------------------------


def connect(
    x_MnC: Tensor,
    pre_nM: Tensor,
    post_nM: Tensor,
    res_nnM: Tensor,
    branch: Callable[[Tensor], Tensor],
) -> Tensor:
    """H_res x + H_post^T F(H_pre x) for every token (mHC, equation 3)."""
    return connect_lanes(x_MnC, pre_nM, post_nM, res_nnM, branch)


def square_and_shift(x_MC: Tensor) -> Tensor:
    """A branch that is no linear map, so that its place in the order shows."""
    return x_MC.square() + 1.0


def connect_probes() -> Sequence[Arguments]:
    return [
        (
            random(M, n, C, seed=M),
            random(n, M, seed=M + 1),
            random(n, M, seed=M + 2),
            random(n, n, M, seed=M + 3),
            square_and_shift,
        )
        for M, n, C in ((3, 4, 5), (2, 2, 3))
    ]


def connect_by_hand(candidate: Callable[..., Any]) -> None:
    """One token, two lanes of width 1, a map that only sends lane 0 to lane 1."""
    x_MnC = torch.tensor([[[1.0], [10.0]]])
    pre_nM, post_nM = (
        torch.tensor([[2.0], [0.0]]),
        torch.tensor([[1.0], [3.0]]),
    )
    res_nnM = torch.tensor([[0.0, 0.0], [1.0, 0.0]])[:, :, None]
    came = candidate(
        x_MnC, pre_nM, post_nM, res_nnM, lambda x_MC: x_MC + 100.0
    )
    wanted = torch.tensor([[[102.0], [1.0 + 306.0]]])
    expect_close(came, wanted, "lanes [1, 10] with F(x) = x + 100")


def _connect(x, pre, post, res, branch, rule="ijm,mjc->mic"):  # type: ignore[no-untyped-def]
    made = branch(torch.einsum("jm,mjc->mc", pre, x))
    return torch.einsum(rule, res, x) + torch.einsum("im,mc->mic", post, made)


def _branch_on_lanes(x, pre, post, res, branch):  # type: ignore[no-untyped-def]
    M, n, C = x.shape
    made = branch(x.reshape(M * n, C)).view(M, n, C)
    read = torch.einsum("jm,mjc->mc", pre, made)
    return torch.einsum("ijm,mjc->mic", res, x) + torch.einsum(
        "im,mc->mic", post, read
    )


def _read_after_mixing(x, pre, post, res, branch):  # type: ignore[no-untyped-def]
    mixed = torch.einsum("ijm,mjc->mic", res, x)
    made = branch(torch.einsum("jm,mjc->mc", pre, mixed))
    return mixed + torch.einsum("im,mc->mic", post, made)


CONNECT = Exercise(
    id="1.3",
    title="read, write, pass on",
    minutes=12,
    difficulty=2,
    ours=connect,
    checks=(
        ("by hand", connect_by_hand),
        ("random maps", same_as(connect, connect_probes)),
    ),
    probes=connect_probes,
    wrong=(
        WrongAnswer(
            "transpose",
            lambda x, pre, post, res, f: _connect(
                x, pre, post, res, f, "jim,mjc->mic"
            ),
            "H_res is applied transposed: res[i, j] says how much of lane j goes TO "
            "lane i, so the sum runs over its second index. (The loss still falls.)",
            2,
        ),
        WrongAnswer(
            "branch before read",
            _branch_on_lanes,
            "F is applied to every lane and then read. It has to see the mix: one call "
            "of F a token, not n.",
            1,
        ),
        WrongAnswer(
            "no write weights",
            lambda x, pre, post, res, f: _connect(
                x, pre, torch.ones_like(post), res, f
            ),
            "every lane gets all of F's output: multiply by H_post.",
            1,
        ),
        WrongAnswer(
            "lanes forgotten",
            lambda x, pre, post, res, f: _connect(
                x, pre, post, torch.zeros_like(res), f
            ),
            "the old lanes are gone: add H_res x.",
            1,
        ),
        WrongAnswer(
            "added to the old lanes",
            lambda x, pre, post, res, f: x + _connect(x, pre, post, res, f),
            "x is added once more. H_res x stands in the place of a residual's x: it "
            "already passes the lanes on.",
            1,
        ),
        WrongAnswer(
            "reads and writes exchanged",
            lambda x, pre, post, res, f: _connect(x, post, pre, res, f),
            "H_pre and H_post are exchanged: H_pre reads, before F; H_post writes, "
            "after it.",
            1,
        ),
        WrongAnswer(
            "read after mixing",
            _read_after_mixing,
            "F reads the lanes that H_res has mixed already. Both H_pre and H_res take "
            "the old lanes x.",
            1,
        ),
    ),
    hints=(
        "Three steps: read H_pre x, give that to the branch, and add H_res x and "
        "H_post^T times what the branch made.",
        'In einsum\'s words H_pre x is "jm,mjc->mc". For H_res x the index that is '
        "summed over is j, the second of res[i, j].",
        '`torch.einsum("ijm,mjc->mic", res_nnM, x_MnC)` and '
        '`torch.einsum("im,mc->mic", post_nM, made_MC)`.',
    ),
)
