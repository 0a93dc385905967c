"""The training run of lab 00 at each scale."""

from __future__ import annotations

from dataclasses import dataclass

from labsupport.nn import GPTConfig
from labsupport.settings import Scale, Settings


@dataclass(frozen=True)
class Plan:
    """Model, data and recipe of one training run.

    Attributes:
        config: the model's shape.
        steps: how many updates.
        batch_size: B, sequences a step.
        length: T, tokens a sequence.
        lr: the highest learning rate.
    """

    config: GPTConfig
    steps: int
    batch_size: int
    length: int
    lr: float

    def __str__(self) -> str:
        model = self.config
        return (
            f"{model.n_layers} layers, width {model.d_model}, {model.n_heads} heads; "
            f"{self.steps} steps of {self.batch_size} x {self.length} bytes; "
            f"learning rate up to {self.lr}"
        )


PLANS: dict[Scale, Plan] = {
    "ci": Plan(
        GPTConfig(d_model=64, n_layers=2, n_heads=2, max_len=64),
        steps=100,
        batch_size=8,
        length=64,
        lr=6e-3,
    ),
    "cpu": Plan(
        GPTConfig(d_model=128, n_layers=2, n_heads=4, max_len=128),
        steps=1000,
        batch_size=8,
        length=128,
        lr=4e-3,
    ),
    "gpu": Plan(
        GPTConfig(d_model=512, n_layers=8, n_heads=8, max_len=512),
        steps=1000,
        batch_size=64,
        length=512,
        lr=1e-3,
    ),
}


def plan_at(settings: Settings) -> Plan:
    return PLANS[settings.scale]
