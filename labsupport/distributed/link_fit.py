"""A link's latency and bandwidth, fitted to measured all-reduces.

    t = 2 (W-1) alpha + 2 (W-1)/W n / beta

alpha is the time from a message's start to its arrival, beta the bytes a second that
a worker's link sends, n the bytes that each of W workers hands in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from labsupport.distributed.collectives import RULES
from labsupport.errors import LabError


@dataclass(frozen=True)
class Link:
    """alpha and beta of a link, fitted to measured all-reduces.

    Attributes:
        latency: alpha, seconds.
        bandwidth: beta, bytes per second.
        W: workers that it was measured with.
        residuals: fitted / measured - 1 of each time.
    """

    latency: float
    bandwidth: float
    W: int
    residuals: tuple[float, ...] = ()

    def seconds(self, size_bytes: float) -> float:
        """Of one all-reduce of so many bytes."""
        rule = RULES["all_reduce"]
        moved = rule.sent(size_bytes, self.W, False)
        return rule.steps(self.W) * self.latency + moved / self.bandwidth


def fit_link(sizes_bytes: Sequence[float], seconds: Sequence[float], W: int) -> Link:
    """Fit alpha and beta to the times of all-reduces of several sizes.

        t = 2 (W-1) alpha + 2 (W-1)/W n / beta

    Least squares of the relative errors, as sizes span decades: each equation is
    divided by its t. An alpha below 0 makes no sense; then it is 0, and beta is fitted
    alone.

    Args:
        sizes_bytes: n, bytes that each worker handed in.
        seconds: t of each.

    Raises:
        LabError: too few sizes, numbers that are not above 0, one worker, or times that
            do not grow with the size.
    """
    if len(sizes_bytes) != len(seconds):
        raise LabError(
            f"{len(sizes_bytes)} sizes and {len(seconds)} times: give one "
            "time for each size."
        )
    if not all(0 < value < math.inf for value in (*sizes_bytes, *seconds)):
        raise LabError("a size or a time is not a finite number above 0: leave it out.")
    if len(set(sizes_bytes)) < 2:
        raise LabError(
            "alpha and beta are two unknowns: measure at least two different sizes."
        )
    if W < 2:
        raise LabError(f"W={W}: a link joins 2 workers or more.")
    rule = RULES["all_reduce"]
    t_S = torch.tensor(seconds, dtype=torch.float64)
    n_S = torch.tensor(
        [rule.sent(n, W, False) for n in sizes_bytes], dtype=torch.float64
    )
    steps_S = torch.full_like(t_S, rule.steps(W))
    a_S2 = torch.stack([steps_S, n_S], dim=1) / t_S[:, None]
    one_S = torch.ones_like(t_S)
    # Columns differ by many powers of ten: solved at equal lengths.
    length_2 = a_S2.norm(dim=0)
    solved_2 = torch.linalg.lstsq(a_S2 / length_2, one_S[:, None]).solution[:, 0]
    latency, inverse = (solved_2 / length_2).tolist()
    if latency < 0:
        latency = 0.0
        inverse = float(a_S2[:, 1].sum() / a_S2[:, 1].square().sum())
    if inverse <= 0:
        raise LabError(
            "large messages were no slower than small ones: measure larger sizes."
        )
    link = Link(latency, 1 / inverse, W)
    residuals = tuple(
        link.seconds(n) / t - 1 for n, t in zip(sizes_bytes, seconds, strict=True)
    )
    return Link(link.latency, link.bandwidth, W, residuals)
