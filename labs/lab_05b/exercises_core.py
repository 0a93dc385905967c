"""The core exercises of lab 05b, 5.7 to 5.9, and the mistakes they expect.

Shape suffixes: P streams, B sequences, T tokens, D width, S trainings of a table.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from labs.lab_05b import refit
from labsupport.exercise import CheckFailed, Exercise, WrongAnswer
from labsupport.exercise.check import (
    expect_close,
    same_as,
    same_gradient,
    show_values,
)
from labsupport.nn.parscale import aggregate_streams

Arguments = tuple[Any, ...]
Candidate = Callable[..., Any]


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator)


# --- 5.7 the aggregation of streams --------------------------------------------


def aggregate(x_PBTD: Tensor, logits_BTP: Tensor, eps: float) -> Tensor:
    """x_BTD: the sum over streams, weighted by a smoothed softmax."""
    return aggregate_streams(x_PBTD, logits_BTP, eps)


def aggregate_probes() -> Sequence[Arguments]:
    """All sizes differ, or all are alike, where only the order of axes can be wrong."""
    return [
        (random(3, 2, 4, 5, seed=1), random(2, 4, 3, seed=2), 0.3),
        (random(2, 5, 1, 3, seed=3), random(5, 1, 2, seed=4), 0.1),
        (random(3, 3, 3, 3, seed=5), random(3, 3, 3, seed=6), 0.5),
    ]


def aggregate_by_hand(candidate: Candidate) -> None:
    """A softmax of (ln 3, 0) is (3/4, 1/4); with eps = 0.2 it is (0.7, 0.3)."""
    x_PBTD = torch.tensor([10.0, 20.0]).view(2, 1, 1, 1)
    logits_BTP = torch.tensor([[[math.log(3.0), 0.0]]])
    for eps, wanted in ((0.0, 12.5), (0.2, 13.0), (1.0, 15.0)):
        asked = f"of two streams, 10 and 20, with scores ln 3 and 0 and eps = {eps:g}"
        came = candidate(x_PBTD, logits_BTP, eps)
        expect_close(came, torch.tensor([[[wanted]]]), asked)


def aggregate_equal_streams(candidate: Candidate) -> None:
    """Weights sum to 1: streams that say the same are what they say."""
    x_BTD = random(2, 3, 4, seed=7)
    came = candidate(
        x_BTD.expand(5, -1, -1, -1).clone(), 3 * random(2, 3, 5, seed=8), 0.1
    )
    expect_close(
        came, x_BTD, "of five streams that say the same, what they say"
    )


def _weighted(weights: Callable[[Tensor, float], Tensor]):  # type: ignore[no-untyped-def]
    """The sum with these weights w_BTP(logits, eps)."""

    def run(x, logits, eps):  # type: ignore[no-untyped-def]
        return torch.einsum("btp,pbtd->btd", weights(logits, eps), x)

    return run


def _smooth(w: Tensor, eps: float) -> Tensor:
    return (1 - eps) * w + eps / w.shape[-1]


def _reshaped(x, logits, eps):  # type: ignore[no-untyped-def]
    """Weights brought into the shape of streams by `view`, not by moving the axis."""
    w = _smooth(logits.softmax(-1), eps)
    return (w.reshape(x.shape[:-1])[..., None] * x).sum(0)


AGGREGATE = Exercise(
    id="5.7",
    title="many streams, one answer",
    minutes=12,
    difficulty=2,
    ours=aggregate,
    checks=(
        ("by hand", aggregate_by_hand),
        ("random streams", same_as(aggregate, aggregate_probes)),
        ("gradients", same_gradient(aggregate, aggregate_probes)),
        ("streams that say the same", aggregate_equal_streams),
    ),
    probes=aggregate_probes,
    wrong=(
        WrongAnswer(
            "not smoothed",
            _weighted(lambda logits, eps: logits.softmax(-1)),
            "eps is left out: a stream that is never chosen gets no gradient, and "
            "never learns to be chosen.",
            2,
        ),
        WrongAnswer(
            "eps added to each",
            _weighted(
                lambda logits, eps: (1 - eps) * logits.softmax(-1) + eps
            ),
            "each stream gets eps. All streams together get eps, so each eps / P.",
            2,
        ),
        WrongAnswer(
            "eps for each",
            _weighted(
                lambda logits, eps: (
                    (1 - logits.shape[-1] * eps) * logits.softmax(-1) + eps
                )
            ),
            "each stream gets eps. All streams together get eps, so each eps / P.",
            2,
        ),
        WrongAnswer(
            "sum above one",
            _weighted(
                lambda logits, eps: logits.softmax(-1) + eps / logits.shape[-1]
            ),
            "weights sum to 1 + eps: the softmax has to give up what is shared out.",
            2,
        ),
        WrongAnswer(
            "softmax over tokens",
            _weighted(lambda logits, eps: _smooth(logits.softmax(1), eps)),
            "the softmax runs over the tokens of a text. It runs over streams: the "
            "last axis of the scores.",
            1,
        ),
        WrongAnswer(
            "scores smoothed",
            _weighted(lambda logits, eps: ((1 - eps) * logits).softmax(-1)),
            "the scores are shrunk before the softmax. Smooth what comes out of it.",
            2,
        ),
        WrongAnswer(
            "scores as weights",
            _weighted(lambda logits, eps: _smooth(logits, eps)),
            "scores are used as weights as they are: the softmax is missing.",
            1,
        ),
        WrongAnswer(
            "mean",
            _weighted(
                lambda logits, eps: torch.full_like(
                    logits, 1 / logits.shape[-1]
                )
            ),
            "all streams count alike, whatever their scores.",
            1,
        ),
        WrongAnswer(
            "best stream only",
            _weighted(
                lambda logits, eps: F.one_hot(
                    logits.argmax(-1), logits.shape[-1]
                ).to(logits.dtype)
            ),
            "only the best stream counts. Nothing could tell the others how to become "
            "better.",
            1,
        ),
        WrongAnswer(
            "axes not moved",
            _reshaped,
            "weights are *reshaped* to (P, B, T), so a stream gets the weight of "
            "another token. Move the axis: `permute` or `movedim`.",
            3,
        ),
    ),
    hints=(
        "One weight for each stream of each token: a softmax over the last axis of "
        "`logits_BTP`.",
        "Of the total weight 1 a share eps is divided evenly over the P streams, and "
        "1 - eps is left for the softmax.",
        "Weights are (B, T, P), streams (P, B, T, D). Either move P to the front and "
        "add an axis at the end, or let `torch.einsum` sum over p.",
    ),
    otherwise={
        "gradients": (
            "the result is right, its gradient is not: is something detached, or "
            "computed without autograd?",
            3,
        ),
    },
)

# --- 5.8 how far the law is off -------------------------------------------------


def misfit(
    law_4: Tensor, N_S: Tensor, P_S: Tensor, loss_S: Tensor, delta: float
) -> Tensor:
    """The Huber loss of log losses under the law (E, A, alpha, k), summed."""
    return refit.misfit(law_4, N_S, P_S, loss_S, delta)


def misfit_probes() -> Sequence[Arguments]:
    """Small delta and large, so that both parts of the Huber loss are seen."""
    N_S = torch.tensor([0.5, 1.0, 2.0, 4.0, 1.0, 3.0])
    P_S = torch.tensor([1.0, 2.0, 4.0, 8.0, 8.0, 1.0])
    loss_S = torch.tensor([3.1, 1.2, 1.9, 0.7, 2.6, 4.0])
    return [
        (torch.tensor([0.7, 1.5, 0.6, 0.4]), N_S, P_S, loss_S, 0.3),
        (torch.tensor([0.3, 4.0, 0.8, 0.9]), N_S, P_S, loss_S, 5.0),
    ]


def misfit_by_hand(candidate: Candidate) -> None:
    """1 + (9 / 1)^0.5 = 4, and 1 + (9 / 3)^0.5; errors within delta and beyond it."""
    law_4 = torch.tensor([1.0, 9.0, 0.5, 1.0])
    one, e2 = torch.ones(1), torch.full((1,), math.exp(2.0))
    for P_S, predicted, words in (
        (one, 4.0, "P = 1"),
        (e2, 1 + math.sqrt(3.0), "ln P = 2"),
    ):
        for off, wanted in ((0.2, 0.02), (-0.9, 0.325)):
            loss_S = torch.tensor([predicted * math.exp(off)])
            came = candidate(law_4, one, P_S, loss_S, 0.5)
            asked = (
                f"with E = 1, A = 9, alpha = 0.5, k = 1, N = 1, {words}, delta = 0.5 "
                f"and a loss whose logarithm is off by {abs(off):g}, a misfit"
            )
            expect_number(came, wanted, asked)


def misfit_random(candidate: Candidate) -> None:
    for probe in misfit_probes():
        expect_number(
            candidate(*probe), misfit(*probe).item(), "the reference"
        )


def misfit_gradient(candidate: Candidate) -> None:
    """L-BFGS walks along it."""
    for law_4, *rest in misfit_probes():
        mine, ours = (law_4.clone().requires_grad_() for _ in range(2))
        came = candidate(mine, *rest)
        if not isinstance(came, Tensor) or not came.requires_grad:
            raise CheckFailed(
                "a tensor with a gradient with respect to the law",
                show_values(came),
            )
        came.sum().backward()
        misfit(ours, *rest).backward()
        assert mine.grad is not None and ours.grad is not None
        expect_close(
            mine.grad,
            ours.grad,
            "the gradient with respect to E, A, alpha, k",
            1e-4,
        )


def expect_number(value: Any, wanted: float, asked: str) -> None:
    """Fail unless the value is this number, as a float or a tensor of one."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if not isinstance(value, int | float):
        raise CheckFailed(f"{asked}, a number", show_values(value))
    came, right = (
        torch.tensor(float(x), dtype=torch.float64) for x in (value, wanted)
    )
    expect_close(came, right, asked, 1e-4)


