"""The trainings of lab 02 at each scale."""

from __future__ import annotations

from dataclasses import dataclass

from labsupport.nn import GPTConfig
from labsupport.settings import Scale
from labsupport.train import Plan

EXPERTS, TOP_K, SHARED = 16, 2, 1
"""Of the GPT: E, K and S."""
COLLAPSE_RATE = 1e-2
"""The learning rate of the opening."""


@dataclass(frozen=True)
class ToyPlan:
    """The training on the toy task.

    Attributes:
        steps: updates; 16 sequences of 32 tokens each.
        validation: sequences of the validation batch.
        lr: the highest learning rate.
    """

    steps: int
    validation: int
    lr: float = 2e-3


TOY: dict[Scale, ToyPlan] = {
    "ci": ToyPlan(steps=20, validation=32),
    "cpu": ToyPlan(steps=600, validation=256),
    "gpu": ToyPlan(steps=600, validation=256),
}

# H = 48, so that K + S experts have the width of the dense layer, 144.
GPT_PLANS: dict[Scale, Plan] = {
    "ci": Plan(
        GPTConfig(d_model=16, n_layers=2, n_heads=2, d_ff=48, max_len=16),
        steps=12,
        batch_size=4,
        length=16,
        lr=6e-3,
    ),
    "cpu": Plan(
        GPTConfig(d_model=48, n_layers=3, n_heads=4, d_ff=144, max_len=64),
        steps=600,
        batch_size=16,
        length=64,
        lr=6e-3,
    ),
    "gpu": Plan(
        GPTConfig(d_model=256, n_layers=6, n_heads=8, d_ff=768, max_len=256),
        steps=2000,
        batch_size=64,
        length=256,
        lr=3e-3,
    ),
}
OPENING_STEPS: dict[Scale, int] = {"ci": 12, "cpu": 300, "gpu": 300}
"""How long the model of the opening trains: its router collapses within that."""
