"""Sharpness-aware minimisation: the gradient of the worst point nearby.

With g the gradient at the weights w,

    SAM    e = rho g / |g|                  (Foret et al. 2021, arXiv 2010.01412)
    ASAM   e = rho t^2 g / |t g|,  t = |w| + eta
                                            (Kwon et al. 2021, arXiv 2102.11600)

and the step is taken with the gradient at w + e. |.| of g and t g is the length of
all weights together; t is taken number by number, so that ASAM's e does not depend on
how a network's weights are scaled.

A step costs two gradients where the plain one costs one. A fair comparison gives SAM
half as many steps.

    sam = SAM(rho=0.05)
    train(model, batch_fn, steps=steps // 2, loss_fn=sam.loss, prepare=sam.attach, ...)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from labsupport.errors import LabError

GRADIENTS_PER_STEP = 2
ETA = 0.01
"""Added to |w| in ASAM, so that weights of 0 can be moved."""


class SAM:
    """Moves weights to the worst point nearby for the backward, and back.

    In several processes each rank may use its own gradient for e, which needs no
    further message (Foret et al., section 4.1: m-sharpness).

    Args:
        rho: how far away, in weights (SAM) or relative to them (ASAM).
        adaptive: ASAM.

    Attributes:
        loss_here: the latest loss at the weights themselves. What `train` records is
            the loss at w + e.

    Raises:
        LabError: rho not above 0.
    """

    def __init__(self, rho: float, adaptive: bool = False) -> None:
        if not rho > 0:
            raise LabError(f"rho={rho}: use a number above 0.")
        self.rho, self.adaptive = rho, adaptive
        self.loss_here = float("nan")
        self._before: list[tuple[nn.Parameter, Tensor]] = []

    def loss(self, model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The loss at w + e, for `train(loss_fn=...)`; leaves the weights there."""
        self.restore()  # should the last step have ended without an update
        weights = [p for p in model.parameters() if p.requires_grad]
        here = model.loss(*batch)
        self.loss_here = here.item()
        gradient = torch.autograd.grad(here, weights)
        moves = perturbation(weights, gradient, self.rho, self.adaptive)
        self._before = [(w, w.detach().clone()) for w in weights]
        with torch.no_grad():
            for weight, move in zip(weights, moves, strict=True):
                weight.add_(move)
        there: Tensor = model.loss(*batch)
        return there

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Have the weights put back before each update, for `train(prepare=...)`."""
        optimizer.register_step_pre_hook(lambda *_: self.restore())

    @torch.no_grad()
    def restore(self) -> None:
        """Put the weights back to where they were, to the last bit."""
        for weight, before in self._before:
            weight.copy_(before)
        self._before = []


@torch.no_grad()
def perturbation(
    weights: list[nn.Parameter],
    gradient: tuple[Tensor, ...],
    rho: float,
    adaptive: bool = False,
) -> list[Tensor]:
    """e, of the weights' shapes; zero where the whole gradient is zero."""
    if adaptive:
        size = [w.abs() + ETA for w in weights]
        scaled = [t * g for t, g in zip(size, gradient, strict=True)]
        direction = [t * s for t, s in zip(size, scaled, strict=True)]
    else:
        scaled = direction = list(gradient)
    length = torch.sqrt(torch.stack([s.square().sum() for s in scaled]).sum())
    factor = rho / length.clamp(min=1e-12)
    return [factor * d for d in direction]