def _huber(off: Tensor, delta: float) -> Tensor:
    size = off.abs()
    line = delta * (size - delta / 2)
    return torch.where(size <= delta, size.square() / 2, line)


def _misfit(  # type: ignore[no-untyped-def]
    worth: Callable[[Tensor, Tensor], Tensor] = lambda k, P: k * P.log() + 1,
    reducible: Callable[..., Tensor] = lambda A, N, w, alpha: (
        (A / (N * w)) ** alpha
    ),
    off: Callable[[Tensor, Tensor], Tensor] = lambda p, y: p.log() - y.log(),
    size: Callable[[Tensor, float], Tensor] = lambda x, delta: _huber(
        x, delta
    ).sum(),
):
    def run(law, N, P, loss, delta):  # type: ignore[no-untyped-def]
        E, A, alpha, k = law
        predicted = E + reducible(A, N, worth(k, P), alpha)
        return size(off(predicted, loss), delta)

    return run


MISFIT = Exercise(
    id="5.8",
    title="how far the law is off",
    minutes=14,
    difficulty=2,
    ours=misfit,
    checks=(
        ("by hand", misfit_by_hand),
        ("other numbers", misfit_random),
        ("a gradient", misfit_gradient),
    ),
    probes=misfit_probes,
    wrong=(
        WrongAnswer(
            "logarithm to base 2",
            _misfit(worth=lambda k, P: k * P.log2() + 1),
            "the logarithm of P is to base 2. The law has the natural one: k would "
            "come out smaller by a factor of 0.69.",
            1,
        ),
        WrongAnswer(
            "without the 1",
            _misfit(worth=lambda k, P: k * P.log() + 1e-9),
            "k ln P is taken alone: for P = 1 that is 0, and nothing is left of the "
            "model.",
            1,
        ),
        WrongAnswer(
            "streams as parameters",
            _misfit(worth=lambda k, P: k * P),
            "streams multiply the parameters by k P. They do by k ln P + 1.",
            1,
        ),
        WrongAnswer(
            "power of N alone",
            _misfit(reducible=lambda A, N, w, alpha: (A / N) ** alpha / w),
            "the power takes in A / N only. What streams are worth stands inside it.",
            1,
        ),
        WrongAnswer(
            "losses, not their logarithms",
            _misfit(off=lambda p, y: p - y),
            "losses are compared as they are. The fit compares their logarithms, so "
            "that a per cent is a per cent on both corpora.",
            2,
        ),
        WrongAnswer(
            "squares",
            _misfit(size=lambda x, delta: x.square().sum() / 2),
            "errors are squared throughout. Beyond delta the Huber loss is a line.",
            3,
        ),
        WrongAnswer(
            "no half",
            _misfit(
                size=lambda x, delta: torch.where(
                    x.abs() <= delta,
                    x.square(),
                    delta * (x.abs() - delta / 2),
                ).sum()
            ),
            "a small error r counts r squared. It is half of that, so that parabola "
            "and line meet.",
            3,
        ),
        WrongAnswer(
            "mean",
            _misfit(size=lambda x, delta: _huber(x, delta).mean()),
            "that is the mean over trainings. The sum is asked for.",
            3,
        ),
        WrongAnswer(
            "over delta",
            _misfit(size=lambda x, delta: _huber(x, delta).sum() / delta),
            "that is `smooth_l1_loss`: the Huber loss divided by delta.",
            3,
        ),
        WrongAnswer(
            "delta left at 1",
            _misfit(size=lambda x, delta: _huber(x, 1.0).sum()),
            "delta is not passed on, and so is 1.",
            3,
        ),
        WrongAnswer(
            "a jump",
            _misfit(
                size=lambda x, delta: torch.where(
                    x.abs() <= delta, x.square() / 2, delta * x.abs()
                ).sum()
            ),
            "parabola and line do not meet at delta: the line has to begin at delta "
            "squared / 2.",
            3,
        ),
        WrongAnswer(
            "power of the size alone",
            _misfit(reducible=lambda A, N, w, alpha: A / (N * w) ** alpha),
            "A is divided by a power. The power takes in A, too.",
            1,
        ),
    ),
    hints=(
        "First unpack the law's four numbers; then what it expects of every training. "
        "`torch.log` is the natural logarithm; at P = 1 the streams' factor is 1.",
        "Then the error: the difference of two logarithms, of the expected loss and of "
        "the measured one.",
        "The Huber loss of an error r: r squared / 2 up to delta, then "
        "delta (|r| - delta / 2). Or let `torch.nn.functional.huber_loss` do it, with "
        "`reduction` and `delta`. Sum over trainings.",
    ),
    otherwise={
        "a gradient": (
            "numbers were taken out of the tensors (`.item()`, `float`, `math.log`), "
            "and with them the gradient. Use torch's functions.",
            1,
        ),
    },
)

