"""The deep exercises of lab 04b, 4.10 to 4.12, and the mistakes they expect.

Shape suffixes: S steps, P weights.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from labsupport.distributed import goodput as pollux
from labsupport.exercise import CheckFailed, Exercise, WrongAnswer
from labsupport.exercise.check import expect_close, same_as, show_values
from labsupport.train.noise_scale import NoiseScale

Arguments = tuple[Any, ...]
Candidate = Callable[..., Any]


def expect_number(value: Any, wanted: float, asked: str) -> None:
    """Fail unless the value is this number, as a float or a tensor of one."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if not isinstance(value, int | float):
        raise CheckFailed(f"{asked}, a number", show_values(value))
    expect_close(
        torch.tensor(float(value)), torch.tensor(float(wanted)), asked, 1e-4
    )


# --- 4.10 the gradient noise scale ----------------------------------------------


def noise_scale(
    small_S: Sequence[float],
    big_S: Sequence[float],
    b: float,
    B: float,
    decay: float,
) -> float:
    """B_simple after the last step, means over steps taken before the ratio.

    Args:
        small_S: |g_b|^2 of each step. big_S: |g_B|^2.
        b, B: samples of the small batch and of the big one.
        decay: of both running means.
    """
    scale = NoiseScale(decay)
    for small, big in zip(small_S, big_S, strict=True):
        scale.add(small, big, b, B)
    return scale.value


def noise_probes() -> Sequence[Arguments]:
    generator = torch.Generator().manual_seed(3)
    found = []
    for b, B, decay in ((2, 8, 0.5), (4, 64, 0.9), (1, 3, 0.7)):
        signal_S = 2 + torch.rand(6, generator=generator)
        noise_S = 5 + 40 * torch.rand(6, generator=generator)
        small_S = (signal_S + noise_S / b).tolist()
        big_S = (signal_S + noise_S / B).tolist()
        found.append((small_S, big_S, b, B, decay))
    return found


def noise_by_hand(candidate: Candidate) -> None:
    """10 = 4 + 12/2 and 5.5 = 4 + 12/8: 12 / 4."""
    came = candidate([10.0], [5.5], 2, 8, 0.9)
    expect_number(
        came, 3.0, "|g_b|^2 = 10 with b = 2, |g_B|^2 = 5.5 with B = 8"
    )


def noise_two_steps(candidate: Candidate) -> None:
    """|G|^2 of 3 and 1, tr of 3 and 9; with decay 1/2 weights of 1/3 and 2/3."""
    small_S = [3 + 3 / 2, 1 + 9 / 2]
    big_S = [3 + 3 / 8, 1 + 9 / 8]
    asked = "two steps with |G|^2 = 3, 1 and tr = 3, 9, decay 0.5"
    expect_number(candidate(small_S, big_S, 2, 8, 0.5), 21 / 5, asked)


def noise_random(candidate: Candidate) -> None:
    for probe in noise_probes():
        expect_number(candidate(*probe), noise_scale(*probe), "the reference")


def _noise(
    estimates: Candidate,
    keeps: Callable[[float], float] = float,
    ratio_first: bool = False,
):  # type: ignore[no-untyped-def]
    def run(small_S, big_S, b, B, decay):  # type: ignore[no-untyped-def]
        signal = noise = ratio = weight = 0.0
        for small, big in zip(small_S, big_S, strict=True):
            G, tr = estimates(small, big, b, B)
            keep = keeps(decay)
            signal = keep * signal + (1 - keep) * G
            noise = keep * noise + (1 - keep) * tr
            ratio = keep * ratio + (1 - keep) * tr / G
            weight = keep * weight + (1 - keep)
        return ratio / weight if ratio_first else noise / signal

    return run


def _both(small, big, b, B):  # type: ignore[no-untyped-def]
    signal = (B * big - b * small) / (B - b)
    return signal, (small - big) / (1 / b - 1 / B)


