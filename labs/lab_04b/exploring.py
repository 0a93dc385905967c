"""The GPT of lab 04b, trained plainly, looking around, or averaged.

All arms have the same number of *gradients*. SAM and ASAM need two for a step, so they
make half as many steps; EMA and LAWA need none of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from labs.lab_04b.plan import CHECKS, GPT_PLANS, SHORT_TEXT
from labsupport.errors import LabError
from labsupport.nn import GPT
from labsupport.settings import Scale, choose_settings, seed_everything
from labsupport.tasks.corpus import Corpus
from labsupport.train import Run, mean_loss, train
from labsupport.train.averaging import EMA, LAWA
from labsupport.train.sharpness import GRADIENTS_PER_STEP, SAM

NAMES = {
    "plain": "plain",
    "sam": "SAM",
    "asam": "ASAM",
    "ema": "EMA",
    "lawa": "LAWA",
}
"""As tables and figures call them."""
ARMS = tuple(NAMES)
SNAPSHOTS = 40
"""LAWA takes so many over a training."""

Batch = Callable[[int], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Trial:
    """One setting of an arm.

    Attributes:
        lr: the highest learning rate.
        strength: rho of SAM and ASAM, the decay of EMA, k of LAWA; None for plain.
    """

    lr: float
    strength: float | None = None


def _grid(lrs: tuple[float, ...], strengths: tuple[Any, ...]) -> list[Trial]:
    return [Trial(lr, strength) for strength in strengths for lr in lrs]


LRS = (2e-3, 4e-3, 8e-3)
TRIALS: dict[str, list[Trial]] = {
    "plain": _grid((1e-3, 2e-3, 3e-3, 4e-3, 6e-3, 8e-3), (None,)),
    "sam": _grid(LRS, (0.02, 0.1)),
    "asam": _grid(LRS, (0.2, 1.0)),
    "ema": _grid(LRS, (0.95, 0.98)),
    "lawa": _grid(LRS, (3, 8)),
}
"""What each arm may try: six settings, for all alike."""


@dataclass
class Explored:
    """A training, and what is to be judged of it.

    Attributes:
        run: its course.
        model: the weights that count: the last ones, or the averaged ones.
        path: weights along the way, as vectors, if they were asked for.
    """

    run: Run
    model: nn.Module
    path: list[torch.Tensor] = field(default_factory=list)


def batches(seed: int, scale: Scale, repeated: bool = False) -> Batch:
    """Batches of the corpus, or of a short text that comes again and again."""
    plan, corpus = GPT_PLANS[scale], Corpus.load()
    if repeated:
        corpus = Corpus("short", corpus.tokens[: SHORT_TEXT[scale]])
    return partial(
        corpus.batch,
        "train",
        batch_size=plan.batch_size,
        length=plan.length,
        seed=seed,
    )


def validation(scale: Scale, count: int) -> list[tuple[torch.Tensor, ...]]:
    """So many batches of the validation text."""
    plan = GPT_PLANS[scale]
    return Corpus.load().validation_batches(
        4 if scale == "ci" else count,
        batch_size=plan.batch_size,
        length=plan.length,
    )


def train_gpt(
    arm: str,
    seed: int,
    scale: Scale,
    trial: Trial,
    *,
    gradients: int | None = None,
    repeated: bool = False,
    keep: int = 0,
    live: bool = False,
    title: str = "Training",
) -> Explored:
    """Train one arm with so many gradients.

    Args:
        arm: one of ARMS.
        seed: of the weights and of the order of the data.
        trial: its setting.
        gradients: None for the plan's.
        repeated: a short text, read again and again.
        keep: how many points of the path to keep, at equal distances.
        live: whether the loss is drawn meanwhile.
        title: names the run.

    Raises:
        LabError: an unknown arm, or a strength that it cannot have.
    """
    if arm not in ARMS:
        raise LabError(f"arm={arm!r}: choose one of {', '.join(ARMS)}.")
    if (trial.strength is None) != (arm == "plain"):
        raise LabError(
            f"{arm} with strength={trial.strength}: only plain has none."
        )
    plan, settings = GPT_PLANS[scale], choose_settings(scale, seed)
    steps = gradients or plan.steps
    seed_everything(seed)
    model = GPT(plan.config).to(settings.device)
    loss_fn, attached = None, []  # what hangs on the optimizer
    average: EMA | LAWA | None = None
    if arm in ("sam", "asam"):
        assert trial.strength is not None
        steps //= GRADIENTS_PER_STEP
        sam = SAM(trial.strength, adaptive=arm == "asam")
        loss_fn, attached = sam.loss, [sam.attach]
    elif arm in ("ema", "lawa"):
        assert trial.strength is not None
        average = (
            EMA(model, trial.strength)
            if arm == "ema"
            else LAWA(model, int(trial.strength), max(1, steps // SNAPSHOTS))
        )
        attached = [average.attach]
    found = Explored(Run(model, title, steps), model)
    every = max(1, steps // keep) if keep else 0
    taken = [0]

    def counts() -> nn.Module:
        """The weights that count: the last ones, or the averaged ones."""
        return model if average is None else average.model

    def keep_point(*_: Any) -> None:
        taken[0] += 1
        if every and taken[0] % every == 0:
            found.path.append(flat(counts()))

    def prepare(optimizer: torch.optim.Optimizer) -> None:
        for attach in attached:
            attach(optimizer)
        optimizer.register_step_post_hook(keep_point)

    check = validation(scale, 16)
    found.run = train(
        model,
        batches(seed, scale, repeated),
        steps=steps,
        lr=trial.lr,
        settings=settings,
        loss_fn=loss_fn,
        prepare=prepare,
        eval_fn=lambda _: mean_loss(counts(), check),
        eval_every=max(1, steps // CHECKS),
        live=live,
        title=title,
    )
    found.model = counts()
    return found


def flat(model: nn.Module) -> torch.Tensor:
    """All weights as one vector, a copy."""
    return nn.utils.parameters_to_vector(
        p.detach() for p in model.parameters()
    ).clone()


def losses(found: Explored, scale: Scale) -> dict[str, Any]:
    """Validation loss at the end and along the way, and the last training loss.

    Returns:
        validation: nats a byte, over many batches.
        curve: on fewer batches, at equal numbers of gradients.
    """
    curve = [
        round(row["validation"], 4)
        for row in found.run.metrics
        if row["validation"] == row["validation"]  # others are NaN
    ]
    return {
        "validation": round(mean_loss(found.model, validation(scale, 64)), 5),
        "curve": curve[:CHECKS],
    }
