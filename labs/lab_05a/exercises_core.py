"""The core exercises of lab 05a, 5.1 to 5.3, and the mistakes they expect.

Shape suffixes: N tokens, D model width, F hidden width of a layer, H = F / W of it on
one rank, W ranks, P weights, S = P / W of them on one rank (rounded up), K steps.
In 5.3 S is the number of stages, M that of microbatches.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from labs.lab_05a.adam import Adam
from labs.lab_05a.both_ways import both_ways
from labs.lab_05a.schedules import (
    Action,
    Durations,
    Schedule,
    Timeline,
    alone,
    closed_bubble,
    simulate,
)
from labsupport.errors import LabError
from labsupport.exercise import CheckFailed, Exercise, WrongAnswer
from labsupport.exercise.check import expect_close, expect_tensor, show_values
from labsupport.exercise.practice.counted import on_counted_ranks

Arguments = tuple[Any, ...]
Candidate = Callable[..., Any]
Update = Callable[[Tensor, Tensor], Tensor]
Actions = list[tuple[str, int]]


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator)


# --- 5.1 columns, then rows -----------------------------------------------------


def swiglu_on_ranks(
    x_ND: Tensor, gate_DH: Tensor, up_DH: Tensor, down_HD: Tensor, dist: Any
) -> Tensor:
    """A feed-forward layer whose hidden width is spread over ranks.

    Args:
        x_ND: the input, the same on all ranks.
        gate_DH, up_DH: this rank's columns.
        down_HD: this rank's rows.
        dist: `torch.distributed`, with a process group.

    Returns:
        The layer's output y_ND, whole and the same on all ranks.
    """

    def total(t: Tensor) -> Tensor:
        dist.all_reduce(t)
        return t

    def same(t: Tensor) -> Tensor:
        return t

    x_ND = both_ways(x_ND, forward=same, backward=total)
    hidden_NH = F.silu(x_ND @ gate_DH) * (x_ND @ up_DH)
    return both_ways(hidden_NH @ down_HD, forward=total, backward=same)


def columns(w_DF: Tensor, rank: int, W: int) -> Tensor:
    """A rank's columns of a matrix."""
    return w_DF.chunk(W, dim=1)[rank]


def rows(w_FD: Tensor, rank: int, W: int) -> Tensor:
    """A rank's rows of a matrix."""
    return w_FD.chunk(W, dim=0)[rank]


def one_swiglu(
    x_ND: Tensor, gate_DF: Tensor, up_DF: Tensor, down_FD: Tensor
) -> Tensor:
    """The whole layer in one process."""
    return (F.silu(x_ND @ gate_DF) * (x_ND @ up_DF)) @ down_FD


def swiglu_group(
    function: Candidate,
    x_ND: Tensor,
    dy_ND: Tensor,
    weights: tuple[Tensor, Tensor, Tensor],
    W: int,
) -> tuple[Tensor, ...]:
    """Forward and backward on practice ranks.

    Args:
        function: what every rank calls.
        x_ND: the input. dy_ND: the gradient of the output.
        weights: whole gate_DF, up_DF and down_FD.
        W: ranks.

    Returns:
        y_WND; the input's gradient, dx_WND; dgate_DF, dup_DF and ddown_FD, put
        together from all ranks; and what was sent, count_2 forward and backward.
    """
    gate_DF, up_DF, down_FD = weights
    sent_forward = []

    def work(x_ND, dy_ND, gate_DH, up_DH, down_HD, dist):  # type: ignore[no-untyped-def]
        leaves = [x_ND, gate_DH, up_DH, down_HD]
        for leaf in leaves:
            leaf.requires_grad_()
        y_ND = function(*leaves, dist)
        if y_ND is None:
            return None
        expect_tensor(y_ND, x_ND.shape, x_ND.dtype)
        if not y_ND.requires_grad:
            asked = "an output that depends on input and weights"
            raise CheckFailed(asked, "one without a gradient")
        sent_forward.append(len(dist.calls))
        y_ND.backward(dy_ND)
        for name, leaf in zip(
            ("x", "gate", "up", "down"), leaves, strict=True
        ):
            if leaf.grad is None:
                raise CheckFailed(f"a gradient of {name}", "none")
        return [y_ND.detach(), *(leaf.grad for leaf in leaves)]

    results, calls = on_counted_ranks(
        work,
        [x_ND] * W,
        [dy_ND] * W,
        [columns(gate_DF, r, W).clone() for r in range(W)],
        [columns(up_DF, r, W).clone() for r in range(W)],
        [rows(down_FD, r, W).clone() for r in range(W)],
    )
    y_W, dx_W, dgate_W, dup_W, ddown_W = zip(*results, strict=True)
    forward = sent_forward[0]
    return (
        torch.stack(y_W),
        torch.stack(dx_W),
        torch.cat(dgate_W, dim=1),
        torch.cat(dup_W, dim=1),
        torch.cat(ddown_W, dim=0),
        torch.tensor([forward, len(calls) - forward]),
    )


