"""How alike are the workers' gradients? Measured while a model trains.

With W workers, gradients g_i and their mean g, the mean cosine of two workers is about

    rho = (W |g|^2 - mean_i |g_i|^2) / ((W - 1) mean_i |g_i|^2)

1 if all send the same, 0 if they have nothing in common. It takes one number from each
worker: its own squared length. (What workers share is estimated as for the gradient
noise scale, from one worker's batch and from all.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from labsupport.distributed.fusion import DenseFusion
from labsupport.train.noise_scale import two_batch_estimate


def mean_cosine(mean_square: float, square_of_mean: float, W: int) -> float:
    """rho of W workers; 0 where there are no gradients.

    Args:
        mean_square: mean_i |g_i|^2.
        square_of_mean: |g|^2.
    """
    if mean_square == 0:
        return 0.0
    shared, _ = two_batch_estimate(mean_square, square_of_mean, 1, W)
    return shared / mean_square


class WatchedFusion(DenseFusion):
    """Gradients as they are, and rho of every step.

    Attributes:
        cosines: rho by step.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.cosines: list[float] = []
        self._sums = torch.zeros(2, dtype=torch.float64)

    def fuse_bucket(self, buffer: Tensor, named: dict[str, Tensor]) -> None:
        own = float(buffer.double().square().sum())
        super().fuse_bucket(buffer, named)
        mean = float(buffer.double().square().sum())
        self._sums += torch.tensor([own, mean])

    def after_step(self) -> None:
        held = self._sums.clone()
        self.dist.all_reduce(held, group=self.group)
        W = self.workers
        self.cosines.append(
            mean_cosine(float(held[0]) / W, float(held[1]) / W, W)
        )
        self._sums.zero_()
