"""What a lab trains at one scale: model, data and recipe, in one place."""

from __future__ import annotations

from dataclasses import dataclass

from labsupport.nn import GPTConfig


@dataclass(frozen=True)
class Plan:
    """Model, data and recipe of a lab's training.

    Attributes:
        config: the model's shape.
        steps: how many updates.
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
            f"{model.n_layers} layers, width {model.d_model}, {model.n_heads} heads; "
            f"{self.steps} steps of {self.batch_size} x {self.length} bytes; "
            f"learning rate up to {self.lr:g}"
        )
