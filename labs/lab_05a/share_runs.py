"""One matrix for embedding and output layer, or two: what it costs and saves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from labs.lab_05a.layout_runs import batches, everyones, make_gpt
from labs.lab_05a.plan import SHARE_ARMS, SHARE_PLANS
from labsupport.distributed.call import call_on_ranks
from labsupport.distributed.parallel.engine import apply
from labsupport.distributed.parallel.heads import separate_qkv
from labsupport.distributed.parallel.memory import held_bytes
from labsupport.distributed.parallel.mesh import build_mesh
from labsupport.distributed.parallel.optimizer import make_adamw, train_step
from labsupport.distributed.traffic import count_traffic
from labsupport.settings import Scale
from labsupport.tasks.corpus import Corpus
from labsupport.train import Recipe, mean_loss

Row = dict[str, Any]
CHECKS: dict[Scale, int] = {"ci": 2, "cpu": 16, "gpu": 32}
"""Batches of the validation text."""


def share_rank(
    arm: str,
    seed: int,
    scale: Scale,
    lr: float,
    dist: Any,
    device: torch.device | str = "cpu",
) -> Row:
    """A training at equal everything: shape, batches, steps, learning rate.

    Returns:
        validation: nats a byte at the end.
        numbers: that are trained.
        weights, gradients, optimizer, held: bytes of each kind and of all three on the
            rank that holds most.
        sent: bytes of a forward and backward that a rank sends, by the textbook's
            algorithms.
    """
    (tied, layout), plan = SHARE_ARMS[arm], SHARE_PLANS[scale]
    plan = replace(plan, config=replace(plan.config, tied=tied))
    recipe = Recipe(plan.steps, lr)
    whole = make_gpt(plan, seed, device)
    numbers = whole.parameter_count()
    model = apply(whole, layout, build_mesh(layout, torch.device(device).type))
    optimizer = make_adamw(model, recipe)
    batch = batches(plan, seed)
    for step in range(plan.steps):
        train_step(model, optimizer, recipe, step, batch(step))
    held = held_bytes(model, optimizer)
    most = max(
        everyones((held.total, vars(held)), dist), key=lambda each: each[0]
    )
    with count_traffic() as traffic:
        model.backward(*batch(0))

    trained = separate_qkv(make_gpt(plan, seed, device))
    # Two names of one matrix are one entry there.
    trained.load_state_dict(model.weights(), strict=not tied)
    checks = Corpus.load().validation_batches(
        CHECKS[scale], batch_size=plan.batch_size, length=plan.length
    )
    return {
        "validation": round(mean_loss(trained, checks), 5),
        "numbers": numbers,
        **{name: round(size) for name, size in most[1].items()},
        "held": round(most[0]),
        "sent": traffic.ideal_sent,
    }


def share_row(arm: str, seed: int, scale: Scale, *, lr: float) -> Row:
    """One training on two ranks."""
    row: Row = call_on_ranks(
        f"{__name__}:share_rank", 2, arm=arm, seed=seed, scale=scale, lr=lr
    )
    return row