# --- 5.9 the plain model of equal loss ------------------------------------------


def equal_plain(
    N: float,
    P: int,
    k: float,
    loss: float,
    N_S: Sequence[float],
    loss_S: Sequence[float],
) -> tuple[float, float]:
    """The plain model as good as N with P streams: by the law, and as measured.

    Args:
        N, P, k: size, streams, and what the law says they are worth.
        loss: what N with P streams reached.
        N_S, loss_S: sizes of plain models, rising, and their losses, falling.

    Returns:
        two sizes; the second is NaN where no plain model was measured.
    """
    return N * (k * math.log(P) + 1), refit.plain_size(loss, N_S, loss_S)


CURVE_N, CURVE_LOSS = [1.0, 2.0, 8.0, 10.0], [3.0, 2.5, 2.1, 2.0]


def equal_probes() -> Sequence[Arguments]:
    return [
        (1.0, 2, 0.5, 2.8, CURVE_N, CURVE_LOSS),
        (2.0, 8, 0.4, 2.2, CURVE_N, CURVE_LOSS),
        (1.5, 4, 0.3, 2.4, CURVE_N, CURVE_LOSS),
        (3.0, 1, 0.7, 2.05, CURVE_N, CURVE_LOSS),
    ]


def expect_two(came: Any, wanted: tuple[float, float], asked: str) -> None:
    """Fail unless these are the two sizes."""
    if not isinstance(came, tuple | list) or len(came) != 2:
        raise CheckFailed(f"{asked}, two numbers", show_values(came))
    for value, right, which in zip(
        came, wanted, ("by the law", "by the curve"), strict=True
    ):
        expect_number(value, right, f"{asked}, {which}")


