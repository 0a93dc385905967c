"""The GPT of lab 03 on the corpus, its linear layers in several precisions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from kernels.float8 import E5M2
from labs.lab_03.moments import Store, rounded_moments
from labs.lab_03.outlier_channels import (
    BF16LinearWithOutliers,
    FP8LinearWithOutliers,
)
from labs.lab_03.plan import GPT_PLANS, SIDE
from labsupport.errors import LabError
from labsupport.nn import GPT, BF16Linear, FP8Linear, FP8Recipe
from labsupport.settings import Scale, choose_settings, seed_everything
from labsupport.tasks.corpus import Corpus
from labsupport.train import Run, mean_loss, train

NAMES = {
    "fp32": "float32",
    "bf16": "bfloat16",
    "tile": "FP8, 1 x T tiles",
    "block": "FP8, T x T blocks",
    "tensor": "FP8, one scale a tensor",
    "hybrid": "FP8, one scale, g in E5M2",
    "unscaled": "FP8, no scales",
}
"""As figures and text call them."""
ARMS = tuple(NAMES)


def recipe_of(arm: str, scale: Scale) -> FP8Recipe:
    """The recipe of an FP8 arm."""
    if arm == "hybrid":
        return FP8Recipe("tensor", SIDE[scale], gradient=E5M2)
    return FP8Recipe(arm, SIDE[scale])  # type: ignore[arg-type]


def linear_of(
    arm: str, scale: Scale, outlier: float = 1.0, **own: Any
) -> Callable[..., nn.Module]:
    """What makes the linear layers of an arm.

    Args:
        outlier: factor of the outlier channels; 1 for none.
        own: `quantise` and `multiply` of a reader.

    Raises:
        LabError: an unknown arm.
    """
    if arm not in ARMS:
        raise LabError(f"arm={arm!r}: choose one of {', '.join(ARMS)}.")
    if arm == "fp32":
        return nn.Linear
    with_outliers = {} if outlier == 1.0 else {"factor": outlier}
    if arm == "bf16":
        layer = BF16LinearWithOutliers if with_outliers else BF16Linear
        return partial(layer, **with_outliers)
    return partial(
        FP8LinearWithOutliers if with_outliers else FP8Linear,
        recipe=recipe_of(arm, scale),
        **with_outliers,
        **own,
    )


def make_gpt(arm: str, scale: Scale, outlier: float = 1.0, **own: Any) -> GPT:
    """The model of an arm; with one seed, of the same weights for all arms."""
    return GPT(
        GPT_PLANS[scale].config, linear=linear_of(arm, scale, outlier, **own)
    )


def train_gpt(
    arm: str,
    seed: int,
    scale: Scale,
    *,
    outlier: float = 1.0,
    steps: int | None = None,
    store: Store | None = None,
    live: bool = False,
    title: str = "Training",
    **own: Any,
) -> Run:
    """Train one arm on the corpus.

    Args:
        arm: one of ARMS.
        seed: of the weights and of the order of the data.
        outlier: factor of the outlier channels; 1 for none.
        steps: None for the plan's.
        store: how the optimizer's moments are kept; None for float32.
        live: whether the loss is drawn meanwhile.
        title: names the run.
        own: `quantise` and `multiply` of a reader.
    """
    plan = GPT_PLANS[scale]
    settings = choose_settings(scale, seed)
    seed_everything(seed)
    return train(
        make_gpt(arm, scale, outlier, **own),
        partial(
            Corpus.load().batch,
            "train",
            batch_size=plan.batch_size,
            length=plan.length,
            seed=seed,
        ),
        steps=steps or plan.steps,
        lr=plan.lr,
        settings=settings,
        prepare=None if store is None else partial(rounded_moments, store),
        live=live,
        title=title,
    )


LAST = 50
"""Steps at the end whose mean training loss is reported, too."""


def losses(run: Run, scale: Scale) -> dict[str, float]:
    """Loss on the validation text, and of the last training steps: nats a byte."""
    plan = GPT_PLANS[scale]
    batches = Corpus.load().validation_batches(
        4 if scale == "ci" else 64,
        batch_size=plan.batch_size,
        length=plan.length,
    )
    last = [row["loss"] for row in run.metrics[-LAST:]]
    return {
        "validation": round(mean_loss(run.model, batches), 5),
        "training": round(sum(last) / len(last), 5),
    }
