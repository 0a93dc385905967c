"""The parallel scaling law, fitted anew to the published losses.

    L(N, P) = E + (A / (N (k ln P + 1)))^alpha              arXiv 2505.10475, section 3

As the authors do in `parametric_fit.py`: least Huber loss of log losses, by L-BFGS from
several starts. They use scipy; here it is torch's own L-BFGS, in float64, on the
logarithms of the four numbers, so that none can become negative. N and A are in
billions of parameters (the authors have A 10^9 and N, which is the same).

Shape suffixes: S trainings of the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from labs.lab_05b.published import CorpusName, Point, points

DELTA = 1e-3
"""Of the Huber loss: log losses that are off by more count linearly."""

Misfit = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]
"""As `misfit`."""


def predict(law_4: Tensor, N_S: Tensor, P_S: Tensor) -> Tensor:
    """The loss_S that the law expects.

    Args:
        law_4: E, the loss that no model falls below; A, in billions of parameters;
            alpha, how fast the rest of the loss falls with size; k, what streams are
            worth.
        N_S: billions of parameters, without embeddings.
        P_S: streams.
    """
    E, A, alpha, k = law_4
    worth_S = k * torch.log(P_S) + 1
    return E + (A / (N_S * worth_S)) ** alpha


def misfit(
    law_4: Tensor,
    N_S: Tensor,
    P_S: Tensor,
    loss_S: Tensor,
    delta: float = DELTA,
) -> Tensor:
    """How far the law is off: the sum of Huber losses of log losses."""
    predicted_S = predict(law_4, N_S, P_S)
    return F.huber_loss(
        predicted_S.log(), loss_S.log(), reduction="sum", delta=delta
    )


@dataclass(frozen=True)
class Fit:
    """A fitted law.

    Attributes:
        E, A, alpha, k: see `predict`.
        misfit: what is left, as `misfit` counts it.
        r2: share of the losses' variance that the law explains.
    """

    E: float
    A: float
    alpha: float
    k: float
    misfit: float
    r2: float

    def loss(self, N: float, P: int) -> float:
        """What the law expects of N billion parameters and P streams."""
        return self.E + (self.A / self.effective(N, P)) ** self.alpha

    def effective(self, N: float, P: int) -> float:
        """The plain model with the same expected loss: N (k ln P + 1)."""
        return N * (self.k * math.log(P) + 1)


STARTS = ((0.6, 0.02, 0.2, 0.4), (1.2, 0.3, 0.5, 0.2))
"""E, A, alpha, k to begin with."""
SCALE = 1e6
"""Misfits are near 1e-5, below which L-BFGS would take any gradient for zero."""


def columns(found: Sequence[Point]) -> tuple[Tensor, Tensor, Tensor]:
    """N_S in billions, P_S and loss_S, float64."""
    rows = [(p.N / 1e9, float(p.P), p.loss) for p in found]
    N_S, P_S, loss_S = torch.tensor(rows, dtype=torch.float64).unbind(1)
    return N_S, P_S, loss_S


def fit_law(
    found: Sequence[Point],
    misfit: Misfit = misfit,
    starts: Sequence[Sequence[float]] = STARTS,
) -> Fit:
    """The law with the least misfit.

    Args:
        found: trainings.
        misfit: as the function of that name; a lab puts a reader's own here.
        starts: values to begin with; the best end counts.
    """
    N_S, P_S, loss_S = columns(found)
    ends = [
        descend(lambda law_4: misfit(law_4, N_S, P_S, loss_S, DELTA), start)
        for start in starts
    ]
    left, law_4 = min(ends, key=lambda end: end[0])
    off_S = predict(law_4, N_S, P_S) - loss_S
    spread = (loss_S - loss_S.mean()).square().sum()
    r2 = 1 - (off_S.square().sum() / spread).item()
    return Fit(*law_4.tolist(), misfit=left, r2=r2)


def descend(
    misfit: Callable[[Tensor], Tensor], start: Sequence[float]
) -> tuple[float, Tensor]:
    """The misfit at the end of L-BFGS, and the numbers there; all are above 0."""
    logs = torch.tensor(start, dtype=torch.float64).log().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [logs],
        max_iter=150,
        tolerance_grad=1e-7,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = SCALE * misfit(logs.exp())
        value.backward()
        return value

    optimizer.step(closure)
    numbers = logs.detach().exp()
    return misfit(numbers).item(), numbers


def fit_published(corpus: CorpusName, misfit: Misfit = misfit) -> Fit:
    """The law of all 24 trainings on a corpus."""
    return fit_law(list(points(corpus)), misfit)


def plain_size(
    loss: float, N_S: Sequence[float], loss_S: Sequence[float]
) -> float:
    """The plain model with this loss, on a measured curve: linear in ln N.

    Args:
        loss: what it has to reach.
        N_S: sizes of plain models, rising.
        loss_S: their losses, falling.

    Returns:
        N; NaN where the curve was not measured.
    """
    ends = list(zip(N_S, loss_S, strict=True))
    for (n, high), (m, low) in pairwise(ends):
        if high >= loss >= low:
            share = (high - loss) / (high - low)
            return n * (m / n) ** share
    return math.nan