NOISE = Exercise(
    id="4.10",
    title="the gradient noise scale",
    minutes=12,
    difficulty=2,
    ours=noise_scale,
    checks=(
        ("by hand", noise_by_hand),
        ("two steps", noise_two_steps),
        ("random steps", noise_random),
    ),
    probes=noise_probes,
    wrong=(
        WrongAnswer(
            "ratio before the mean",
            _noise(_both, ratio_first=True),
            "each step's ratio is averaged. Average numerator and denominator, then "
            "divide: a ratio of noisy numbers is biased.",
            2,
        ),
        WrongAnswer(
            "last step only",
            _noise(_both, keeps=lambda decay: 0.0),
            "only the last step counts: keep running means over steps.",
            2,
        ),
        WrongAnswer(
            "decay of the new one",
            _noise(_both, keeps=lambda decay: 1 - decay),
            "the new estimate is multiplied by decay. The mean so far is: decay says "
            "how much of it is kept.",
            2,
        ),
        WrongAnswer(
            "big gradient as signal",
            _noise(lambda s, g, b, B: (g, _both(s, g, b, B)[1])),
            "|g_B|^2 is taken for |G|^2. It holds noise too, tr / B of it.",
            1,
        ),
        WrongAnswer(
            "noise not scaled",
            _noise(lambda s, g, b, B: (_both(s, g, b, B)[0], s - g)),
            "the difference of the two squares is taken for tr. It is tr times "
            "(1/b - 1/B).",
            1,
        ),
        WrongAnswer(
            "upside down",
            lambda *a: 1 / noise_scale(*a),
            "the ratio is upside down: noise over signal.",
            1,
        ),
        WrongAnswer(
            "signal with small and big exchanged",
            _noise(
                lambda s, g, b, B: (
                    (B * s - b * g) / (B - b),
                    _both(s, g, b, B)[1],
                )
            ),
            "in |G|^2 the big batch's square belongs to B, the small one's to b.",
            1,
        ),
    ),
    hints=(
        "Two equations, |g_b|^2 = |G|^2 + tr / b and |g_B|^2 = |G|^2 + tr / B, solved "
        "for |G|^2 and tr.",
        "Two running means, `mean = decay * mean + (1 - decay) * new`, and one "
        "division at the end. Both may start at 0: what is missing cancels.",
        "Subtract the equations: |G|^2 drops out, and tr is the difference over "
        "1/b - 1/B. Multiply them by b and B first, and tr drops out.",
    ),
    otherwise={
        "two steps": (
            "the equations are right. The running means start at 0, and a plain mean "
            "weighs all steps alike: mean = decay * mean + (1 - decay) * new.",
            2,
        ),
    },
)

# --- 4.11 goodput ------------------------------------------------------------------


def goodput(
    B: float,
    W: int,
    a: float,
    c: float,
    n: float,
    gamma: float,
    phi: float,
    B_0: float,
) -> float:
    """Useful samples a second (Pollux, arXiv 2008.12260, equations 7, 8 and 11).

    Args:
        B: samples of a step, shared by W workers.
        a, c: seconds to compute, fixed and for each sample of a worker.
        n: seconds to exchange gradients.
        gamma: how well both overlap, 1 to 10.
        phi: the noise scale. B_0: the batch that the recipe was made for.
    """
    model = pollux.StepModel(a, c, n, gamma=gamma)
    return pollux.goodput(model, B, W, phi, B_0)


def goodput_probes() -> Sequence[Arguments]:
    return [
        (64, 4, 0.01, 0.002, 0.03, 1.0, 50.0, 8),
        (256, 8, 0.0, 0.001, 0.02, 2.5, 400.0, 16),
        (32, 2, 0.05, 0.01, 0.1, 10.0, 12.0, 8),
        (30, 4, 0.01, 0.004, 0.03, 1.5, 50.0, 8),
    ]


def goodput_by_hand(candidate: Candidate) -> None:
    """Compute 1 + 8/2 / 2 = 3, exchange 4: T = 7 or 5."""
    for gamma, T in ((1.0, 7.0), (2.0, 5.0)):
        came = candidate(8, 2, 1.0, 0.5, 4.0, gamma, 24.0, 8)
        asked = (
            f"B = B_0 = 8, W = 2, a = 1, c = 0.5, n = 4, gamma = {gamma:g}, "
            "phi = 24: "
        )
        asked += f"8 / {T:g}"
        expect_number(came, 8 / T, asked)
    came = candidate(40, 2, 1.0, 0.5, 4.0, 1.0, 24.0, 8)
    expect_number(
        came, 40 / 15 / 2, "B = 40, so samples worth a half: 40 / 15 / 2"
    )


def goodput_random(candidate: Candidate) -> None:
    for probe in goodput_probes():
        expect_number(candidate(*probe), goodput(*probe), "the reference")


def _good(
    compute=lambda B, W, a, c: a + c * B / W,
    step=lambda x, n, gamma: (x**gamma + n**gamma) ** (1 / gamma),
    worth=lambda phi, B, B_0: (phi + B_0) / (phi + B),
    rate=lambda B, W, T: B / T,
):  # type: ignore[no-untyped-def]
    def run(B, W, a, c, n, gamma, phi, B_0):  # type: ignore[no-untyped-def]
        return rate(B, W, step(compute(B, W, a, c), n, gamma)) * worth(
            phi, B, B_0
        )

    return run


