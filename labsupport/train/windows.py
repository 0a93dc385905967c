"""Averages over windows of steps: what a noisy curve does on the whole."""

from __future__ import annotations

from collections.abc import Sequence


def window_means(
    values: Sequence[float], window: int
) -> tuple[list[float], list[float]]:
    """A curve in windows of `window` steps: their middles, their means.

    The first value belongs to step 1. A last, shorter window is left out.
    """
    starts = range(0, len(values) - window + 1, window)
    middles = [start + (window + 1) / 2 for start in starts]
    means = [sum(values[start : start + window]) / window for start in starts]
    return middles, [round(mean, 4) for mean in means]
