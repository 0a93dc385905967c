"""Quantile balancing in training: biases from the scores, not from counts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from labs.lab_02.exercises_deep import quantile_update
from labsupport.nn.moe import Routing
from labsupport.nn.moe_balance import LoadBalancer


class QuantileBalancer(LoadBalancer):
    """Moves biases by `quantile_update`, by a share of the way in each step.

    It needs the scores of the whole batch, so over several ranks they would have to
    be gathered, or counted in bins; here it is for one process.

    Args:
        model: with one mixture.
        speed: rho, the share of the way; 1 goes all of it.
    """

    def __init__(self, model: nn.Module, speed: float) -> None:
        super().__init__(model, speed)
        self.score_NE: Tensor | None = None
        self.layers[0].watchers.append(self.see)

    def see(self, routing: Routing) -> None:
        """Keep the latest scores."""
        self.score_NE = routing.score_NE.detach()

    @torch.no_grad()
    def step(self) -> None:
        """As `LoadBalancer.step`, with another rule."""
        (layer,) = self.layers
        self.load_LE = layer.count_E[None].clone()
        if self.score_NE is not None:
            aim_E = quantile_update(self.score_NE, layer.bias_E, layer.top_k)
            layer.bias_E.lerp_(aim_E, self.speed)
        layer.count_E.zero_()