GOODPUT = Exercise(
    id="4.11",
    title="goodput",
    minutes=10,
    difficulty=2,
    ours=goodput,
    checks=(("by hand", goodput_by_hand), ("other numbers", goodput_random)),
    probes=goodput_probes,
    wrong=(
        WrongAnswer(
            "whole batch on each worker",
            _good(compute=lambda B, W, a, c: a + c * B),
            "each worker computes the whole batch. It has B / W samples.",
            1,
        ),
        WrongAnswer(
            "root without brackets",
            _good(step=lambda x, n, gamma: (x**gamma + n**gamma) / gamma),
            "`x ** 1 / gamma` is (x ** 1) / gamma: write `** (1 / gamma)`.",
            2,
        ),
        WrongAnswer(
            "whole samples",
            _good(compute=lambda B, W, a, c: a + c * (B // W)),
            "a worker's share is rounded down. On average it has B / W samples, a "
            "fraction too.",
            1,
        ),
        WrongAnswer(
            "no overlap",
            _good(step=lambda x, n, gamma: x + n),
            "computing and exchanging are added: gamma is left out.",
            2,
        ),
        WrongAnswer(
            "root missing",
            _good(step=lambda x, n, gamma: x**gamma + n**gamma),
            "the root is missing: the sum of the powers, to the power of 1 / gamma.",
            2,
        ),
        WrongAnswer(
            "throughput",
            _good(worth=lambda phi, B, B_0: 1.0),
            "that is the throughput: the efficiency is missing.",
            3,
        ),
        WrongAnswer(
            "efficiency upside down",
            _good(worth=lambda phi, B, B_0: (phi + B) / (phi + B_0)),
            "the efficiency is upside down: in a larger batch a sample is worth less.",
            3,
        ),
        WrongAnswer(
            "steps a second",
            _good(rate=lambda B, W, T: 1 / T),
            "steps a second are counted. Throughput is samples a second, B / T.",
            1,
        ),
        WrongAnswer(
            "samples of one worker",
            _good(rate=lambda B, W, T: B / W / T),
            "the samples of one worker are counted: all B of them are done in T.",
            1,
        ),
    ),
    hints=(
        "Computing takes a + c * B / W, and in a step B samples are done.",
        "Powers: `x**gamma`, and the root is `** (1 / gamma)`.",
        "What a sample is worth is 1 for B = B_0, and less for larger batches.",
    ),
)

# --- 4.12 SAM ------------------------------------------------------------------------


def sam_gradient(
    gradient: Callable[[Tensor], Tensor], w_P: Tensor, rho: float
) -> Tensor:
    """The gradient at the worst point within rho (Foret et al. 2021, equation 3).

    Args:
        gradient: the gradient of the loss at any weights.
        w_P: where we are; not changed.
        rho: how far to look.
    """
    g_P = gradient(w_P)
    return gradient(w_P + rho * g_P / g_P.norm())


def bowl(w_P: Tensor) -> Tensor:
    """The gradient of a loss with curvature 1, 2, 3, ... and a fourth power."""
    k_P = torch.arange(1.0, len(w_P) + 1)
    return k_P * w_P + w_P**3


def sam_probes() -> Sequence[Arguments]:
    generator = torch.Generator().manual_seed(2)
    return [
        (bowl, torch.randn(P, generator=generator), rho)
        for P, rho in ((3, 0.5), (5, 2.0), (4, 0.1))
    ]


def sam_by_hand(candidate: Candidate) -> None:
    """At (3, 4) with curvature 1: e = 0.5 (0.6, 0.8)."""
    came = candidate(lambda w_P: w_P.clone(), torch.tensor([3.0, 4.0]), 0.5)
    asked = "of the loss |w|^2 / 2 at (3, 4), rho = 0.5"
    expect_close(came, torch.tensor([3.3, 4.4]), asked)


def _sam(move: Callable[[Tensor, float], Tensor]):  # type: ignore[no-untyped-def]
    return lambda gradient, w, rho: gradient(w + move(gradient(w), rho))


SAM_STEP = Exercise(
    id="4.12",
    title="the gradient of the worst point nearby",
    minutes=8,
    difficulty=1,
    ours=sam_gradient,
    checks=(
        ("by hand", sam_by_hand),
        ("a bowl", same_as(sam_gradient, sam_probes)),
    ),
    probes=sam_probes,
    wrong=(
        WrongAnswer(
            "plain gradient",
            lambda gradient, w, rho: gradient(w),
            "that is the gradient at the weights themselves: look rho away first.",
            1,
        ),
        WrongAnswer(
            "downhill",
            _sam(lambda g, rho: -rho * g / g.norm()),
            "the look goes downhill. The worst point nearby is uphill.",
            1,
        ),
        WrongAnswer(
            "not normalised",
            _sam(lambda g, rho: rho * g),
            "the distance grows with the gradient: divide by its length.",
            2,
        ),
        WrongAnswer(
            "squared length",
            _sam(lambda g, rho: rho * g / g.square().sum()),
            "the gradient is divided by the square of its length.",
            2,
        ),
        WrongAnswer(
            "signs",
            _sam(lambda g, rho: rho * g.sign()),
            "each number is moved by rho. The whole vector is rho long.",
            2,
        ),
        WrongAnswer(
            "both gradients",
            lambda gradient, w, rho: (
                gradient(w) + sam_gradient(gradient, w, rho)
            ),
            "both gradients are added. The first one only says where to look.",
            3,
        ),
    ),
    hints=(
        "Take the gradient, go rho in its direction, and take it again there.",
        "`g_P / g_P.norm()` has length 1.",
        "Go there with a new tensor; `w_P += ...` would move the weights.",
    ),
)
