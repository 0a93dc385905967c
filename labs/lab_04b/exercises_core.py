"""The core exercises of lab 04b, 4.7 to 4.9, and the mistakes they expect.

Shape suffixes: R ranks (W of them), P weights, A steps along a direction; a list of
weights has one tensor a layer, of any shape.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from labsupport.distributed.balance import (
    StepCost,
    balanced_batches,
    gradient_weight,
)
from labsupport.exercise import CheckFailed, Exercise, WrongAnswer
from labsupport.exercise.check import expect_close, same_as, show_values
from labsupport.exercise.practice import on_ranks

Arguments = tuple[Any, ...]
Candidate = Callable[..., Any]
Loss = Callable[[Sequence[Tensor]], Tensor]


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator)


# --- 4.7 gradients of unequal batches ----------------------------------------


def average_gradient(gradient_P: Tensor, b: int, dist: Any) -> Tensor:
    """The mean gradient over all samples of all ranks, on every rank.

    Args:
        gradient_P: the mean gradient of this rank's samples.
        b: how many they are.
        dist: `torch.distributed`, with a process group.
    """
    W = dist.get_world_size()
    B = torch.tensor([float(b)], device=gradient_P.device)
    dist.all_reduce(B)
    weighted_P = gradient_P * gradient_weight(b, int(B.item()), W)
    dist.all_reduce(weighted_P)
    return weighted_P / W


def average_on_ranks(
    function: Candidate, gradient_RP: Tensor, b_R: list[int]
) -> Tensor:
    """What comes of it on every rank, side by side."""
    results = on_ranks(function, gradient_RP, b_R)
    for rank, mean_P in enumerate(results):
        right = (
            isinstance(mean_P, Tensor) and mean_P.shape == gradient_RP[0].shape
        )
        if not right:
            asked = f"a tensor of shape {tuple(gradient_RP[0].shape)} on rank {rank}"
            raise CheckFailed(asked, show_values(mean_P))
    return torch.stack(results)


def average_probes() -> Sequence[Arguments]:
    """Equal batches do not tell mistakes apart, so none are."""
    return [
        (random(2, 3, seed=1), [1, 3]),
        (random(3, 4, seed=2), [5, 1, 2]),
        (random(4, 2, seed=3), [2, 2, 9, 3]),
    ]


def average_by_hand(candidate: Candidate) -> None:
    """One sample with the gradient 4 and three with a mean of 8: 28 / 4."""
    came_RP = candidate(torch.tensor([[4.0], [8.0]]), [1, 3])
    asked = "of 1 sample with gradient 4 and 3 with mean 8, on both ranks, the mean"
    expect_close(came_RP, torch.tensor([[7.0], [7.0]]), asked)


def squared_error_gradient(x_BP: Tensor, y_B: Tensor, w_P: Tensor) -> Tensor:
    """By torch, in float64: of the mean of (x w - y)^2 over these samples."""
    w = w_P.double().requires_grad_()
    error = (x_BP.double() @ w - y_B.double()).square().mean()
    return torch.autograd.grad(error, w)[0].float()


def average_is_one_process(candidate: Candidate) -> None:
    """Samples cut into unequal batches, and all of them at once."""
    w_P = random(5, seed=9)
    for b_R in ([3, 3], [1, 7, 4], [6, 1, 1, 2]):
        x_BP, y_B = random(sum(b_R), 5, seed=7), random(sum(b_R), seed=8)
        parts = zip(x_BP.split(b_R), y_B.split(b_R), strict=True)
        mine_RP = torch.stack(
            [squared_error_gradient(x, y, w_P) for x, y in parts]
        )
        wanted_P = squared_error_gradient(x_BP, y_B, w_P)
        came_RP = candidate(mine_RP, b_R)
        asked = f"with batches {b_R} the gradient of one process on every rank"
        expect_close(
            came_RP, wanted_P.expand(len(b_R), -1), asked, tolerance=1e-6
        )


def _average(weight: Callable[[int, float, int], float], after: float = 0.0):  # type: ignore[no-untyped-def]
    """Weights w(b, B, W) before a sum that is divided by W ** (1 - after)."""

    def run(gradient_P, b, dist):  # type: ignore[no-untyped-def]
        W, B = dist.get_world_size(), torch.tensor([float(b)])
        dist.all_reduce(B)
        weighted_P = gradient_P * weight(b, B.item(), W)
        dist.all_reduce(weighted_P)
        return weighted_P / W ** (1 - after)

    return run


def _weighted_after(gradient_P, b, dist):  # type: ignore[no-untyped-def]
    W, B = dist.get_world_size(), torch.tensor([float(b)])
    dist.all_reduce(B)
    mean_P = gradient_P.clone()
    dist.all_reduce(mean_P)
    return mean_P / W * (W * b / B.item())


def _not_summed(gradient_P, b, dist):  # type: ignore[no-untyped-def]
    W, B = dist.get_world_size(), torch.tensor([float(b)])
    dist.all_reduce(B)
    return gradient_P * (W * b / B.item())


AVERAGE = Exercise(
    id="4.7",
    title="gradients of unequal batches",
    minutes=10,
    difficulty=1,
    ours=average_gradient,
    checks=(
        ("by hand", average_by_hand),
        ("equal to one process to 1e-6", average_is_one_process),
    ),
    probes=average_probes,
    group=average_on_ranks,
    wrong=(
        WrongAnswer(
            "plain mean",
            _average(lambda b, B, W: 1.0),
            "all ranks count alike, whatever their batch: a sample of a small batch "
            "then counts for more. Weigh before you sum.",
            1,
        ),
        WrongAnswer(
            "W missing",
            _average(lambda b, B, W: b / B),
            "the result is W times too small: weights of b / B already make a mean, "
            "and a mean over ranks divides by W once more.",
            2,
        ),
        WrongAnswer(
            "not divided by W",
            _average(lambda b, B, W: W * b / B, after=1.0),
            "the result is W times too large: divide the sum by W, or leave W out of "
            "the weight.",
            2,
        ),
        WrongAnswer(
            "sum of gradients",
            _average(lambda b, B, W: 1.0, after=1.0),
            "gradients are summed over ranks without weights. Asked for is the mean "
            "over samples.",
            1,
        ),
        WrongAnswer(
            "sum over samples",
            _average(lambda b, B, W: b, after=1.0),
            "that is the sum over all samples. Divide by B, their number on all ranks.",
            1,
        ),
        WrongAnswer(
            "inverse weights",
            _average(lambda b, B, W: B / (W * b)),
            "the weight is upside down: a large batch has to count for more.",
            1,
        ),
        WrongAnswer(
            "weighted after the sum",
            _weighted_after,
            "the weight comes after the sum, so every rank ends with another result. "
            "Weigh your own gradient, then sum.",
            3,
        ),
        WrongAnswer(
            "not summed",
            _not_summed,
            "each rank returns its own weighted gradient: `dist.all_reduce` sums over "
            "ranks.",
            3,
        ),
    ),
    hints=(
        "A rank's mean times b is the sum of its samples. The sum of all those, over "
        "B samples, is what one process would compute.",
        "B is the sum of b over ranks: `dist.all_reduce` on a tensor that holds b. "
        "Your weight is W * b / B, and the sum is divided by W.",
        "Multiply your gradient first, into a new tensor: all_reduce sums in place. "
        "What it leaves still has to be divided.",
    ),
)

# --- 4.8 batches for unequal workers ------------------------------------------


def balance(a_W: Sequence[float], c_W: Sequence[float], B: int) -> list[int]:
    """Whole batches of at least 1 whose sum is B and whose longest time is least."""
    workers = zip(a_W, c_W, strict=True)
    return balanced_batches([StepCost(a, c) for a, c in workers], B)


def balance_probes() -> Sequence[Arguments]:
    """Exact shares, shares to round, fixed times, and a worker that starts late."""
    return [
        ([0.0, 0.0], [1.0, 3.0], 16),
        ([0.0, 0.0, 0.0], [1.0, 1.0, 2.5], 17),
        ([2.0, 6.0, 1.0], [1.0, 1.5, 0.5], 31),
        ([1.0, 1.0, 4.0, 2.0], [0.3, 0.7, 0.4, 1.1], 50),
        ([0.0, 8.0, 8.0], [3.0, 0.5, 2.0], 11),
        ([0.0, 0.0, 0.0], [0.7, 0.7, 3.0], 19),
        ([0.0, 0.0, 40.0], [1.0, 1.0, 1.0], 9),
    ]


def shortest(a_W: Sequence[float], c_W: Sequence[float], B: int) -> float:
    """The least longest time, by trying all times at which a worker may end."""
    times = sorted(
        a + c * b
        for a, c in zip(a_W, c_W, strict=True)
        for b in range(1, B + 1)
    )
    for T in times:
        room = 0
        for a, c in zip(a_W, c_W, strict=True):
            fits = sum(a + c * b <= T * (1 + 1e-9) for b in range(1, B + 1))
            if fits == 0:  # not even the one sample that it must have
                break
            room += fits
        else:
            if room >= B:
                return T
    raise AssertionError("no division: fewer samples than workers")


def as_batches(value: Any, workers: int, B: int) -> list[int]:
    """The candidate's batches.

    Raises:
        CheckFailed: no list of whole numbers of at least 1 whose sum is B.
    """
    if not isinstance(value, list) or len(value) != workers:
        raise CheckFailed(f"a list of {workers} numbers", show_values(value))
    whole = all(isinstance(b, int) and not isinstance(b, bool) for b in value)
    if not whole:
        raise CheckFailed("whole numbers, of type int", show_values(value))
    if min(value) < 1:
        raise CheckFailed(
            "at least 1 sample for every worker", show_values(value)
        )
    if sum(value) != B:
        came = f"{show_values(value)}, whose sum is {sum(value)}"
        raise CheckFailed(f"batches whose sum is {B}", came)
    return value


def expect_shortest(candidate: Candidate, a_W: Any, c_W: Any, B: int) -> None:
    came_W = as_batches(candidate(list(a_W), list(c_W), B), len(a_W), B)
    times = [a + c * b for a, c, b in zip(a_W, c_W, came_W, strict=True)]
    wanted = shortest(a_W, c_W, B)
    if max(times) > wanted * (1 + 1e-6):
        raise CheckFailed(
            f"a longest time of {wanted:.4g} with a = {show_values(a_W)}, "
            f"c = {show_values(c_W)}, B = {B}",
            f"{max(times):.4g} with batches {came_W}",
        )


def balance_by_hand(candidate: Candidate) -> None:
    """T = 16 / (1 + 1/3) = 12; then T = (11 + 2/1 + 4/2) / (1 + 1/2) = 10."""
    for a_W, c_W, B, wanted in (
        ([0.0, 0.0], [1.0, 3.0], 16, [12, 4]),
        ([2.0, 4.0], [1.0, 2.0], 11, [8, 3]),
    ):
        came = as_batches(candidate(a_W, c_W, B), len(a_W), B)
        if came != wanted:
            asked = f"{wanted} with a = {a_W}, c = {c_W}, B = {B}"
            raise CheckFailed(asked, str(came))


def balance_is_shortest(candidate: Candidate) -> None:
    for a_W, c_W, B in balance_probes()[:-1]:
        expect_shortest(candidate, a_W, c_W, B)


def balance_late_worker(candidate: Candidate) -> None:
    expect_shortest(candidate, *balance_probes()[-1])


def _level(a_W, c_W, B):  # type: ignore[no-untyped-def]
    pairs = list(zip(a_W, c_W, strict=True))
    head_start = sum(a / c for a, c in pairs)
    return (B + head_start) / sum(1 / c for c in c_W)


def _shares(a_W, c_W, B):  # type: ignore[no-untyped-def]
    T = _level(a_W, c_W, B)
    return [(T - a) / c for a, c in zip(a_W, c_W, strict=True)]


def _without_a(a_W, c_W, B):  # type: ignore[no-untyped-def]
    return balance([0.0] * len(a_W), c_W, B)


def _rest_to(index: int):  # type: ignore[no-untyped-def]
    def run(a_W, c_W, B):  # type: ignore[no-untyped-def]
        b_W = [max(1, int(b)) for b in _shares(a_W, c_W, B)]
        b_W[index] += B - sum(b_W)
        return b_W

    return run


def _to_who_is_first_now(a_W, c_W, B):  # type: ignore[no-untyped-def]
    b_W = [max(1, int(b)) for b in _shares(a_W, c_W, B)]
    while sum(b_W) != B:
        ends = [a + c * b for a, c, b in zip(a_W, c_W, b_W, strict=True)]
        if sum(b_W) < B:
            b_W[ends.index(min(ends))] += 1
            continue
        most = max(e for e, b in zip(ends, b_W, strict=True) if b > 1)
        b_W[ends.index(most)] -= 1
    return b_W


def _nearest_repaired(a_W, c_W, B):
    """Rounded to the nearest; then put right, a sample at a time."""
    b_W = [max(1, round(b)) for b in _shares(a_W, c_W, B)]
    while sum(b_W) != B:
        more = int(sum(b_W) < B)
        ends = [
            a + c * (b + more) for a, c, b in zip(a_W, c_W, b_W, strict=True)
        ]
        if more:
            b_W[ends.index(min(ends))] += 1
            continue
        most = max(e for e, b in zip(ends, b_W, strict=True) if b > 1)
        b_W[ends.index(most)] -= 1
    return b_W


def _in_one_order(a_W, c_W, B):
    """Who comes next is computed once."""
    b_W = [max(1, int(b)) for b in _shares(a_W, c_W, B)]
    if sum(b_W) > B:
        return balance(a_W, c_W, B)
    ends = [a + c * (b + 1) for a, c, b in zip(a_W, c_W, b_W, strict=True)]
    order = sorted(range(len(b_W)), key=ends.__getitem__)
    for place in range(B - sum(b_W)):
        b_W[order[place % len(order)]] += 1
    return b_W


def _equal(a_W, c_W, B):  # type: ignore[no-untyped-def]
    each, left_over = divmod(B, len(a_W))
    return [each + (i < left_over) for i in range(len(a_W))]


BALANCE = Exercise(
    id="4.8",
    title="batches for unequal workers",
    minutes=15,
    difficulty=3,
    ours=balance,
    checks=(
        ("by hand", balance_by_hand),
        ("no other division ends earlier", balance_is_shortest),
        ("a worker that starts late", balance_late_worker),
    ),
    probes=balance_probes,
    wrong=(
        WrongAnswer(
            "equal",
            _equal,
            "batches are equal, so the slowest worker decides.",
            1,
        ),
        WrongAnswer(
            "fixed times left out",
            _without_a,
            "the fixed times a are left out: a worker that starts later gets as much "
            "as one that does not.",
            1,
        ),
        WrongAnswer(
            "slow ones get more",
            lambda a, c, B: balance(a, [1 / x for x in c], B),
            "the slower a worker, the more it gets: c is time per sample, so its share "
            "goes with 1 / c.",
            1,
        ),
        WrongAnswer(
            "not whole",
            _shares,
            "shares are right, and not whole: round them down, then hand out the rest.",
            2,
        ),
        WrongAnswer(
            "rounded down",
            lambda a, c, B: [int(b) for b in _shares(a, c, B)],
            "what is left over after rounding down is nobody's.",
            2,
        ),
        WrongAnswer(
            "rounded",
            lambda a, c, B: [round(b) for b in _shares(a, c, B)],
            "each share is rounded by itself, so their sum may miss B.",
            2,
        ),
        WrongAnswer(
            "rounded down, at least 1",
            lambda a, c, B: [max(1, int(b)) for b in _shares(a, c, B)],
            "shares are rounded down, and what is left over is nobody's: step 3 is "
            "missing.",
            2,
        ),
        WrongAnswer(
            "rounded, at least 1",
            lambda a, c, B: [max(1, round(b)) for b in _shares(a, c, B)],
            "each share is rounded by itself, so their sum may miss B.",
            2,
        ),
        WrongAnswer(
            "to the nearest, then repaired",
            _nearest_repaired,
            "shares are rounded to the nearest. A worker whose share went up may then "
            "end last, and nothing takes it back: round down.",
            1,
        ),
        WrongAnswer(
            "in one order",
            _in_one_order,
            "who gets the next sample is computed once for all. Look anew before every "
            "sample: a fast worker may take two in a row.",
            2,
        ),
        WrongAnswer(
            "to who is first now",
            _to_who_is_first_now,
            "a sample goes to whoever ends earliest *without* it. A slow worker may be "
            "the first now and the last with one more: look at a + c (b + 1).",
            3,
        ),
        WrongAnswer(
            "rest to the first",
            _rest_to(0),
            "what is left over goes to the first worker. Give each sample to whoever "
            "will have finished first with one more.",
            3,
        ),
        WrongAnswer(
            "rest to the last",
            _rest_to(-1),
            "what is left over goes to the last worker. Give each sample to whoever "
            "will have finished first with one more.",
            3,
        ),
    ),
    hints=(
        "Each share, rounded down but at least 1, is a good start. `int` rounds a "
        "number above zero down.",
        "Then put right what the sum lacks or has too much, one sample at a time. "
        "Look at each worker's time anew before every sample.",
        "While the sum is below B, one more goes to the worker with the least a + c "
        "(b + 1). While it is above, one is taken from the worker with the largest "
        "a + c b among those with b > 1.",
    ),
    otherwise={
        "a worker that starts late": (
            "one worker's share came out below 1. It gets 1, and then the others have "
            "too much together.",
            3,
        ),
    },
)

# --- 4.9 a slice of the loss ----------------------------------------------------


def filter_direction(
    weights: Sequence[Tensor], raw: Sequence[Tensor]
) -> list[Tensor]:
    """Each row of a matrix as long as the weights' row; nothing for vectors.

    Filter normalisation (Li et al. 2018, arXiv 1712.09913, section 4). A filter is
    what feeds one output: here, a row.
    """
    direction = []
    for w, d in zip(weights, raw, strict=True):
        if w.ndim < 2:
            direction.append(torch.zeros_like(w))
            continue
        length = d.norm(dim=1, keepdim=True).clamp(min=1e-12)
        direction.append(d / length * w.norm(dim=1, keepdim=True))
    return direction


def loss_slice(
    loss: Loss,
    weights: Sequence[Tensor],
    raw: Sequence[Tensor],
    alphas: Sequence[float],
) -> Tensor:
    """The loss at w + alpha d for each alpha; d is the filter-normalised `raw`.

    Returns:
        loss_A.
    """
    direction = filter_direction(weights, raw)
    return torch.stack(
        [
            loss(
                [
                    w + alpha * d
                    for w, d in zip(weights, direction, strict=True)
                ]
            )
            for alpha in alphas
        ]
    )


def two_layers(weights: Sequence[Tensor]) -> Tensor:
    """A loss of two matrices and a bias, without symmetries to hide behind."""
    first_HD, bias_H, second_OH = weights
    x_ND = random(6, first_HD.shape[1], seed=5)
    hidden_NH = torch.relu(x_ND @ first_HD.t() + bias_H)
    return (hidden_NH @ second_OH.t() - 1).square().mean()


def layers(seed: int) -> tuple[list[Tensor], list[Tensor]]:
    shapes = ((4, 3), (4,), (2, 4))
    weights = [random(*s, seed=seed + i) for i, s in enumerate(shapes)]
    raw = [random(*s, seed=seed + 10 + i) for i, s in enumerate(shapes)]
    return weights, raw


def slice_probes() -> Sequence[Arguments]:
    found = []
    for seed in (1, 2):
        weights, raw = layers(seed)
        found.append((two_layers, weights, raw, [-1.0, -0.3, 0.0, 0.5]))
    return found


def slice_by_hand(candidate: Candidate) -> None:
    """A row of length 5, so d is (0, 5); the vector stays."""
    weights = [torch.tensor([[3.0, 4.0]]), torch.tensor([2.0])]
    raw = [torch.tensor([[0.0, 2.0]]), torch.tensor([7.0])]

    def loss(w: Sequence[Tensor]) -> Tensor:
        return w[0].sum() + 10 * w[1].sum()

    came_A = candidate(loss, weights, raw, [0.0, 1.0, -0.2])
    asked = (
        "with a row (3, 4), a vector (2), raw directions (0, 2) and (7) and the loss "
        "row.sum() + 10 vector.sum(), at alpha 0, 1 and -0.2, losses of"
    )
    expect_close(came_A, torch.tensor([27.0, 32.0, 26.0]), asked)


def slice_leaves_weights(candidate: Candidate) -> None:
    weights, raw = layers(3)
    given = [*weights, *raw]
    before = [x.clone() for x in given]
    candidate(two_layers, weights, raw, [-0.5, 1.0])
    if not all(map(torch.equal, given, before)):
        raise CheckFailed(
            "weights and raw left as they were", "numbers that have changed"
        )


def slice_of_a_twin(candidate: Candidate) -> None:
    """Rows times 8 and columns of the next layer over 8: the same function."""
    weights, raw = layers(4)
    weights[1] = torch.zeros_like(weights[1])
    twin = [weights[0] * 8, weights[1], weights[2] / 8]
    alphas = [-0.5, 0.0, 0.7]
    wanted = candidate(two_layers, weights, raw, alphas)
    came = candidate(two_layers, twin, raw, alphas)
    asked = "of a network with weights times 8 and over 8, the same slice"
    expect_close(came, wanted, asked, tolerance=1e-4)


def slice_zero_row(candidate: Candidate) -> None:
    weights, raw = layers(5)
    raw[0][1] = 0.0
    came_A = candidate(two_layers, weights, raw, [0.5])
    if isinstance(came_A, Tensor) and not came_A.isfinite().all():
        raise CheckFailed("a finite loss where a row of `raw` is zero", "NaN")
    wanted_A = loss_slice(two_layers, weights, raw, [0.5])
    expect_close(came_A, wanted_A, "a row of `raw` is zero: a loss of")


def _slice(normalise: Callable[..., Tensor], vectors: bool = False):  # type: ignore[no-untyped-def]
    def run(loss, weights, raw, alphas):  # type: ignore[no-untyped-def]
        direction = [
            d
            if w.ndim < 2 and vectors
            else torch.zeros_like(w)
            if w.ndim < 2
            else normalise(w, d)
            for w, d in zip(weights, raw, strict=True)
        ]
        return torch.stack(
            [
                loss(
                    [
                        w + a * d
                        for w, d in zip(weights, direction, strict=True)
                    ]
                )
                for a in alphas
            ]
        )

    return run


def _rows(w: Tensor, d: Tensor) -> Tensor:
    length = d.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return d / length * w.norm(dim=1, keepdim=True)


def _vectors_as_filters(loss, weights, raw, alphas):  # type: ignore[no-untyped-def]
    direction = [
        d
        / d.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        * w.norm(dim=-1, keepdim=True)
        for w, d in zip(weights, raw, strict=True)
    ]
    moved = [
        [w + a * d for w, d in zip(weights, direction, strict=True)]
        for a in alphas
    ]
    return torch.stack([loss(some) for some in moved])


def _whole_direction(loss, weights, raw, alphas):  # type: ignore[no-untyped-def]
    length = torch.sqrt(sum(d.square().sum() for d in raw))  # type: ignore[call-overload]
    size = torch.sqrt(sum(w.square().sum() for w in weights))  # type: ignore[call-overload]
    direction = [d / length * size for d in raw]
    return torch.stack(
        [
            loss([w + a * d for w, d in zip(weights, direction, strict=True)])
            for a in alphas
        ]
    )


def _walking(loss, weights, raw, alphas):  # type: ignore[no-untyped-def]
    direction, here, found = filter_direction(weights, raw), list(weights), []
    for alpha in alphas:
        here = [w + alpha * d for w, d in zip(here, direction, strict=True)]
        found.append(loss(here))
    return torch.stack(found)


SLICE = Exercise(
    id="4.9",
    title="a slice of the loss",
    minutes=15,
    difficulty=2,
    ours=loss_slice,
    checks=(
        ("by hand", slice_by_hand),
        ("a twin of the network", slice_of_a_twin),
        ("two layers", same_as(loss_slice, slice_probes)),
        ("weights stay", slice_leaves_weights),
        ("a row of zeros", slice_zero_row),
    ),
    probes=slice_probes,
    wrong=(
        WrongAnswer(
            "not normalised",
            _slice(lambda w, d: d),
            "the raw direction is used as it is: it is large where weights are small.",
            1,
        ),
        WrongAnswer(
            "of length 1",
            _slice(
                lambda w, d: d / d.norm(dim=1, keepdim=True).clamp(min=1e-12)
            ),
            "each row of the direction has length 1. Give it the length of the "
            "weights' row.",
            1,
        ),
        WrongAnswer(
            "by layer",
            _slice(lambda w, d: d / d.norm() * w.norm()),
            "a whole matrix is normalised at once. Each row has a length of its own.",
            1,
        ),
        WrongAnswer(
            "by column",
            _slice(
                lambda w, d: (
                    d
                    / d.norm(dim=0, keepdim=True)
                    * w.norm(dim=0, keepdim=True)
                )
            ),
            "columns are normalised. A filter feeds one output: a row, "
            "`norm(dim=1, keepdim=True)`.",
            2,
        ),
        WrongAnswer(
            "all at once",
            _whole_direction,
            "the direction of all layers together is normalised at once.",
            1,
        ),
        WrongAnswer(
            "number by number",
            _slice(lambda w, d: d * w.abs()),
            "each number is scaled by itself. Scale whole rows, and divide by the "
            "length of the raw row.",
            2,
        ),
        WrongAnswer(
            "raw length kept",
            _slice(lambda w, d: d * w.norm(dim=1, keepdim=True)),
            "rows are multiplied by the weights' length and not divided by their own.",
            2,
        ),
        WrongAnswer(
            "vectors as one filter",
            _vectors_as_filters,
            "a vector is scaled to its own length and moves. Its direction is zero: "
            "`ndim` below 2.",
            2,
        ),
        WrongAnswer(
            "vectors move",
            _slice(_rows, vectors=True),
            "vectors (biases, norms) move as well: their direction is zero.",
            2,
        ),
        WrongAnswer(
            "walking",
            _walking,
            "each step starts where the last one ended. All start at the weights.",
            3,
        ),
    ),
    hints=(
        "For each matrix: make each row of the raw direction as long as the same row "
        "of the weights.",
        "`x.norm(dim=1, keepdim=True)` is the length of each row. A vector, with "
        "`ndim` below 2, gets zeros; so does a row whose length is 0.",
        "For each alpha make a new list of weights and call `loss` on it. "
        "`torch.stack` makes one tensor of the losses. Nothing is changed in place.",
    ),
    otherwise={
        "weights stay": (
            "`w += ...` and `d /= ...` change the tensors you were given. Make new "
            "ones, as `w + alpha * d` does.",
            3,
        ),
        "a row of zeros": (
            "0 / 0 is NaN: clamp the length, `.clamp(min=1e-12)`.",
            2,
        ),
    },
)
