"""Linear layers that see a few huge channels, and compute what they did before.

Trained models have activations with a few channels that are far larger than the
rest. Here the first channels of a layer's input are multiplied by f, and their
weights divided by it:

    y = (x f) (w / f)^T = x w^T

In exact arithmetic nothing changes, in the gradients neither. What changes is what
has to be rounded.

Shape suffixes: K input channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from labs.lab_03.plan import OUTLIER_CHANNELS
from labsupport.nn import BF16Linear, FP8Linear


def factors(channels: int, factor: float) -> Tensor:
    """f for the outlier channels and 1 for the others, factor_K."""
    factor_K = torch.ones(channels)
    factor_K[:OUTLIER_CHANNELS] = factor
    return factor_K


class FP8LinearWithOutliers(FP8Linear):
    """An `FP8Linear` whose operands are (x f) and (w / f).

    Args:
        factor: f.
        rest: what `FP8Linear` takes.
    """

    factor_K: Tensor

    def __init__(self, n_in: int, *rest: Any, factor: float, **named: Any):
        super().__init__(n_in, *rest, **named)
        self.register_buffer(
            "factor_K", factors(n_in, factor), persistent=False
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x * self.factor_K, self.weight / self.factor_K)


class BF16LinearWithOutliers(BF16Linear):
    """The same for bfloat16."""

    factor_K: Tensor

    def __init__(self, n_in: int, *rest: Any, factor: float, **named: Any):
        super().__init__(n_in, *rest, **named)
        self.register_buffer(
            "factor_K", factors(n_in, factor), persistent=False
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x * self.factor_K, self.weight / self.factor_K)
