"""Train four streams spread over ranks, with the reader's aggregation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from labs.lab_05b.arms import arm_of
from labs.lab_05b.plan import GPT_PLANS, RANK_STEPS
from labsupport.distributed.stream_parallel import (
    average_gradients,
    place_streams,
)
from labsupport.errors import LabError
from labsupport.nn import aggregate_streams
from labsupport.nn.parscale import Aggregate
from labsupport.settings import Scale, seed_everything
from labsupport.tasks.corpus import Corpus
from labsupport.train import Recipe, make_optimizer

STREAMS_ON_RANKS = "p4"


def train_on_ranks(
    dist: Any,
    scale: Scale,
    seed: int = 0,
    *,
    aggregate: Aggregate = aggregate_streams,
    device: torch.device | str = "cpu",
    watch: Callable[..., None] | None = None,
) -> list[float]:
    """A short training of four streams; every rank calls this.

    Args:
        dist: `torch.distributed`, with a process group of 1, 2 or 4 ranks.
        seed: of weights and data, the same on all ranks.
        aggregate: how streams become one (exercise 5.7).
        watch: called after each step with its number and loss.

    Returns:
        the loss of every step; the same on all ranks.

    Raises:
        LabError: ranks that do not divide the streams, or a loss that is no finite
            number.
    """
    plan, steps = GPT_PLANS[scale], RANK_STEPS[scale]
    seed_everything(seed)
    model: Any = arm_of(STREAMS_ON_RANKS, scale).make(aggregate=aggregate)
    model.to(device)
    place_streams(model, dist)
    recipe = Recipe(steps, plan.lr)
    optimizer = make_optimizer(model, recipe)
    corpus, losses = Corpus.load(), []
    for step in range(steps):
        tokens_BT, targets_BT = (
            part.to(device)
            for part in corpus.batch(
                "train",
                step,
                batch_size=plan.batch_size,
                length=plan.length,
                seed=seed,
            )
        )
        optimizer.zero_grad()
        loss = model.loss(tokens_BT, targets_BT)
        loss.backward()
        average_gradients(model, dist)
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate(step)
        losses.append(loss.item())
        if losses[-1] != losses[-1]:
            raise LabError(f"Step {step + 1}: the loss is no number.")
        optimizer.step()
        if watch is not None:
            watch(step, loss=losses[-1])
    return losses
