"""The gradient noise scale: up to which batch size more samples help.

A gradient of b samples is the true one, G, plus noise of covariance Sigma / b. So

    E |g_b|^2 = |G|^2 + tr(Sigma) / b,

and the simple noise scale B_simple = tr(Sigma) / |G|^2 is the batch at which noise and
gradient have the same length (McCandlish et al. 2018, arXiv 1812.06162, equation 2.9
and appendix A.1). Two batch sizes, b < B, tell both apart:

    |G|^2     = (B |g_B|^2 - b |g_b|^2) / (B - b)
    tr(Sigma) = (|g_b|^2 - |g_B|^2) / (1/b - 1/B)

Both are free in data parallelism: each worker has a g_b, and their mean is g_B. The
estimates of a single step are very noisy, and a ratio of noisy numbers is biased. So
both are averaged over steps, and divided after that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from labsupport.errors import LabError


def small_batch(batches: Sequence[int]) -> float:
    """The b that belongs to the mean of |g_i|^2 over workers with these batches.

    E |g_i|^2 is linear in 1 / b_i, so it is the harmonic mean. For equal batches
    that is their size.

    Raises:
        LabError: no batch, or an empty one.
    """
    if not batches or min(batches) < 1:
        raise LabError(f"Batches {list(batches)}: use at least one, of 1 and more.")
    return len(batches) / sum(1 / batch for batch in batches)


def two_batch_estimate(
    small_square: float, big_square: float, small: float, big: float
) -> tuple[float, float]:
    """|G|^2 and tr(Sigma) from the squared lengths of two gradients.

    Both are unbiased, and a single estimate may be negative.

    Args:
        small_square: |g_b|^2, a mean over several such batches if possible.
        big_square: |g_B|^2.
        small: b. big: B; in the same unit, samples or tokens.

    Raises:
        LabError: b not above 0, or B not above b.
    """
    if not 0 < small < big:
        raise LabError(
            f"Batches of {small:g} and {big:g}: the second has to be larger, and both "
            "above 0."
        )
    signal = (big * big_square - small * small_square) / (big - small)
    noise = (small_square - big_square) / (1 / small - 1 / big)
    return signal, noise


class NoiseScale:
    """B_simple over a training, from the two gradients of every step.

    Args:
        decay: of the running means; about 1 / (1 - decay) steps count.

    Raises:
        LabError: a decay that is not at least 0 and below 1.
    """

    def __init__(self, decay: float = 0.95) -> None:
        if not 0 <= decay < 1:
            raise LabError(f"decay={decay}: use at least 0 and less than 1.")
        self.decay = decay
        self._signal = self._noise = self._weight = 0.0

    def add(
        self, small_square: float, big_square: float, small: float, big: float
    ) -> None:
        """Take one step; see `two_batch_estimate`. Batch sizes may change."""
        signal, noise = two_batch_estimate(small_square, big_square, small, big)
        keep, add = self.decay, 1 - self.decay
        self._signal = keep * self._signal + add * signal
        self._noise = keep * self._noise + add * noise
        # What the weights sum to: without dividing by it, means begin at 0.
        self._weight = keep * self._weight + add

    @property
    def signal(self) -> float:
        """|G|^2; NaN before the first step."""
        return self._signal / self._weight if self._weight else math.nan

    @property
    def noise(self) -> float:
        """tr(Sigma); NaN before the first step."""
        return self._noise / self._weight if self._weight else math.nan

    @property
    def value(self) -> float:
        """B_simple, in the unit of the batches.

        Infinite while the estimate of |G|^2 is not above 0: noise is all there is to
        see. 0 where no noise was seen.
        """
        if math.isnan(self.signal):
            return math.nan
        if self.signal <= 0:
            return math.inf
        return max(0.0, self.noise) / self.signal
