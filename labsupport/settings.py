"""The scale of a run, and what follows from it: device, dtype, seed.

A lab never asks what machine it is on. It asks the settings, so that the same
cell runs in seconds in CI, in minutes on a laptop, and at full size on a GPU.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import numpy as np
import torch

from labsupport.errors import LabError

Scale = Literal["ci", "cpu", "gpu"]
SCALES: tuple[Scale, ...] = get_args(Scale)
T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """What every cell of a lab may depend on.

    Attributes:
        scale: "ci" (seconds), "cpu" (minutes on two cores), "gpu".
        seed: seeds initialisation, data order and sampling.
        world: how many processes the `%%torchrun` cells start.
        device: where tensors live.
        dtype: the dtype of parameters.
    """

    scale: Scale
    seed: int
    world: int
    device: torch.device
    dtype: torch.dtype

    def pick(self, *, ci: T, cpu: T, gpu: T) -> T:
        """The value that belongs to this scale."""
        return {"ci": ci, "cpu": cpu, "gpu": gpu}[self.scale]


def choose_scale(parameter: str | None = None) -> Scale:
    """The scale: papermill's parameter beats `LABS_SCALE` beats "cpu".

    Raises:
        LabError: for a name that is not a scale.
    """
    name = parameter or os.environ.get("LABS_SCALE") or "cpu"
    if name not in SCALES:
        origin = "parameter" if parameter else "LABS_SCALE"
        raise LabError(
            f"Unknown scale {name!r} (from {origin}): use one of {', '.join(SCALES)}."
        )
    return name


def choose_settings(
    scale: str | None = None, seed: int = 0, world: int = 2
) -> Settings:
    """Check a lab's parameters and find the device that goes with them.

    Raises:
        LabError: unknown scale, a seed or world size that is no whole number
            in range, or the gpu scale on a machine without a GPU.
    """
    chosen = choose_scale(scale)
    for name, value, least in (("seed", seed, 0), ("world", world, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise LabError(
                f"Parameter {name}={value!r}: use a whole number of at least {least}."
            )
    if chosen == "gpu" and not torch.cuda.is_available():
        raise LabError("Scale 'gpu' needs a CUDA device; use 'cpu' or 'ci' here.")
    device = torch.device("cuda" if chosen == "gpu" else "cpu")
    return Settings(chosen, seed, world, device, torch.float32)


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch, on every device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def is_interactive() -> bool:
    """Whether a person sits in front of this kernel.

    JupyterLab names the notebook in this variable when it starts a kernel;
    papermill, nbclient and nbval do not. Without a person, predictions need
    no guess, progress is not written and live plots are drawn once, at the end.
    """
    return "JPY_SESSION_NAME" in os.environ
