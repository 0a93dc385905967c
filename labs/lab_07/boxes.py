"""The second game of lab 07: open boxes until the letter is found.

A model that gives up after few boxes is paid seldom; to go on is all it has to learn.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from labs.lab_06.thinker import Thinker
from labsupport.nn import GPT, GPTConfig
from labsupport.settings import Scale, choose_settings
from labsupport.tasks.boxes import Boxes, impatient
from labsupport.train import train

STEPS: dict[Scale, int] = {"ci": 10, "cpu": 800, "gpu": 800}
"""Of the warm start, 128 games each."""


@lru_cache(maxsize=2)
def boxes_start(seed: int, scale: Scale) -> Thinker:
    """A model of two layers that looks into some boxes, honestly, and gives up.

    It is kept, and so must not be trained.
    """
    game = Boxes()
    writer = impatient()

    def batch(step: int) -> tuple[Tensor, Tensor]:
        return game.batch(writer, step, batch_size=128, seed=seed)

    torch.manual_seed(seed)
    model = GPT(
        GPTConfig(
            vocab_size=len(game.vocabulary),
            d_model=64,
            n_layers=2,
            n_heads=4,
            max_len=game.max_len,
        )
    )
    run = train(
        model,
        batch,
        steps=STEPS[scale],
        lr=2e-3,
        settings=choose_settings(None, seed),
        live=False,
    )
    return Thinker(model, game, run)
