"""Lab 01's records: gains of trained maps, runs that end in NaN, time per step."""

from __future__ import annotations

import itertools
import math
import statistics
from typing import Any

import torch
from torch import Tensor

from labs.lab_01.arms import ARMS, residual_of
from labs.lab_01.gains import composite_gains, trained_maps
from labs.lab_01.plan import PLANS
from labsupport.claims.record import Experiment
from labsupport.nn import GPT
from labsupport.settings import Scale, choose_settings
from labsupport.tasks.corpus import Corpus
from labsupport.train import Plan, Run, train

STREAMS = {
    "float32": None,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
TASKS = ("python", "copy")


def batches(task: str, plan: Plan, seed: int) -> Any:
    """Batches of a task, by step: Python source, or sequences said twice."""
    B, T = plan.batch_size, plan.length
    if task == "python":
        corpus = Corpus.load()

        def of_corpus(step: int) -> tuple[Tensor, Tensor]:
            return corpus.batch(
                "train", step, batch_size=B, length=T, seed=seed
            )

        return of_corpus

    def of_copies(step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(1_000_003 * seed + step)
        half = torch.randint(97, 123, (B, T // 2 + 1), generator=generator)
        both = torch.cat([half, half], dim=1)[:, : T + 1]
        return both[:, :-1], both[:, 1:]

    return of_copies


def train_arm(
    arm: str,
    seed: int,
    scale: Scale,
    *,
    lr: float,
    stream: str = "float32",
    task: str = "python",
    live: bool = False,
    title: str = "Training",
) -> Run:
    """One training of the deep GPT with one kind of residual."""
    plan, settings = PLANS[scale], choose_settings(scale, seed)
    torch.manual_seed(seed)
    model = GPT(plan.config, residual=residual_of(arm, STREAMS[stream]))
    next_batch = batches(task, plan, seed)
    return train(
        model,
        next_batch,
        steps=plan.steps,
        lr=lr,
        warmup=0.1,
        settings=settings,
        live=live,
        title=title,
    )


def last_loss(run: Run) -> float | None:
    """Mean of the last tenth of the steps; None for a run that has failed."""
    if run.stopped == "nan":
        return None
    window = max(1, run.steps // 10)
    losses = [row["loss"] for row in run.metrics[-window:]]
    return round(sum(losses) / len(losses), 4)


def gain_row(
    arm: str, seed: int, scale: Scale, *, lr: float
) -> dict[str, Any]:
    """Train in float32, then take the gains of the maps that were learned.

    A training that failed has no maps worth measuring: its gains are None.
    """
    run = train_arm(arm, seed, scale, lr=lr)
    if run.stopped == "nan":
        return {"failed": 1, "loss": None, "log10_gain": None}
    plan = PLANS[scale]
    tokens_BT, _ = batches("python", plan, seed=1000)(0)
    gains = composite_gains(
        trained_maps(run.model, tokens_BT.to(device_of(run)))
    )
    worst = max(gains.forward[-1], gains.backward[-1])
    rounded = {
        name: [float(f"{value:.5g}") for value in values]
        for name, values in gains.as_dict().items()
    }
    return {
        "failed": 0,
        "loss": last_loss(run),
        "log10_gain": round(math.log10(worst), 4),
        **rounded,
    }


def device_of(run: Run) -> torch.device:
    return next(run.model.parameters()).device


def failure_row(
    arm: str, seed: int, scale: Scale, *, lr: float, stream: str, task: str
) -> dict[str, Any]:
    """Whether a training ends with a loss or gradient that is not finite."""
    run = train_arm(arm, seed, scale, lr=lr, stream=stream, task=task)
    return {
        "failed": int(run.stopped == "nan"),
        "steps_done": run.steps_done,
        "loss": last_loss(run),
    }


def time_row(arm: str, seed: int, scale: Scale) -> dict[str, Any]:
    """Milliseconds of a step: the median, after the first tenth."""
    run = train_arm(arm, seed, scale, lr=1e-3)
    seconds = [row["seconds"] for row in run.metrics]
    steps = [after - before for before, after in itertools.pairwise(seconds)]
    return {"ms": round(1e3 * statistics.median(steps[len(steps) // 10 :]), 3)}


RATES = (3e-3, 1e-2, 3e-2)
SEEDS = (10, 11, 12, 13, 14)
"""Others than the pilots', which were 0 and 1."""

EXPERIMENTS = [
    Experiment(
        lab="01",
        name="gain",
        question="How much can the maps that training finds amplify a signal?",
        run=gain_row,
        arms=ARMS,
        seeds=SEEDS,
        claims=("mhc-stable",),
        points=[{"lr": lr} for lr in (1e-3, *RATES)],
    ),
    Experiment(
        lab="01",
        name="failures",
        question="How many trainings end in NaN, by learning rate and by the "
        "precision of the stream?",
        run=failure_row,
        arms=("residual", "hc", "mhc", "identity"),
        seeds=SEEDS,
        claims=("mhc-fewer-failures",),
        points=[
            *(
                {"lr": lr, "stream": stream, "task": "python"}
                for lr in RATES
                for stream in STREAMS
            ),
            *(
                {"lr": 1e-2, "stream": stream, "task": "copy"}
                for stream in STREAMS
            ),
        ],
    ),
    Experiment(
        lab="01",
        name="time",
        question="How much longer does a step take?",
        run=time_row,
        arms=ARMS,
        seeds=SEEDS,
        claims=("mhc-time",),
        clocks=("ms",),
    ),
]
