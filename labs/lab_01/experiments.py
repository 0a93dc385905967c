"""Lab 01's records: gains of trained maps, runs that end in NaN, how large the
stream becomes, time per step."""

from __future__ import annotations

import itertools
import math
import statistics
from typing import Any

import torch
from torch import Tensor

from labs.lab_01.arms import ARMS, residual_of
from labs.lab_01.chain_task import chain_batches
from labs.lab_01.gains import composite_gains, trained_maps
from labs.lab_01.plan import PLANS
from labs.lab_01.stream_size import StreamSize
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
TASKS = ("python", "chain")


def batches(task: str, plan: Plan, seed: int) -> Any:
    """Batches of a task, by step: Python source, or letters of a Markov chain."""
    if task == "chain":
        return chain_batches(plan, seed)
    corpus = Corpus.load()

    def of_corpus(step: int) -> tuple[Tensor, Tensor]:
        return corpus.batch(
            "train",
            step,
            batch_size=plan.batch_size,
            length=plan.length,
            seed=seed,
        )

    return of_corpus


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
    watch: bool = False,
) -> Run:
    """One training of the deep GPT with one kind of residual.

    Args:
        watch: add the column `largest` to the run's table, see `StreamSize`.
    """
    plan, settings = PLANS[scale], choose_settings(scale, seed)
    torch.manual_seed(seed)
    model = GPT(plan.config, residual=residual_of(arm, STREAMS[stream]))
    return train(
        model,
        batches(task, plan, seed),
        steps=plan.steps,
        lr=lr,
        warmup=0.1,
        settings=settings,
        measure=StreamSize(model).measure if watch else None,
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


WINDOW = 5
"""Steps that one value of the stream's curves stands for."""


def stream_row(
    arm: str, seed: int, scale: Scale, *, lr: float, stream: str
) -> dict[str, Any]:
    """The loss and the stream's largest number, window by window.

    Returns:
        "failed" and "steps_done" as in `failure_row`; "step", the last of each
        window, with the mean of "loss" and the maximum of "largest" in it.
    """
    run = train_arm(arm, seed, scale, lr=lr, stream=stream, watch=True)
    windows = [
        run.metrics[at : at + WINDOW]
        for at in range(0, len(run.metrics), WINDOW)
    ]
    return {
        "failed": int(run.stopped == "nan"),
        "steps_done": run.steps_done,
        "step": [int(rows[-1]["step"]) for rows in windows],
        "loss": [
            round(statistics.fmean(row["loss"] for row in rows), 4)
            for rows in windows
        ],
        "largest": [
            float(f"{max(row['largest'] for row in rows):.5g}")
            for rows in windows
        ],
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
                {"lr": 1e-2, "stream": stream, "task": "chain"}
                for stream in STREAMS
            ),
        ],
    ),
    Experiment(
        lab="01",
        name="stream",
        question="How large do the numbers of the stream become, while the loss "
        "falls?",
        run=stream_row,
        arms=("residual", "hc", "mhc"),
        seeds=SEEDS,
        points=[
            {"lr": RATES[-1], "stream": stream}
            for stream in ("float16", "float32")
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