def swiglu_probes() -> Sequence[Arguments]:
    found = []
    for N, D, F_, W, seed in (
        (3, 4, 6, 2, 1),
        (2, 5, 9, 3, 2),
        (4, 2, 8, 4, 3),
    ):
        x_ND, dy_ND = random(N, D, seed=seed), random(N, D, seed=seed + 10)
        weights = (
            random(D, F_, seed=seed + 20),
            random(D, F_, seed=seed + 30),
            random(F_, D, seed=seed + 40),
        )
        found.append((x_ND, dy_ND, weights, W))
    return found


def swiglu_by_hand(candidate: Candidate) -> None:
    """silu(20) is 20 to 8 digits: 20 * 1 * 1 on rank 0, 20 * 2 * 10 on rank 1."""
    weights = (
        torch.tensor([[20.0, 20.0]]),
        torch.tensor([[1.0, 2.0]]),
        torch.tensor([[1.0], [10.0]]),
    )
    y_WND, *_ = candidate(torch.ones(1, 1), torch.ones(1, 1), weights, 2)
    asked = (
        "x = 1, gate (20 | 20), up (1 | 2), down (1 / 10): 20 from rank 0 and 400 from "
        "rank 1, on both the output"
    )
    expect_close(y_WND, torch.full((2, 1, 1), 420.0), asked)


def one_process(x_ND: Tensor, dy_ND: Tensor, weights: Any) -> list[Tensor]:
    """y, and the gradients of x, gate, up and down, in one process."""
    leaves = [t.clone().requires_grad_() for t in (x_ND, *weights)]
    y_ND = one_swiglu(*leaves)
    return [y_ND.detach(), *torch.autograd.grad(y_ND, leaves, dy_ND)]


def swiglu_output(candidate: Candidate) -> None:
    for x_ND, dy_ND, weights, W in swiglu_probes():
        y_ND, *_ = one_process(x_ND, dy_ND, weights)
        y_WND, *_ = candidate(x_ND, dy_ND, weights, W)
        asked = f"on each of {W} ranks the output of one process"
        expect_close(y_WND, y_ND.expand(W, -1, -1), asked)


def swiglu_weight_gradients(candidate: Candidate) -> None:
    for x_ND, dy_ND, weights, W in swiglu_probes():
        _, _, *wanted = one_process(x_ND, dy_ND, weights)
        _, _, *came, _ = candidate(x_ND, dy_ND, weights, W)
        for name, mine, right in zip(
            ("gate", "up", "down"), came, wanted, strict=True
        ):
            expect_close(mine, right, f"{W} ranks: the gradient of `{name}`")


def swiglu_input_gradient(candidate: Candidate) -> None:
    for x_ND, dy_ND, weights, W in swiglu_probes():
        _, dx_ND, *_ = one_process(x_ND, dy_ND, weights)
        _, dx_WND, *_ = candidate(x_ND, dy_ND, weights, W)
        asked = f"on each of {W} ranks the whole gradient of the input"
        expect_close(dx_WND, dx_ND.expand(W, -1, -1), asked)


def swiglu_messages(candidate: Candidate) -> None:
    for probe in swiglu_probes()[:2]:
        *_, count_2 = candidate(*probe)
        if count_2.tolist() != [1, 1]:
            forward, backward = count_2.tolist()
            raise CheckFailed(
                "one message on the way forward and one on the way back",
                f"{forward} forward, {backward} back",
            )