def equal_by_hand(candidate: Candidate) -> None:
    """2 (0.5 ln 1 + 1) = 2. Half way from 3.0 to 2.0 lies sqrt(1 * 4)."""
    came = candidate(2.0, 1, 0.5, 2.5, [1.0, 4.0], [3.0, 2.0])
    asked = (
        "for one stream of 2, k = 0.5, a loss of 2.5 and plain models of 1 and 4 with "
        "losses 3 and 2"
    )
    expect_two(came, (2.0, 2.0), asked)
    came = candidate(2.0, 8, 0.5, 2.25, [1.0, 16.0], [3.0, 2.0])
    asked = (
        "for eight streams of 2, k = 0.5, a loss of 2.25 and plain models of 1 and 16 "
        "with losses 3 and 2"
    )
    expect_two(came, (2 + math.log(8.0), 8.0), asked)


def equal_on_a_curve(candidate: Candidate) -> None:
    for probe in equal_probes():
        asked = f"for N = {probe[0]:g}, P = {probe[1]}, loss {probe[3]:g}"
        expect_two(candidate(*probe), equal_plain(*probe), asked)


def equal_at_measured_points(candidate: Candidate) -> None:
    for n, loss in zip(CURVE_N, CURVE_LOSS, strict=True):
        came = candidate(1.0, 2, 0.5, loss, CURVE_N, CURVE_LOSS)
        expect_two(
            came,
            (1 + 0.5 * math.log(2.0), n),
            f"for a loss of {loss:g}, which a plain model of {n:g} has",
        )


