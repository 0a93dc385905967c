"""The checkpoint of a run that goes on even where the disk refuses."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from labsupport.errors import LabError
from labsupport.train.checkpoint import save_checkpoint
from labsupport.train.live import Display
from labsupport.train.recipe import Recipe
from labsupport.train.run import Run


class Keeper:
    """Writes the checkpoint of a run, and survives a disk that refuses."""

    def __init__(
        self,
        run: Run,
        file: Path | None,
        optimizer: torch.optim.Optimizer,
        recipe: Recipe,
        display: Display,
    ) -> None:
        self.run, self.file, self.optimizer = run, file, optimizer
        self.recipe, self.display = recipe, display
        self.warned = False

    def save(self) -> None:
        """Write the checkpoint, unless the weights are worth nothing."""
        if self.file is None or not is_finite(self.run.model):
            return
        try:
            save_checkpoint(
                self.file,
                model=self.run.model,
                optimizer=self.optimizer,
                recipe=self.recipe,
                metrics=self.run.metrics,
                step=self.run.steps_done,
            )
            self.run.saved_step = self.run.steps_done
        except LabError as error:
            if not self.warned:
                self.display.say(f"{error} Training goes on without it.")
            self.warned = True


def is_finite(model: nn.Module) -> bool:
    """Whether every weight is a finite number."""
    return all(bool(p.isfinite().all()) for p in model.parameters())
