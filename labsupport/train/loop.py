"""The training loop itself, without display, checkpoints or metrics tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from labsupport.train.recipe import Recipe

Batch = tuple[Tensor, Tensor]
"""tokens_BT and targets_BT, int64."""


@dataclass(frozen=True)
class StepResult:
    """What one step did.

    Attributes:
        step: steps done so far, this one included.
        loss: of this step's batch, before the update.
        lr: the learning rate of the update.
        grad_norm: the length of all gradients together, before clipping.
        tokens: tokens in the batch.
    """

    step: int
    loss: float
    lr: float
    grad_norm: float
    tokens: int


class Diverged(Exception):
    """The loss or its gradient is no longer a finite number.

    Raised before the update, so the weights are still those of the step before.
    """

    def __init__(self, step: int, loss: float, lr: float) -> None:
        super().__init__(step, loss, lr)
        self.step, self.loss, self.lr = step, loss, lr


def training_steps(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch_fn: Callable[[int], Batch],
    recipe: Recipe,
    *,
    start: int = 0,
    loss_fn: Callable[[Any, Batch], Tensor] | None = None,
) -> Iterator[StepResult]:
    """Train from step `start` to the recipe's end, yielding after every step.

    Args:
        model: has `loss(tokens_BT, targets_BT)`, unless `loss_fn` is given.
        optimizer: made for the model's parameters.
        batch_fn: the batch of step 0, 1, ...; on any device.
        recipe: learning rates and clipping.
        start: steps already done.
        loss_fn: the scalar to minimise, from the model and a batch.

    Raises:
        Diverged: the loss or the gradient is NaN or infinite.
    """
    device = next(model.parameters()).device
    model.train()
    for step in range(start, recipe.steps):
        lr = recipe.learning_rate(step)
        for group in optimizer.param_groups:
            group["lr"] = lr

        tokens_BT, targets_BT = (part.to(device) for part in batch_fn(step))
        if loss_fn is None:
            loss = model.loss(tokens_BT, targets_BT)  # type: ignore[operator]
        else:
            loss = loss_fn(model, (tokens_BT, targets_BT))

        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)

        # On a GPU, .item() waits for the device: once a step is cheap enough.
        loss_value, grad_norm = loss.item(), norm.item()
        if not (math.isfinite(loss_value) and math.isfinite(grad_norm)):
            raise Diverged(step + 1, loss_value, lr)
        optimizer.step()
        yield StepResult(step + 1, loss_value, lr, grad_norm, tokens_BT.numel())


@torch.no_grad()
def mean_loss(model: nn.Module, batches: Iterable[Batch]) -> float:
    """The mean of `model.loss` over fixed batches of equal size, in eval mode."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    losses = [
        model.loss(*(part.to(device) for part in batch)).item()  # type: ignore[operator]
        for batch in batches
    ]
    model.train(was_training)
    return sum(losses) / len(losses)
