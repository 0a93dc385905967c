"""Mistakes that real projects have made in mHC, each as a damaged module.

Every pitfall is a correct mHC but for one thing. `pitfall_checks.py` holds tests,
`pitfall_bench.py` finds out which test notices which pitfall.

Shape suffixes as in labsupport/nn/hyper_connections.py: B sequences, T tokens, M
tokens in a row, n lanes, C width of a lane, K = n C, P = 2 n + n² coefficients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from labsupport.nn import ManifoldHyperConnection
from labsupport.nn.hyper_connections import Maps

ITERATIONS = 20
"""Of Sinkhorn-Knopp, as in the paper."""

Part = Callable[..., ManifoldHyperConnection]
"""As in GPT(residual=...): (config, branch) -> module."""


class Transposed(ManifoldHyperConnection):
    """Sinkhorn is right, and its result is applied the wrong way round."""

    def maps(self, x_MnC: Tensor) -> Maps:
        maps = super().maps(x_MnC)
        res_nnM = maps.res_nnM.transpose(0, 1)
        return Maps(maps.pre_nM, maps.post_nM, res_nnM)


class RowsFirst(ManifoldHyperConnection):
    """Rows, then columns: now columns are exact and rows are not."""

    def projected(self, logits_nnM: Tensor) -> Tensor:
        return scaled(torch.exp(logits_nnM), axes=(1, 0))


class WrongSoftmax(ManifoldHyperConnection):
    """The first step is a softmax: over rows, where columns come first."""

    def projected(self, logits_nnM: Tensor) -> Tensor:
        m_nnM = torch.softmax(logits_nnM, dim=1)
        return scaled(m_nnM, axes=(0, 1), rounds=ITERATIONS - 1)


class Eps(ManifoldHyperConnection):
    """Every sum that is divided by is made a little larger."""

    added = 1e-6

    def projected(self, logits_nnM: Tensor) -> Tensor:
        m_nnM = torch.softmax(logits_nnM, dim=0)
        return scaled(m_nnM, axes=(0, 1), eps=self.added)


class LargeEps(Eps):
    added = 1e-2


class FinalBackward(ManifoldHyperConnection):
    """The backward pass uses the last matrix in the place of every iterate."""

    def projected(self, logits_nnM: Tensor) -> Tensor:
        return _FinalP.apply(logits_nnM)


class PerBlock(ManifoldHyperConnection):
    """The module is right; the model makes and merges the lanes in each branch."""

    def expand(self, x_BTD: Tensor) -> Tensor:
        return x_BTD

    def forward(
        self, stream: Tensor, branch: Callable[[Tensor], Tensor]
    ) -> Tensor:
        if stream.ndim == 4:  # called as a module, with lanes
            return super().forward(stream, branch)
        lanes = super().forward(super().expand(stream), branch)
        return super().collapse(lanes)

    def collapse(self, stream: Tensor) -> Tensor:
        return stream


class NoFactorTwo(ManifoldHyperConnection):
    """H_post = σ instead of 2σ: every branch writes half at first."""

    def maps(self, x_MnC: Tensor) -> Maps:
        maps = super().maps(x_MnC)
        return Maps(maps.pre_nM, maps.post_nM / 2, maps.res_nnM)


class OwnCoefficients(ManifoldHyperConnection):
    """Equations 14 to 19, open to a mistake in how coefficients are made."""

    def logits(self, x_MnC: Tensor, alpha_P: Tensor) -> Tensor:
        raise NotImplementedError

    def maps(self, x_MnC: Tensor) -> Maps:
        n = self.n
        sizes = [n, n, n * n]
        alpha_P = self.alpha_3.repeat_interleave(torch.tensor(sizes))
        pre_nM, post_nM, res_PM = self.logits(x_MnC, alpha_P).t().split(sizes)
        res_nnM = self.projected(res_PM.reshape(n, n, -1))
        return Maps(torch.sigmoid(pre_nM), 2 * torch.sigmoid(post_nM), res_nnM)


class BiasInside(OwnCoefficients):
    """(α x φ + b) / r, where b belongs outside."""

    def logits(self, x_MnC: Tensor, alpha_P: Tensor) -> Tensor:
        x_MK = x_MnC.flatten(1)
        r_M1 = x_MK.square().mean(1, keepdim=True).sqrt()
        return (alpha_P * (x_MK @ self.phi_PK.t()) + self.bias_P) / r_M1


class NormPerLane(OwnCoefficients):
    """Each lane is normalised by itself, as in HC, instead of all n C numbers."""

    def logits(self, x_MnC: Tensor, alpha_P: Tensor) -> Tensor:
        v_MnC = F.rms_norm(x_MnC, x_MnC.shape[-1:], eps=1e-20)
        return alpha_P * (v_MnC.flatten(1) @ self.phi_PK.t()) + self.bias_P


def scaled(
    m_nnM: Tensor,
    axes: tuple[int, int],
    rounds: int = ITERATIONS,
    eps: float = 0.0,
) -> Tensor:
    """Normalise along two axes in turn: a sum over axis 0 is a column's."""
    for _ in range(rounds):
        for axis in axes:
            m_nnM = m_nnM / (m_nnM.sum(axis, keepdim=True) + eps)
    return m_nnM