def _swiglu(  # type: ignore[no-untyped-def]
    at_input=("same", "total"),
    at_output=("total", "same"),
    hidden=("same", "same"),
    twice=False,
    divide=False,
):
    """What (forward, backward) do at the input, at the hidden layer, at the output."""

    def run(x_ND, gate_DH, up_DH, down_HD, dist):  # type: ignore[no-untyped-def]
        def total(t):  # type: ignore[no-untyped-def]
            dist.all_reduce(t)
            return t / dist.get_world_size() if divide else t

        ways = {"same": lambda t: t, "total": total}

        def both(t, pair):  # type: ignore[no-untyped-def]
            return both_ways(t, *(ways[name] for name in pair))

        x1_ND = both(x_ND, at_input)
        x2_ND = both(x_ND, at_input) if twice else x1_ND
        hidden_NH = F.silu(x1_ND @ gate_DH) * (x2_ND @ up_DH)
        return both(both(hidden_NH, hidden) @ down_HD, at_output)

    return run


NONE = ("same", "same")

SWIGLU = Exercise(
    id="5.1",
    title="columns, then rows",
    minutes=15,
    difficulty=2,
    ours=swiglu_on_ranks,
    checks=(
        ("by hand", swiglu_by_hand),
        ("the output of one process", swiglu_output),
        ("gradients of the slices", swiglu_weight_gradients),
        ("the gradient of the input", swiglu_input_gradient),
        ("messages", swiglu_messages),
    ),
    probes=swiglu_probes,
    group=swiglu_group,
    wrong=(
        WrongAnswer(
            "output not summed",
            _swiglu(at_output=NONE),
            "each rank returns its own part of the output. The parts have to be summed "
            "over ranks.",
            1,
        ),
        WrongAnswer(
            "nothing summed",
            _swiglu(at_input=NONE, at_output=NONE),
            "no rank ever hears of the others: the output is a sum over all hidden "
            "numbers, and they are spread over ranks.",
            1,
        ),
        WrongAnswer(
            "input gradient not summed",
            _swiglu(at_input=NONE),
            "the output is right, but each rank's gradient of the input tells of its "
            "own slice alone, and all layers below would learn from that. It has to "
            "be summed on the way back.",
            2,
        ),
        WrongAnswer(
            "output gradient summed",
            _swiglu(at_output=("total", "total")),
            "the gradient of the output is whole on every rank already: summing it "
            "makes all gradients W times too large.",
            2,
        ),
        WrongAnswer(
            "both at the output",
            _swiglu(at_input=NONE, at_output=("total", "total")),
            "the sum on the way back is at the output, where the gradient is whole "
            "already. It belongs at x, whose gradient has a part from each rank.",
            2,
        ),
        WrongAnswer(
            "input summed",
            _swiglu(at_input=("total", "total")),
            "the input is whole on every rank already: summing it makes it W times "
            "too large.",
            2,
        ),
        WrongAnswer(
            "ways exchanged",
            _swiglu(at_input=("total", "same"), at_output=("same", "total")),
            "the two are exchanged: the output is summed on the way forward, the "
            "input's gradient on the way back.",
            2,
        ),
        WrongAnswer(
            "mean",
            _swiglu(divide=True),
            "you divide by W. Parts of a sum are not averaged: their sum is what one "
            "process computes.",
            1,
        ),
        WrongAnswer(
            "hidden summed",
            _swiglu(hidden=("total", "total"), at_output=NONE),
            "the hidden numbers are summed over ranks, but each rank has other ones: "
            "they belong to other columns. Sum after `down`.",
            1,
        ),
        WrongAnswer(
            "hidden summed, too",
            _swiglu(hidden=("total", "total")),
            "the hidden numbers are summed over ranks, but each rank has other ones: "
            "they belong to other columns. Sum only after `down`.",
            1,
        ),
        WrongAnswer(
            "input twice",
            _swiglu(twice=True),
            "all numbers are right, but the input's gradient is summed once for `gate` "
            "and once for `up`. Let x pass `both_ways` once, and use the result in "
            "both products.",
            3,
        ),
    ),
    hints=(
        "Your columns give you your hidden numbers, finished: no one else is needed. "
        "Your rows then give a part of every output number. So where does one rank "
        "first need the others?",
        "Backward, ask the same of the gradients. That of the output is the same on "
        "all ranks. But x feeds the columns of all ranks, so its gradient has a part "
        "from each.",
        "Two inner functions, one that sums over ranks and returns its tensor, one "
        "that returns it as it is. `both_ways` is needed twice: around x at the "
        "beginning, and around what you return.",
    ),
)

