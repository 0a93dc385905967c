"""How the weights move: AdamW, warm-up, cosine, clipping."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from labsupport.errors import LabError


@dataclass(frozen=True)
class Recipe:
    """Every number that decides a training run, apart from model and data.

    Attributes:
        steps: how many updates.
        lr: the highest learning rate, reached after the warm-up.
        warmup: share of the steps in which the rate rises linearly from 0.
        final: where the cosine ends, as a share of `lr`.
        weight_decay: AdamW's, for matrices; vectors (norms, biases) have none.
        clip: gradients longer than this are shortened to it.
        beta1: decay of the running mean of gradients.
        beta2: decay of the running mean of their squares.

    Raises:
        LabError: no steps, or a learning rate that is not above 0.
    """

    steps: int
    lr: float
    warmup: float = 0.05
    final: float = 0.1
    weight_decay: float = 0.1
    clip: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.95

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise LabError(f"steps={self.steps}: use at least 1.")
        if not self.lr > 0:
            raise LabError(f"lr={self.lr}: use a learning rate above 0.")

    def learning_rate(self, step: int) -> float:
        """The rate of step 0, 1, ..., steps - 1: a line up, half a cosine down."""
        warmup_steps = max(1, round(self.warmup * self.steps))
        if step < warmup_steps:
            return self.lr * (step + 1) / warmup_steps
        done = (step - warmup_steps) / max(1, self.steps - warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * done))
        return self.lr * (self.final + (1 - self.final) * cosine)


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW that decays matrices only, updating all weights in one call."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {
            "params": [p for p in trained if p.dim() >= 2],
            "weight_decay": recipe.weight_decay,
        },
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=recipe.lr, betas=(recipe.beta1, recipe.beta2), fused=True
    )