class _FinalP(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_nnM: Tensor) -> Tensor:
        res_nnM = scaled(torch.exp(logits_nnM), axes=(0, 1))
        ctx.save_for_backward(res_nnM)
        return res_nnM

    @staticmethod
    def backward(ctx: Any, gradient_nnM: Tensor) -> Tensor:
        (res_nnM,) = ctx.saved_tensors
        for _ in range(ITERATIONS):
            for axis in (1, 0):
                inner = (gradient_nnM * res_nnM).sum(axis, keepdim=True)
                gradient_nnM = gradient_nnM - inner
        return gradient_nnM * res_nnM


@dataclass(frozen=True)
class Pitfall:
    """One way to get mHC wrong.

    Attributes:
        name: a few words, for a table.
        what: the mistake in one sentence.
        build: the damaged part, for GPT(residual=...).
    """

    name: str
    what: str
    build: Part


PITFALLS = (
    Pitfall(
        "H_res transposed",
        "Row i of H_res makes lane i; here column i does.",
        Transposed,
    ),
    Pitfall(
        "rows first",
        "Sinkhorn ends with the columns, so forward gains drift from one.",
        RowsFirst,
    ),
    Pitfall(
        "softmax over the wrong axis",
        "A softmax replaces exp and the first normalisation, along rows where "
        "the paper begins with columns.",
        WrongSoftmax,
    ),
    Pitfall(
        "eps 1e-6",
        "Added to the denominators: the paper has none, published code has it.",
        Eps,
    ),
    Pitfall(
        "eps 1e-2",
        "The same, large enough to make every sum less than one.",
        LargeEps,
    ),
    Pitfall(
        "10 iterations",
        "Half of the paper's: fewer columns have come to one.",
        partial(ManifoldHyperConnection, iterations=10),
    ),
    Pitfall(
        "backward with the final matrix",
        "An approximation that is exact only where Sinkhorn has converged.",
        FinalBackward,
    ),
    Pitfall(
        "lanes made anew in every branch",
        "Expand and collapse belong at the ends of the model.",
        PerBlock,
    ),
    Pitfall(
        "H_post without the factor 2",
        "σ(0) is one half: at first every branch counts half.",
        NoFactorTwo,
    ),
    Pitfall(
        "bias inside the norm",
        "(α x φ + b) / r: the lanes' size r divides the bias, too.",
        BiasInside,
    ),
    Pitfall(
        "norm of each lane",
        "One norm a token over all n C numbers is meant.",
        NormPerLane,
    ),
)
