"""Adam on any part of the weights, and how many bytes its memory takes."""

from __future__ import annotations

import torch
from torch import Tensor


class Adam:
    """Adam (Kingma and Ba 2014, arXiv 1412.6980, algorithm 1), for one vector.

    The first call decides how long the vector is: two running means are kept for each
    of its numbers. Whoever gives it a part of all weights keeps a part of the means.

    Args:
        lr: the learning rate.
        beta1, beta2: decays of the mean of gradients, and of their squares.
        eps: added to the root of the mean square.
    """

    def __init__(
        self,
        lr: float,
        beta1: float = 0.9,
        beta2: float = 0.95,
        eps: float = 1e-8,
    ) -> None:
        self.lr, self.beta1, self.beta2, self.eps = lr, beta1, beta2, eps
        self.steps = 0
        self.m: Tensor | None = None
        self.v: Tensor | None = None

    def __call__(self, w: Tensor, g: Tensor) -> Tensor:
        """New weights of the same shape; the old ones stay as they are."""
        if self.m is None or self.v is None:
            self.m, self.v = torch.zeros_like(w), torch.zeros_like(w)
        self.steps += 1
        self.m.lerp_(g, 1 - self.beta1)
        self.v.lerp_(g.square(), 1 - self.beta2)
        m_hat = self.m / (1 - self.beta1**self.steps)
        v_hat = self.v / (1 - self.beta2**self.steps)
        return w - self.lr * m_hat / (v_hat.sqrt() + self.eps)

    @property
    def bytes(self) -> int:
        """Of both means."""
        if self.m is None:
            return 0
        return 2 * self.m.numel() * self.m.element_size()
