"""Lab 03's records: losses by precision, outliers, moments, memory."""

from __future__ import annotations

import math
from typing import Any

from labs.lab_03 import accumulator, language, schemes, wire, wire_sums
from labs.lab_03.memory import memory_row
from labs.lab_03.moments import STORES
from labs.lab_03.plan import OUTLIER
from labsupport.claims.record import Experiment
from labsupport.settings import Scale

Row = dict[str, Any]
REPORTING = (10, 11, 12, 13, 14)
"""Seeds. The pilots had 0."""


def language_row(arm: str, seed: int, scale: Scale) -> Row:
    """The GPT, its linear layers in one precision."""
    return language.losses(language.train_gpt(arm, seed, scale), scale)


def outlier_row(arm: str, seed: int, scale: Scale) -> Row:
    """The same with outlier channels in the input of each layer."""
    run = language.train_gpt(arm, seed, scale, outlier=OUTLIER)
    return language.losses(run, scale)


def moments_row(arm: str, seed: int, scale: Scale) -> Row:
    """The GPT in bfloat16, the optimizer's moments in one precision.

    A training that ends at NaN has no losses; it says at which step.
    """
    run = language.train_gpt("bf16", seed, scale, store=STORES[arm])
    found: Row = {"ended": run.stopped, "steps": run.steps_done}
    values = language.losses(run, scale)
    sound = run.stopped == "finished" and math.isfinite(values["validation"])
    return found | (values if sound else dict.fromkeys(values))


EXPERIMENTS = [
    Experiment(
        lab="03",
        name="language",
        question="GPT: how far from bfloat16 does each way of scaling end?",
        run=language_row,
        arms=language.ARMS,
        seeds=REPORTING,
        claims=("fp8-close",),
    ),
    Experiment(
        lab="03",
        name="outliers",
        question="The same with two channels 100,000 times as large as the rest.",
        run=outlier_row,
        arms=("bf16", "tile", "block", "tensor"),
        seeds=REPORTING,
    ),
    Experiment(
        lab="03",
        name="moments",
        question="GPT: in how few bits can Adam keep its moments?",
        run=moments_row,
        arms=tuple(STORES),
        seeds=REPORTING[:3],
    ),
    Experiment(
        lab="03",
        name="memory",
        question="Which bytes does a training keep, by precision?",
        run=memory_row,
        arms=("fp32", "bf16", "tile", "tensor"),
        seeds=REPORTING[:3],
        claims=("fp8-memory",),
    ),
    Experiment(
        lab="03",
        name="numbers",
        question="What does one large column do to the numbers in all others?",
        run=schemes.outlier_row,
        arms=tuple(schemes.ARMS),
        seeds=REPORTING[:3],
        points=[{"factor": factor} for factor in schemes.FACTORS],
    ),
    Experiment(
        lab="03",
        name="gradients",
        question="Which gradients become 0 when tokens lie decades apart?",
        run=schemes.gradient_row,
        arms=tuple(schemes.GRADIENT_TILES),
        seeds=REPORTING[:3],
        points=[{"decades": decades} for decades in schemes.DECADES],
    ),
    Experiment(
        lab="03",
        name="delayed",
        question="A tensor doubles at each step: scaled online, or after its past?",
        run=schemes.delayed_row,
        arms=("online", "delayed"),
        seeds=REPORTING[:3],
    ),
    Experiment(
        lab="03",
        name="accumulation",
        question="A model of Hopper's accumulator: errors by length and promotion.",
        run=accumulator.accumulation_row,
        arms=tuple(str(each) for each in accumulator.PROMOTE),
        seeds=REPORTING[:3],
        points=[{"kind": kind} for kind in accumulator.KINDS],
    ),
    Experiment(
        lab="03",
        name="wire",
        question="A GPT with experts: what do rows in FP8 do to the loss?",
        run=wire.wire_row,
        arms=wire.ARMS,
        seeds=REPORTING,
    ),
    Experiment(
        lab="03",
        name="reduce",
        question="Gradients added over ranks in 8 bits: how far off is the sum?",
        run=wire_sums.reduce_row,
        arms=tuple(wire_sums.WAYS),
        seeds=REPORTING[:3],
        points=[{"ranks": ranks} for ranks in (1, 4, 16, 64)],
    ),
]