def equal_beyond_the_curve(candidate: Candidate) -> None:
    for loss in (3.2, 1.9):
        came = candidate(1.0, 2, 0.5, loss, CURVE_N, CURVE_LOSS)
        if not isinstance(came, tuple | list) or len(came) != 2:
            raise CheckFailed("two numbers", show_values(came))
        second = came[1]
        if not isinstance(second, int | float | Tensor) or not math.isnan(
            float(second)
        ):
            raise CheckFailed(
                f"NaN for a loss of {loss:g}, which no plain model of the curve comes "
                "near",
                show_values(came[1]),
            )


def _equal(  # type: ignore[no-untyped-def]
    by_law: Callable[[float, int, float], float] = lambda N, P, k: (
        N * (k * math.log(P) + 1)
    ),
    between: Callable[..., float] = lambda n, m, s: n * (m / n) ** s,
    share: Callable[..., float] = lambda high, low, loss: (
        (high - loss) / (high - low)
    ),
    ends_only: bool = False,
):
    def run(N, P, k, loss, N_S, loss_S):  # type: ignore[no-untyped-def]
        points = list(zip(N_S, loss_S, strict=True))
        if ends_only:
            points = [points[0], points[-1]]
        found = math.nan
        for (n, high), (m, low) in pairwise(points):
            if high >= loss >= low and math.isnan(found):
                found = between(n, m, share(high, low, loss))
        return by_law(N, P, k), found

    return run


EQUAL = Exercise(
    id="5.9",
    title="the plain model of equal loss",
    minutes=14,
    difficulty=3,
    ours=equal_plain,
    checks=(
        ("by hand", equal_by_hand),
        ("between measured sizes", equal_on_a_curve),
        ("at measured sizes", equal_at_measured_points),
        ("beyond the curve", equal_beyond_the_curve),
    ),
    probes=equal_probes,
    wrong=(
        WrongAnswer(
            "streams as parameters",
            _equal(by_law=lambda N, P, k: N * P),
            "by the law: N P counts each stream as a whole model. Set the law for N "
            "with P streams equal to the law for one stream, and see what cancels.",
            1,
        ),
        WrongAnswer(
            "without the 1",
            _equal(by_law=lambda N, P, k: N * k * math.log(P)),
            "by the law: the 1 is missing. One stream of N has to give N.",
            1,
        ),
        WrongAnswer(
            "logarithm to base 2",
            _equal(by_law=lambda N, P, k: N * (k * math.log2(P) + 1)),
            "by the law: the logarithm of P is the natural one.",
            1,
        ),
        WrongAnswer(
            "divided",
            _equal(by_law=lambda N, P, k: N / (k * math.log(P) + 1)),
            "by the law: N is divided by the streams' factor. Streams make it worth "
            "more, not less.",
            1,
        ),
        WrongAnswer(
            "order",
            lambda *probe: _equal()(*probe)[::-1],
            "the two sizes are in the other order: by the law first, then by the "
            "curve.",
            1,
        ),
        WrongAnswer(
            "linear in N",
            _equal(between=lambda n, m, s: n + s * (m - n)),
            "by the curve: between two sizes the loss is taken as linear in N. It is "
            "much nearer to linear in ln N.",
            2,
        ),
        WrongAnswer(
            "share turned round",
            _equal(share=lambda high, low, loss: (loss - low) / (high - low)),
            "by the curve: the share is counted from the larger model. At the smaller "
            "model's loss it has to be 0.",
            3,
        ),
        WrongAnswer(
            "nearest size",
            _equal(between=lambda n, m, s: m if s > 0.5 else n),
            "by the curve: the nearest measured size is given. Look between two of "
            "them.",
            2,
        ),
        WrongAnswer(
            "ends of the curve",
            _equal(ends_only=True),
            "by the curve: only its first and last point are used. Take the two "
            "between whose losses yours lies.",
            3,
        ),
        WrongAnswer(
            "the smaller one",
            _equal(between=lambda n, m, s: n),
            "by the curve: the smaller of the two sizes is given. Go on from it by the "
            "share of the way that the loss has come.",
            3,
        ),
    ),
    hints=(
        "By the law: two models have equal losses if A / (N times the streams' factor) "
        "is equal. For a plain model that factor is 1.",
        "By the curve: find two neighbours, the smaller with a loss above yours, the "
        "larger with one below. Then go from one to the other along ln N.",
        "The share of the way is 0 at the smaller model's loss and 1 at the larger's. "
        "Go that share of the way between the logarithms of the two sizes, and undo "
        "the logarithm.",
    ),
    otherwise={
        "beyond the curve": (
            "nothing was measured there, and a number would look as if it had been. "
            "Return NaN.",
            3,
        ),
        "at measured sizes": (
            "a loss that a plain model has exactly belongs to the curve: compare with "
            ">= and <=.",
            2,
        ),
    },
)
