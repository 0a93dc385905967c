"""Batches for unequal workers, so that all finish at the same time.

Worker i of W takes a fixed time a_i for a step and c_i for each sample in it,
so with b_i samples

    T_i = a_i + c_i b_i,    and the step takes max_i T_i.

With sum b_i = B the longest one is shortest when all are equal, T_i = T:

    T = (B + sum a_i / c_i) / sum(1 / c_i),    b_i = (T - a_i) / c_i.

Samples are whole, and a worker without any would have no gradient to give; so
b_i are whole numbers of at least 1. This is the static rule of LB-BSP (Chen et
al. 2020) with a_i added. Cannikin (arXiv 2402.05302) models communication too;
OmniLearn (arXiv 2503.17469) has a proportional controller and no model.

Unequal batches need weights: the mean over workers of their mean gradients
counts a sample of a small batch for more. `gradient_weight` puts that right.

`CostFit` finds a_i and c_i from the steps themselves, and goes on doing so: a
worker may get slower or faster meanwhile.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from labsupport.errors import LabError


@dataclass(frozen=True)
class StepCost:
    """How long a worker takes for a step, in seconds.

    Attributes:
        fixed: a_i, whatever its batch.
        per_sample: c_i, for each sample.

    Raises:
        LabError: a fixed time below 0, a time per sample that is not above 0, or
            one that is not finite.
    """

    fixed: float
    per_sample: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.fixed) and self.fixed >= 0):
            raise LabError(f"fixed={self.fixed}: use a time of at least 0.")
        if not (math.isfinite(self.per_sample) and self.per_sample > 0):
            raise LabError(f"per_sample={self.per_sample}: use a time above 0.")

    def time(self, samples: float) -> float:
        """Seconds for a batch of that many samples."""
        return self.fixed + self.per_sample * samples


def balanced_time(costs: Sequence[StepCost], samples: int) -> float:
    """T, the shortest step if samples could be cut at will.

    A worker whose fixed time alone is longer than that takes one sample, as it must
    have one, and the others share the rest.

    Args:
        costs: of each worker.
        samples: B, of all workers together.

    Raises:
        LabError: no worker, or fewer samples than workers.
    """
    require_one_each(len(costs), samples)
    rest, sharing = float(samples), list(costs)
    longest = 0.0
    while sharing:
        inverse = sum(1 / cost.per_sample for cost in sharing)
        head_start = sum(cost.fixed / cost.per_sample for cost in sharing)
        level = (rest + head_start) / inverse
        late = [cost for cost in sharing if cost.time(1) > level]
        if not late:
            return max(level, longest)
        longest = max(longest, *(cost.time(1) for cost in late))
        rest -= len(late)
        sharing = [cost for cost in sharing if cost.time(1) <= level]
    return longest


def balanced_batches(costs: Sequence[StepCost], samples: int) -> list[int]:
    """Whole batches b_i of at least 1 whose longest time is as short as possible.

    Rounded down, no batch lasts longer than T. What is left over is handed out one
    by one, each time to the worker who will have finished first. Every sample so
    gets the earliest place there is, and no other division ends earlier.

    Args:
        costs: of each worker.
        samples: B, their sum.

    Raises:
        LabError: no worker, or fewer samples than workers.
    """
    level = balanced_time(costs, samples)
    batches = [max(1, math.floor((level - c.fixed) / c.per_sample)) for c in costs]
    while sum(batches) > samples:  # rounding, at a level of exact multiples
        last = max(
            (i for i in range(len(costs)) if batches[i] > 1),
            key=lambda i: costs[i].time(batches[i]),
        )
        batches[last] -= 1
    while sum(batches) < samples:
        first = min(range(len(costs)), key=lambda i: costs[i].time(batches[i] + 1))
        batches[first] += 1
    return batches


def equal_batches(workers: int, samples: int) -> list[int]:
    """As equal as whole numbers can be; the first workers get one more.

    Raises:
        LabError: no worker, or fewer samples than workers.
    """
    require_one_each(workers, samples)
    each, left_over = divmod(samples, workers)
    return [each + (i < left_over) for i in range(workers)]


def gradient_weight(batch: int, samples: int, workers: int) -> float:
    """W b_i / B: what a worker's mean gradient is multiplied by before the mean.

    The mean over workers of W b_i / B g_i is sum b_i g_i / B: the mean over samples.

    Args:
        batch: b_i, this worker's samples.
        samples: B, of all workers together.
        workers: W.

    Raises:
        LabError: a batch that is not between 0 and B, or no worker.
    """
    if workers < 1:
        raise LabError(f"{workers} workers: use at least 1.")
    if samples < 1 or not 0 <= batch <= samples:
        raise LabError(
            f"A batch of {batch} among {samples} samples: use 0 to {samples}, and at "
            "least 1 sample in all."
        )
    return workers * batch / samples


def require_one_each(workers: int, samples: int) -> None:
    """Raises a LabError unless every worker can have a sample."""
    if workers < 1:
        raise LabError(f"{workers} workers: use at least 1.")
    if samples < workers:
        raise LabError(
            f"{samples} samples for {workers} workers: each needs at least one."
        )


SPREAD = 1.25
"""Batches have to differ by this factor before a line is fitted through them."""


class CostFit:
    """One worker's a_i and c_i, by least squares over its latest steps.

    A line needs two batch sizes. As long as all recent ones are about the same, a_i
    is kept as it was and c_i alone follows; at first a_i is 0. So a fit goes on
    once batches have settled, and a worker that changes its speed is noticed.

    Args:
        window: how many steps count.

    Raises:
        LabError: a window of fewer than 2 steps.
    """

    def __init__(self, window: int = 5) -> None:
        if window < 2:
            raise LabError(f"window={window}: a line needs at least 2 steps.")
        self.steps: deque[tuple[float, float]] = deque(maxlen=window)
        self.fixed = 0.0

    def add(self, batch: int, seconds: float) -> None:
        """Take one step: b_i samples, T_i seconds.

        Raises:
            LabError: no samples, or a time that is not a finite number above 0.
        """
        if batch < 1 or not (math.isfinite(seconds) and seconds > 0):
            raise LabError(
                f"A step of {batch} samples in {seconds} s: use at least 1 sample and "
                "a time above 0."
            )
        self.steps.append((float(batch), float(seconds)))

    @property
    def cost(self) -> StepCost:
        """The costs that fit best, a_i of at least 0 and c_i above 0.

        Raises:
            LabError: no step has been added yet.
        """
        if not self.steps:
            raise LabError("No step to fit yet: call add(batch, seconds) first.")
        sizes = [batch for batch, _ in self.steps]
        if max(sizes) >= SPREAD * min(sizes):
            fixed, per_sample = line(self.steps)
            if per_sample > 0:
                self.fixed = max(0.0, fixed)
        # With a_i given, the best c_i: at a_i = 0 it is a line through the origin.
        squares = sum(batch * batch for batch in sizes)
        products = sum(batch * (t - self.fixed) for batch, t in self.steps)
        if products <= 0:  # faster than the fixed time that was seen before
            self.fixed = 0.0
            products = sum(batch * t for batch, t in self.steps)
        return StepCost(self.fixed, products / squares)


def line(points: Collection[tuple[float, float]]) -> tuple[float, float]:
    """Intercept and slope of the least-squares line; x must not all be equal."""
    n = len(points)
    x_mean = sum(x for x, _ in points) / n
    y_mean = sum(y for _, y in points) / n
    slope = sum((x - x_mean) * (y - y_mean) for x, y in points) / sum(
        (x - x_mean) ** 2 for x, _ in points
    )
    return y_mean - slope * x_mean, slope
