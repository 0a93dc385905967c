"""Asynchronous training: gradients of weights that are no longer there.

If no worker waits for the others, a gradient arrives when the weights have moved on:
by W - 1 updates on average, if W workers are equally fast. One process can do that
exactly: it computes each gradient, and applies it `delay` updates later.
"""

from __future__ import annotations

from collections import deque
from functools import partial

import torch
from torch import Tensor

from labs.lab_04a.plan import GPT_PLANS
from labs.lab_04a.training import make_model
from labsupport.errors import LabError
from labsupport.settings import Scale, choose_settings, seed_everything
from labsupport.tasks.corpus import Corpus
from labsupport.train import Recipe, mean_loss
from labsupport.train.recipe import make_optimizer


class Delayed:
    """Swaps gradients for those of some steps ago.

    Args:
        delay: how many updates late a gradient is.
    """

    def __init__(self, delay: int) -> None:
        if delay < 0:
            raise LabError(f"delay={delay}: use 0 or more updates.")
        self.waiting: deque[list[Tensor]] = deque()
        self.delay = delay

    def swap(self, parameters: list[Tensor]) -> bool:
        """Put this step's gradients at the end of the queue and those that are due
        in their place; False as long as none is due."""
        self.waiting.append([p.grad.clone() for p in parameters])
        if len(self.waiting) <= self.delay:
            return False
        for p, gradient in zip(
            parameters, self.waiting.popleft(), strict=True
        ):
            p.grad.copy_(gradient)
        return True


def train_stale(
    delay: int, seed: int, scale: Scale, *, lr: float, clip: float = 1.0
) -> dict[str, float]:
    """Validation loss after the plan's updates, each with a gradient that is late.

    NaN in the loss ends it: `validation` is None then.
    """
    plan, settings = GPT_PLANS[scale], choose_settings(scale, seed)
    seed_everything(seed)
    model = make_model(plan).to(settings.device)
    recipe = Recipe(plan.steps, lr, clip=clip)
    optimizer = make_optimizer(model, recipe)
    corpus, delayed = Corpus.load(), Delayed(delay)
    size = {"batch_size": plan.batch_size, "length": plan.length}
    batch = partial(corpus.batch, "train", seed=seed, **size)
    parameters = [p for p in model.parameters() if p.requires_grad]
    updates, step = 0, 0
    while updates < recipe.steps:
        optimizer.zero_grad(set_to_none=False)
        loss = model.loss(*(x.to(settings.device) for x in batch(step)))
        loss.backward()
        step += 1
        if not loss.isfinite():
            return {"validation": None, "updates": updates}  # type: ignore[dict-item]
        if delayed.swap(parameters):
            torch.nn.utils.clip_grad_norm_(parameters, clip)
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate(updates)
            optimizer.step()
            updates += 1
    batches = corpus.validation_batches(4 if scale == "ci" else 64, **size)
    return {
        "validation": round(mean_loss(model, batches), 5),
        "updates": updates,
    }
