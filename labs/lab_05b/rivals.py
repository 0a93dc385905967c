"""Other laws through the same 24 losses, and what each predicts that it has not seen.

    logarithm    E + (A / (N (k ln P + 1)))^alpha        the paper's practical law
    power        E + (A / (N P^k))^alpha                 streams as a power
    correlated   E + (A / N)^alpha ((P - 1) rho + 1) / P the paper's theory (section 3)
                                                         with one correlation rho

The theory: what a stream says is off by something, and the mean of P streams is off by
less, the less their errors are correlated. With rho = 1 nothing is gained, with rho = 0
the reducible loss falls as 1 / P. Each law has four numbers.

Shape suffixes: S trainings of the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from labs.lab_05b.published import CorpusName, points
from labs.lab_05b.refit import DELTA, columns, descend, predict

Law = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(four numbers, N_S in billions, P_S) -> loss_S."""


def power(law_4: Tensor, N_S: Tensor, P_S: Tensor) -> Tensor:
    """Streams are worth a power of their number."""
    E, A, alpha, k = law_4
    return E + (A / (N_S * P_S**k)) ** alpha


def correlated(law_4: Tensor, N_S: Tensor, P_S: Tensor) -> Tensor:
    """Streams are an ensemble whose errors are correlated by rho."""
    E, A, alpha, rho = law_4
    return E + (A / N_S) ** alpha * ((P_S - 1) * rho + 1) / P_S


LAWS: dict[str, tuple[Law, tuple[float, ...]]] = {
    "logarithm": (predict, (0.6, 0.02, 0.2, 0.4)),
    "power": (power, (0.6, 0.02, 0.2, 0.3)),
    "correlated": (correlated, (0.6, 0.02, 0.2, 0.8)),
}
"""With values to begin the fit with."""


@dataclass(frozen=True)
class Rival:
    """How well a law does.

    Attributes:
        r2: share of the variance of all 24 losses that it explains.
        last: its fourth number: k or rho.
        held_out: mean error (law minus published) at P = 8, fitted without P = 8.
        largest: the largest such error, as it comes.
    """

    r2: float
    last: float
    held_out: float
    largest: float


def compare(name: str, corpus: CorpusName) -> Rival:
    """Fit one of LAWS, to all losses and to those with fewer than eight streams."""
    law, start = LAWS[name]
    N_S, P_S, loss_S = columns(list(points(corpus)))
    seen_S = P_S < 8

    def fitted(kept_S: Tensor) -> Tensor:
        def misfit(law_4: Tensor) -> Tensor:
            expected_S = law(law_4, N_S[kept_S], P_S[kept_S])
            return F.huber_loss(
                expected_S.log(),
                loss_S[kept_S].log(),
                reduction="sum",
                delta=DELTA,
            )

        return descend(misfit, start)[1]

    all_4 = fitted(torch.ones_like(seen_S))
    off_S = law(all_4, N_S, P_S) - loss_S
    spread = (loss_S - loss_S.mean()).square().sum()
    unseen_S = (law(fitted(seen_S), N_S, P_S) - loss_S)[~seen_S]
    return Rival(
        r2=1 - (off_S.square().sum() / spread).item(),
        last=all_4[3].item(),
        held_out=unseen_S.mean().item(),
        largest=unseen_S[unseen_S.abs().argmax()].item(),
    )


def lines() -> list[str]:
    """All laws on both corpora."""
    found = [
        f"{'':24}{'R2':>8}{'k or rho':>10}{'error at 8':>12}{'largest':>10}"
    ]
    for corpus in ("Stack", "Pile"):
        for name in LAWS:
            rival = compare(name, corpus)  # type: ignore[arg-type]
            found.append(
                f"{corpus + ', ' + name:24}{rival.r2:>8.4f}{rival.last:>10.3f}"
                f"{rival.held_out:>+12.4f}{rival.largest:>+10.4f}"
            )
    return found