# --- 5.2 ZeRO-1 -------------------------------------------------------------------


def zero_step(
    weights_P: Tensor, gradient_P: Tensor, update: Update, dist: Any
) -> Tensor:
    """A step in which each rank updates its own part of the weights.

    Args:
        weights_P: the same on all ranks.
        gradient_P: of this rank's own samples, as many as on any other rank.
        update: (weights, gradient) of a part -> its new weights.
        dist: `torch.distributed`, with a process group.

    Returns:
        All new weights, the same on all ranks.
    """
    W, rank, P = dist.get_world_size(), dist.get_rank(), len(weights_P)
    S = math.ceil(P / W)
    padding = (0, S * W - P)
    mine_S = gradient_P.new_empty(S)
    dist.reduce_scatter_single(mine_S, F.pad(gradient_P, padding))
    part_S = F.pad(weights_P, padding).view(W, S)[rank]
    whole = weights_P.new_empty(S * W)
    dist.all_gather_single(whole, update(part_S, mine_S / W))
    return whole[:P]


class WatchedAdam(Adam):
    """Adam that notes how many weights it was given.

    Its eps is large. Adam divides by the size of the gradient, so with the usual one a
    gradient that is W times too large would hardly show.
    """

    def __init__(self) -> None:
        super().__init__(lr=0.1, eps=0.5)
        self.given: list[int] = []

    def __call__(self, w: Tensor, g: Tensor) -> Tensor:
        if w.shape != g.shape:
            raise CheckFailed(
                "weights and gradient of the same shape in `update`",
                f"{tuple(w.shape)} and {tuple(g.shape)}",
            )
        self.given.append(w.numel())
        return super().__call__(w.contiguous(), g)


