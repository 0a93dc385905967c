"""Lab 00's one record: how far the same run spreads over seeds."""

from __future__ import annotations

from typing import Any

import torch

from labs.lab_00.plan import PLANS
from labsupport.claims.record import Experiment
from labsupport.nn import GPT
from labsupport.settings import Scale, choose_settings
from labsupport.tasks.corpus import Corpus
from labsupport.train import train
from labsupport.train.windows import window_means


def run_once(arm: str, seed: int, scale: Scale) -> dict[str, Any]:
    """Train as the notebook does; the loss in twenty windows of steps."""
    plan, settings = PLANS[scale], choose_settings(scale, seed)
    corpus = Corpus.load()
    torch.manual_seed(seed)
    model = GPT(plan.config)

    def next_batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        return corpus.batch(
            "train",
            step,
            batch_size=plan.batch_size,
            length=plan.length,
            seed=seed,
        )

    run = train(
        model,
        next_batch,
        steps=plan.steps,
        lr=plan.lr,
        settings=settings,
        live=False,
    )
    steps, losses = window_means(list(run.table()["loss"]), plan.steps // 20)
    return {"final_loss": losses[-1], "step": steps, "loss": losses}


EXPERIMENTS = [
    Experiment(
        lab="00",
        name="seed_spread",
        question="How far apart do runs of the same training end that differ "
        "in nothing but the seed?",
        run=run_once,
        arms=("gpt",),
        seeds=(0, 1, 2, 3, 4),
    )
]
