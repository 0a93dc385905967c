"""Train a small GPT to play the shell game, and have it play.

Shape suffixes: P prompts, T tokens of a prompt, N tokens of a completion, R rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from labs.lab_06.plan import ThinkerPlan
from labs.lab_06.writers import WRITERS
from labsupport.errors import LabError
from labsupport.generate import Completions, generate
from labsupport.nn import GPT
from labsupport.rl import accuracy
from labsupport.settings import choose_settings
from labsupport.tasks.game import Writer
from labsupport.tasks.shell_game import ShellGame
from labsupport.train import Run, train


@dataclass(frozen=True)
class Thinker:
    """A trained model with its game."""

    model: GPT
    game: ShellGame
    run: Run

    def write(
        self,
        prompts_PT: Tensor,
        *,
        group: int = 1,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Completions:
        """Complete prompts, or prompts with the beginning of a trace.

        Args:
            prompts_PT: all of one length.
            group: completions of each.
            temperature: 0 takes the likeliest token.
            seed: of the random numbers.
        """
        room = self.game.max_len - prompts_PT.shape[1]
        return generate(
            self.model,
            prompts_PT,
            longest=room,
            eos=self.game.eos,
            pad=self.game.pad,
            group=group,
            temperature=temperature,
            seeds=seed,
        )

    def accuracy(
        self, count: int, *, temperature: float = 0.0, seed: int = 0
    ) -> float:
        """The share of fresh games it gets right."""
        return accuracy(
            self.model,
            self.game,
            count=count,
            temperature=temperature,
            seed=seed,
        )


def train_thinker(
    writer: str | Writer,
    seed: int,
    plan: ThinkerPlan,
    *,
    live: bool = False,
    title: str = "Training",
    eval_fn: Callable[[Any], float] | None = None,
) -> Thinker:
    """A model from random weights, trained on what a writer writes.

    Args:
        writer: one of WRITERS, or a function like them.
        seed: of weights and games.
        plan: game, model and how long.
        live: whether to show the training.
        title: names it.
        eval_fn: the share of games that a model loses, to be shown.

    Raises:
        LabError: an unknown writer.
    """
    if isinstance(writer, str):
        if writer not in WRITERS:
            raise LabError(
                f"writer={writer!r}: use one of {', '.join(WRITERS)}."
            )
        writer = WRITERS[writer]
    game, written = plan.game, writer

    def batch(step: int) -> tuple[Tensor, Tensor]:
        return game.batch(written, step, batch_size=plan.batch_size, seed=seed)

    torch.manual_seed(seed)
    model = GPT(plan.config)
    run = train(
        model,
        batch,
        steps=plan.steps(batch(0)[0].shape[1]),
        lr=plan.lr,
        settings=choose_settings(None, seed),
        eval_fn=eval_fn,
        eval_name="games lost",
        live=live,
        title=title,
    )
    return Thinker(model, game, run)