def zero_group(
    function: Candidate, weights_P: Tensor, gradient_KWP: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """K steps on practice ranks.

    Returns:
        What weights there are on each rank in the end, weights_WP; how many weights
        each rank's `update` was given at most, given_W; messages a step, count_1.
    """
    W = gradient_KWP.shape[1]
    adams = [WatchedAdam() for _ in range(W)]

    def work(weights_P, gradient_KP, adam, dist):  # type: ignore[no-untyped-def]
        for gradient_P in gradient_KP:
            new = function(weights_P, gradient_P.clone(), adam, dist)
            if new is None:
                return None
            if not isinstance(new, Tensor) or new.shape != weights_P.shape:
                asked = (
                    f"all {len(weights_P)} weights on rank {dist.get_rank()}"
                )
                raise CheckFailed(asked, show_values(new))
            weights_P = new.detach().clone()
        return weights_P

    results, calls = on_counted_ranks(
        work, [weights_P] * W, gradient_KWP.transpose(0, 1), adams
    )
    return (
        torch.stack(results),
        torch.tensor([max(adam.given, default=0) for adam in adams]),
        torch.tensor([len(calls) / len(gradient_KWP)]),
    )


def zero_probes() -> Sequence[Arguments]:
    """Parts that are even, and parts that have to be padded."""
    return [
        (random(6, seed=1), random(2, 2, 6, seed=2)),
        (random(7, seed=3), random(3, 3, 7, seed=4)),
        (random(10, seed=5), random(2, 4, 10, seed=6)),
    ]


def zero_one_process(weights_P: Tensor, gradient_KWP: Tensor) -> Tensor:
    """The same steps with one Adam for all weights."""
    adam = WatchedAdam()
    for mean_P in gradient_KWP.mean(1):
        weights_P = adam(weights_P, mean_P)
    return weights_P


def zero_by_hand(candidate: Candidate) -> None:
    """Adam's first step moves a weight by lr g / (|g| + eps)."""
    weights_P = torch.tensor([1.0, 2.0])
    gradient_KWP = torch.tensor([[[1.5, -0.5], [-0.5, -0.5]]])
    weights_WP, *_ = candidate(weights_P, gradient_KWP)
    asked = (
        "weights (1, 2), gradients (1.5, -0.5) and (-0.5, -0.5) on 2 ranks, so a mean "
        "of (0.5, -0.5); `update` moves each by 0.05 against it: on both ranks"
    )
    wanted_WP = torch.tensor([[0.95, 2.05]]).expand(2, 2)
    expect_close(weights_WP, wanted_WP, asked)


def expect_one_process(candidate: Candidate, probe: Arguments) -> None:
    _, W, P = probe[1].shape
    weights_WP, *_ = candidate(*probe)
    asked = f"{P} weights on {W} ranks: the weights of one process"
    wanted_WP = zero_one_process(*probe).expand(W, -1)
    expect_close(weights_WP, wanted_WP, asked)


def zero_even(candidate: Candidate) -> None:
    expect_one_process(candidate, zero_probes()[0])


def zero_padded(candidate: Candidate) -> None:
    for probe in zero_probes()[1:]:
        expect_one_process(candidate, probe)


def zero_memory(candidate: Candidate) -> None:
    for weights_P, gradient_KWP in zero_probes():
        P, W = len(weights_P), gradient_KWP.shape[1]
        _, given_W, _ = candidate(weights_P, gradient_KWP)
        most = int(given_W.max())
        if most > math.ceil(P / W):
            raise CheckFailed(
                f"`update` called with at most {math.ceil(P / W)} of {P} weights on "
                f"each of {W} ranks",
                f"a call with {most}",
            )


def zero_messages(candidate: Candidate) -> None:
    *_, count_1 = candidate(*zero_probes()[0])
    if count_1.item() != 2:
        raise CheckFailed(
            "two messages a step, one for the gradients and one for the weights",
            f"{count_1.item():g} messages a step",
        )


def _zero(  # type: ignore[no-untyped-def]
    reduce=True,
    divide=True,
    pad=True,
    cut=True,
    place=None,
    whole_update=False,
):
    def run(weights_P, gradient_P, update, dist):  # type: ignore[no-untyped-def]
        W, rank, P = dist.get_world_size(), dist.get_rank(), len(weights_P)
        S = math.ceil(P / W) if pad else P // W
        room = (0, max(0, S * W - P))
        mean_P = gradient_P.clone()
        if reduce:
            dist.all_reduce(mean_P)
        if divide:
            mean_P = mean_P / W
        at = slice(rank * S, (rank + 1) * S)
        if whole_update:
            part_S = F.pad(update(weights_P, mean_P), room)[at]
        else:
            here = at if place is None else place(rank, W, S)
            part_S = update(
                F.pad(weights_P, room)[here], F.pad(mean_P, room)[at]
            )
        whole = weights_P.new_empty(S * W)
        dist.all_gather_single(whole, part_S.contiguous())
        if not pad:
            whole = torch.cat([whole, weights_P[S * W :]])
        return whole[:P] if cut else whole

    return run


def zero_not_gathered(weights_P, gradient_P, update, dist):
    W, rank, P = dist.get_world_size(), dist.get_rank(), len(weights_P)
    S = math.ceil(P / W)
    mean_P = gradient_P.clone()
    dist.all_reduce(mean_P)
    at = slice(rank * S, (rank + 1) * S)
    new_P = weights_P.clone()
    if len(weights_P[at]):
        new_P[at] = update(weights_P[at], mean_P[at] / W)
    return new_P


def zero_scatter_everything(weights_P, gradient_P, update, dist):
    """No padding: reduce_scatter is asked for parts that do not add up."""
    W, rank, P = dist.get_world_size(), dist.get_rank(), len(weights_P)
    S = P // W
    mine_S = gradient_P.new_empty(S)
    dist.reduce_scatter_single(mine_S, gradient_P)
    whole = weights_P.new_empty(S * W)
    part_S = weights_P[rank * S : (rank + 1) * S]
    dist.all_gather_single(whole, update(part_S, mine_S / W))
    return whole


ZERO = Exercise(
    id="5.2",
    title="ZeRO-1 by hand",
    minutes=15,
    difficulty=2,
    ours=zero_step,
    checks=(
        ("by hand", zero_by_hand),
        ("equal to one process", zero_even),
        ("parts that do not come out even", zero_padded),
        ("memory", zero_memory),
        ("messages", zero_messages),
    ),
    probes=zero_probes,
    group=zero_group,
    wrong=(
        WrongAnswer(
            "sum instead of mean",
            _zero(divide=False),
            "gradients are summed over ranks. Adam nearly hides that, as it divides by "
            "the gradient's size; asked for is the mean.",
            2,
        ),
        WrongAnswer(
            "own gradient",
            _zero(reduce=False, divide=False),
            "each rank updates its part with its own gradient: the other ranks' "
            "samples are lost.",
            1,
        ),
        WrongAnswer(
            "own gradient, divided",
            _zero(reduce=False),
            "each rank updates its part with its own gradient over W: the other ranks' "
            "samples are lost.",
            1,
        ),
        WrongAnswer(
            "everything updated",
            _zero(whole_update=True),
            "the weights are right, but every rank updates all of them, so every rank "
            "keeps Adam's means for all of them. Cut first, then update.",
            1,
        ),
        WrongAnswer(
            "a rest without an owner",
            _zero(pad=False),
            "the part is rounded down, so the last weights belong to nobody and never "
            "move. Round up, and fill the last part with zeros.",
            2,
        ),
        WrongAnswer(
            "not padded",
            zero_scatter_everything,
            "the weights do not come in W equal parts. Round the part up, and add "
            "zeros at the end of weights and gradient until they do.",
            2,
        ),
        WrongAnswer(
            "padding kept",
            _zero(cut=False),
            "the zeros that fill the last part are still there: return the first P "
            "numbers.",
            3,
        ),
        WrongAnswer(
            "another place",
            _zero(place=lambda rank, W, S: slice(0, S)),
            "every rank updates the weights of the first part, with the gradient of "
            "its own: both have to begin at rank * S.",
            2,
        ),
        WrongAnswer(
            "not gathered",
            zero_not_gathered,
            "each rank's own part is new and the rest is old: after the update all "
            "parts have to be gathered on all ranks.",
            3,
        ),
    ),
    hints=(
        "Three stages: every rank gets the mean gradient of its own part; it updates "
        "that part; all gather all parts. Adam's means then exist once in all, in "
        "pieces.",
        "With S = P / W rounded up, S * W is at least P. `F.pad(t, (0, n))` adds n "
        "zeros at the end of t. Rank r owns the numbers from r * S on.",
        "`dist.reduce_scatter_single(out_S, in_SW)` leaves in `out_S` this rank's part "
        "of the sum over ranks. `dist.all_gather_single(out_SW, in_S)` puts the "
        "parts in a row. Make the outputs before, with `weights_P.new_empty(...)`.",
    ),
    otherwise={
        "parts that do not come out even": (
            "a part has another length, or lies elsewhere, on one of the ranks: pad "
            "weights and gradient alike, and cut at the end.",
            2,
        ),
    },
)

# --- 5.3 one forward, one backward ------------------------------------------------


def one_f_one_b(s: int, S: int, M: int) -> tuple[Actions, float]:
    """What stage s of S does with M microbatches, and the share of its time it waits.

    Raises:
        ValueError: fewer microbatches than stages.
    """
    if M < S:
        raise ValueError(f"{M} microbatches for {S} stages: use at least {S}")
    ahead = S - 1 - s
    actions = [("F", i) for i in range(ahead)]
    for i in range(M - ahead):
        actions += [("F", ahead + i), ("B", i)]
    actions += [("B", i) for i in range(M - ahead, M)]
    return actions, (S - 1) / (M + S - 1)


def schedule_probes() -> Sequence[Arguments]:
    return [(0, 4, 8), (3, 4, 8), (1, 4, 5), (2, 3, 7), (0, 2, 2)]


SIZES = ((1, 3), (2, 3), (3, 3), (4, 8), (5, 7))
"""(S, M) of the checks."""
SLOW_BACKWARD = Durations(F=1.0, I=1.0, W=1.0)


def as_actions(value: Any) -> tuple[Actions, float]:
    """The candidate's list and share.

    Raises:
        CheckFailed: it is something else.
    """
    asked = 'a list of pairs such as ("F", 0), and a number'
    if not isinstance(value, tuple) or len(value) != 2:
        raise CheckFailed(asked, show_values(value))
    actions, share = value
    if not isinstance(actions, list) or not isinstance(share, int | float):
        raise CheckFailed(asked, show_values(value))
    found = []
    for action in actions:
        pair = isinstance(action, tuple | list) and len(action) == 2
        if not pair or action[0] not in ("F", "B"):
            raise CheckFailed(asked, f"an entry {show_values(action)}")
        found.append((action[0], int(action[1])))
    return found, float(share)


def short(actions: Actions) -> str:
    """F0 F1 B0 ..."""
    return " ".join(f"{kind}{i}" for kind, i in actions)


def schedule_by_hand(candidate: Candidate) -> None:
    for s, wanted in ((1, "F0 B0 F1 B1 F2 B2"), (0, "F0 F1 B0 F2 B1 B2")):
        actions, _ = as_actions(candidate(s, 2, 3))
        if short(actions) != wanted:
            asked = f"{wanted} on stage {s} of 2 with 3 microbatches"
            raise CheckFailed(asked, short(actions) or "an empty list")


def schedule_complete(candidate: Candidate) -> None:
    for S, M in SIZES:
        for s in range(S):
            actions, _ = as_actions(candidate(s, S, M))
            for kind in "FB":
                mine = [i for k, i in actions if k == kind]
                if sorted(mine) != list(range(M)):
                    raise CheckFailed(
                        f"each {kind} from {kind}0 to {kind}{M - 1} once, on stage "
                        f"{s} of {S}",
                        short([(kind, i) for i in mine]) or "none",
                    )


def played(candidate: Candidate, S: int, M: int) -> Timeline:
    """The candidate's lists of all stages, played.

    Raises:
        CheckFailed: a deadlock.
    """
    orders = [
        alone([Action(k, s, i) for k, i in as_actions(candidate(s, S, M))[0]])
        for s in range(S)
    ]
    try:
        return simulate(Schedule("yours", tuple(orders), S, M), SLOW_BACKWARD)
    except LabError as error:
        raise CheckFailed(
            f"{S} stages that all reach their end with {M} microbatches",
            str(error).replace("device", "stage").rstrip("."),
        ) from None


def schedule_runs(candidate: Candidate) -> None:
    for S, M in SIZES:
        played(candidate, S, M)


def schedule_memory(candidate: Candidate) -> None:
    for S, M in SIZES:
        timeline = played(candidate, S, M)
        for s in range(S):
            if timeline.peak(s) > S - s:
                raise CheckFailed(
                    f"at most {S - s} microbatches between F and B on stage {s} of {S}",
                    f"{timeline.peak(s)} with {M} microbatches",
                )


def schedule_time(candidate: Candidate) -> None:
    for S, M in SIZES:
        timeline = played(candidate, S, M)
        t = SLOW_BACKWARD
        wanted = M * (t.F + t.B) + closed_bubble("1F1B", S, t)
        if timeline.makespan > wanted + 1e-9:
            raise CheckFailed(
                f"{S} stages done after {wanted:g} with {M} microbatches, F = {t.F:g} "
                f"and B = {t.B:g}",
                f"{timeline.makespan:g}",
            )


def schedule_share(candidate: Candidate) -> None:
    for s, S, M, wanted in (
        (0, 1, 3, 0.0),
        (0, 2, 3, 0.25),
        (2, 4, 8, 3 / 11),
    ):
        _, share = as_actions(candidate(s, S, M))
        if not math.isclose(share, wanted, abs_tol=1e-6):
            raise CheckFailed(
                f"a waiting share of {wanted:.4f} on stage {s} of {S} with {M} "
                "microbatches",
                f"{share:.4f}",
            )


def schedule_refuses(candidate: Candidate) -> None:
    try:
        value = candidate(0, 4, 3)
    except ValueError:
        return
    raise CheckFailed(
        "a ValueError for 3 microbatches on 4 stages", show_values(value)
    )


def _plan(ahead, order=None, share=None):  # type: ignore[no-untyped-def]
    """1F1B with another number of forwards ahead, another order, another share."""

    def run(s, S, M):  # type: ignore[no-untyped-def]
        if M < S:
            raise ValueError("too few")
        first = min(M, max(0, ahead(s, S, M)))
        actions = [("F", i) for i in range(first)]
        for i in range(M):
            if first + i < M:
                actions.append(("F", first + i))
            actions.append(("B", i))
        if order is not None:
            actions = order(actions, M)
        waits = (S - 1) / (M + S - 1) if share is None else share(s, S, M)
        return actions, waits

    return run


def _ahead(s, S, M):  # type: ignore[no-untyped-def]
    return S - 1 - s


def schedule_not_refused(s, S, M):
    if M >= S:
        return one_f_one_b(s, S, M)
    return [("F", i) for i in range(M)] + [("B", i) for i in range(M)], 0.0


def _cut_short(actions, M):  # type: ignore[no-untyped-def]
    last = max(n for n, (kind, _) in enumerate(actions) if kind == "F")
    return actions[: last + 2]


SCHEDULE = Exercise(
    id="5.3",
    title="one forward, one backward",
    minutes=15,
    difficulty=2,
    ours=one_f_one_b,
    checks=(
        ("by hand", schedule_by_hand),
        ("every microbatch once", schedule_complete),
        ("no deadlock", schedule_runs),
        ("memory", schedule_memory),
        ("time", schedule_time),
        ("the share of waiting", schedule_share),
        ("too few microbatches", schedule_refuses),
    ),
    probes=schedule_probes,
    wrong=(
        WrongAnswer(
            "all forwards first",
            _plan(lambda s, S, M: M),
            "all forwards come first: that takes as long, but the activations of all M "
            "microbatches are held at once.",
            1,
        ),
        WrongAnswer(
            "one ahead too many",
            _plan(lambda s, S, M: S - s),
            "one forward too many comes before the first backward. The pair that "
            "follows begins with a forward, so S - 1 - s go ahead.",
            2,
        ),
        WrongAnswer(
            "one ahead too few",
            _plan(lambda s, S, M: S - 2 - s),
            "one forward too few goes ahead: the stage then waits for a backward that "
            "cannot be there yet.",
            2,
        ),
        WrongAnswer(
            "nothing ahead",
            _plan(lambda s, S, M: 0),
            "no forward goes ahead: the first stage then waits until its microbatch "
            "has been through all others and back.",
            1,
        ),
        WrongAnswer(
            "stages mirrored",
            _plan(lambda s, S, M: s),
            "the stages are mirrored: the first one is furthest from the loss, so it "
            "has the most forwards ahead; the last one has none.",
            2,
        ),
        WrongAnswer(
            "same on all stages",
            _plan(lambda s, S, M: S - 1),
            "all stages have as many forwards ahead as the first. The last one can go "
            "back at once.",
            2,
        ),
        WrongAnswer(
            "end forgotten",
            _plan(_ahead, order=_cut_short),
            "the list ends with the last pair. As many backwards as forwards went "
            "ahead are still missing.",
            3,
        ),
        WrongAnswer(
            "share of the work",
            _plan(_ahead, share=lambda s, S, M: (S - 1) / M),
            "(S - 1) / M is waiting over work. Asked for is waiting over all of the "
            "time: work and waiting.",
            3,
        ),
        WrongAnswer(
            "share of this stage",
            _plan(_ahead, share=lambda s, S, M: (S - 1 - s) / (M + S - 1 - s)),
            "the share depends on s, but every stage waits equally long: what the "
            "first does not wait at the beginning it waits in the middle.",
            3,
        ),
        WrongAnswer(
            "not refused",
            schedule_not_refused,
            "M below S has to be refused, with `raise ValueError(...)`.",
            3,
        ),
    ),
    hints=(
        "Count how far stage s is from the last one. As many forwards can go ahead "
        "before its first backward may come in; more would only fill memory.",
        "Three parts: forwards that go ahead, S - 1 - s of them; then pairs, the next "
        "F and the oldest B, while there are F's; then the B's that are left.",
        "A stage works M times F + B, and waits as long as a microbatch needs for the "
        "other S - 1 stages, there and back. Divide the waiting by the sum of both, "
        "and F + B cancels. `raise ValueError(...)` comes first of all.",
    ),
    otherwise={
        "by hand": (
            "a stage's first backward is B0; backwards come in order, and there are as "
            "many as forwards.",
            2,
        ),
        "the share of waiting": (
            "the share is waiting / (work + waiting), between 0 and 1. The wait is "
            "S - 1 times F + B.",
            3,
        ),
        "too few microbatches": (
            "fewer microbatches than stages are refused, and nothing else is.",
            3,
        ),
    },
)
