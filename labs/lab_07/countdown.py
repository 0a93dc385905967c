"""The third game of lab 07: make a number out of others, each used once.

The warm start has read right steps that were aimed at nothing. It can calculate; which
steps lead to the wanted number is left to the rewards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from labs.lab_06.thinker import Thinker
from labs.lab_07.plan import RLPlan
from labsupport.nn import GPT, GPTConfig
from labsupport.settings import Scale, choose_settings
from labsupport.tasks.countdown import Countdown, aimless
from labsupport.train import train


@dataclass(frozen=True)
class CountdownPlan:
    """A game, its model, the warm start and the training with rewards.

    Attributes:
        game: how many numbers, and how large.
        layers, width: of the model; a head has 16 numbers.
        steps: of the warm start.
        batch_size: games a step.
        lr: the highest learning rate of the warm start.
        rewards: of the training that follows.
    """

    game: Countdown
    layers: int
    width: int
    steps: int
    batch_size: int
    lr: float
    rewards: RLPlan

    @property
    def config(self) -> GPTConfig:
        """The model, with room for the longest completion."""
        return GPTConfig(
            vocab_size=len(self.game.vocabulary),
            d_model=self.width,
            n_layers=self.layers,
            n_heads=self.width // 16,
            max_len=self.game.max_len,
        )


COUNTDOWN: Mapping[Scale, CountdownPlan] = {
    "ci": CountdownPlan(
        Countdown(numbers=2, highest=5, largest=25),
        layers=1,
        width=32,
        steps=300,
        batch_size=32,
        lr=1e-2,
        rewards=RLPlan(steps=20, prompts=12, group=8, lr=3e-3),
    ),
    "cpu": CountdownPlan(
        Countdown(numbers=3, highest=9, largest=81),
        layers=2,
        width=64,
        steps=1500,
        batch_size=128,
        lr=3e-3,
        rewards=RLPlan(steps=150, prompts=24, group=16, lr=1e-3),
    ),
    "gpu": CountdownPlan(
        Countdown(numbers=4, highest=20, largest=999),
        layers=6,
        width=384,
        steps=20_000,
        batch_size=512,
        lr=1e-3,
        rewards=RLPlan(steps=1000, prompts=64, group=32, lr=1e-4),
    ),
}
"""Four numbers are for a GPU."""


@lru_cache(maxsize=2)
def countdown_start(seed: int, scale: Scale) -> Thinker:
    """A model that calculates and does not aim.

    It is kept, and so must not be trained.
    """
    plan, writer = COUNTDOWN[scale], aimless()

    def batch(step: int) -> tuple[Tensor, Tensor]:
        return plan.game.batch(
            writer, step, batch_size=plan.batch_size, seed=seed
        )

    torch.manual_seed(seed)
    model = GPT(plan.config)
    run = train(
        model,
        batch,
        steps=plan.steps,
        lr=plan.lr,
        settings=choose_settings(None, seed),
        live=False,
    )
    return Thinker(model, plan.game, run)
