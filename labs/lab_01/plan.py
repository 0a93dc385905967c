"""The trainings of lab 01 at each scale."""

from __future__ import annotations

from dataclasses import dataclass

from labsupport.nn import GPTConfig
from labsupport.settings import Scale

LANES = 4
"""n, as in the paper."""


@dataclass(frozen=True)
class Plan:
    """A deep, narrow GPT: depth is what makes gains multiply.

    Attributes:
        config: the model's shape; it has 2 n_layers branches.
        steps: updates.
        batch_size: B, sequences a step.
        length: T, tokens a sequence.
        lr: the highest learning rate, where it is not varied.
    """

    config: GPTConfig
    steps: int
    batch_size: int
    length: int
    lr: float

    def __str__(self) -> str:
        model = self.config
        return (
            f"{2 * model.n_layers} branches, width {model.d_model}; {self.steps} "
            f"steps of {self.batch_size} x {self.length} bytes; learning rate up to "
            f"{self.lr:g}"
        )


PLANS: dict[Scale, Plan] = {
    "ci": Plan(
        GPTConfig(d_model=16, n_layers=3, n_heads=2, max_len=16),
        steps=12,
        batch_size=4,
        length=16,
        lr=1e-2,
    ),
    "cpu": Plan(
        GPTConfig(d_model=32, n_layers=12, n_heads=2, max_len=32),
        steps=150,
        batch_size=8,
        length=32,
        lr=1e-2,
    ),
    "gpu": Plan(
        GPTConfig(d_model=128, n_layers=24, n_heads=4, max_len=128),
        steps=500,
        batch_size=32,
        length=128,
        lr=1e-2,
    ),
}
