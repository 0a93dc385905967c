"""Lab 05b's records: the published table, tuning, comparison, steps, writing."""

from __future__ import annotations

import statistics

from labs.lab_05b import published_rows, step_costs, writing
from labs.lab_05b.arms import ARMS, STREAM_ARMS, TUNED, arm_of
from labs.lab_05b.plan import RATES, REPORTING, TUNING
from labs.lab_05b.training import examine, train_arm
from labsupport.claims.record import Experiment, load_record
from labsupport.claims.rows import Row, pick
from labsupport.errors import LabError
from labsupport.settings import Scale

EPSILONS = {"eps0": 0.0, "eps01": 0.01, "eps1": 0.1}
"""Of the smoothing: none, the default of the authors' code, the paper's."""


def tuning_row(arm: str, seed: int, scale: Scale, *, rate: int) -> Row:
    """One learning rate of an arm; `rate` counts through RATES."""
    lr = RATES[scale][rate]
    run = train_arm(arm, seed, scale, lr)
    found = examine(arm_of(arm, scale), run, scale)
    return {"lr": lr, "validation": found["validation"]}


def best_rate(arm: str, scale: Scale) -> float:
    """The learning rate with the lowest mean loss over the tuning seeds.

    Raises:
        LabError: the tuning has not been recorded at this scale, or not all of it.
    """
    arm = "long8" if arm == "time8" else arm
    rows = pick(load_record("05b", "tuning", scale)["rows"], arm=arm)
    wanted = len(RATES[scale]) * len(TUNING)
    if len(rows) < wanted:
        raise LabError(
            f"The tuning of {arm} has {len(rows)} of {wanted} rows: finish it first, "
            f"`labs record 05b tuning --scale {scale}`."
        )

    def mean(lr: float) -> float:
        return statistics.fmean(row["validation"] for row in pick(rows, lr=lr))

    return min(RATES[scale], key=mean)


def time_ratio(scale: Scale) -> float:
    """Seconds of a step with eight streams over the plain model's, as recorded.

    Raises:
        LabError: the pace has not been recorded at this scale.
    """
    rows = pick(load_record("05b", "pace", scale)["rows"], arm="p8")
    return statistics.median(row["times"] for row in rows)


def scaling_row(arm: str, seed: int, scale: Scale) -> Row:
    """One arm at the learning rate that its tuning decided for."""
    lr = best_rate(arm, scale)
    ratio = time_ratio(scale) if arm == "time8" else None
    run = train_arm(arm, seed, scale, lr, time_ratio=ratio)
    return {"lr": lr, **examine(arm_of(arm, scale, ratio), run, scale)}


def smoothing_row(arm: str, seed: int, scale: Scale) -> Row:
    """Four streams with another smoothing, at the learning rate of four streams."""
    lr = best_rate("p4", scale)
    run = train_arm("p4", seed, scale, lr, eps=EPSILONS[arm])
    found = examine(arm_of("p4", scale), run, scale)
    names = ("validation", "alike", "even", "one")
    return {"eps": EPSILONS[arm], **{name: found[name] for name in names}}


EXPERIMENTS = [
    Experiment(
        lab="05b",
        name="published",
        question="The published table: what do the headline's models come to?",
        run=published_rows.published_row,
        arms=tuple(published_rows.ARMS),
        seeds=tuple(range(24)),
        claims=("hyb-1.6-4.4", "hyb-days"),
    ),
    Experiment(
        lab="05b",
        name="headline",
        question="A training step in the headline's proportions: seconds and bytes?",
        run=step_costs.headline_row,
        arms=step_costs.HEADLINE_ARMS,
        seeds=REPORTING,
        claims=("hyb-2x", "hyb-64"),
        clocks=("ms", "times"),
    ),
    Experiment(
        lab="05b",
        name="writing",
        question="Writing a token for 1, 8 and 64 texts: seconds and bytes?",
        run=writing.writing_row,
        arms=writing.WRITERS,
        seeds=REPORTING,
        claims=("hyb-2x",),
        clocks=(
            *(
                f"{name}_{n}"
                for name in ("ms", "times")
                for n in writing.TEXTS
            ),
            "more_ms",
        ),
    ),
    Experiment(
        lab="05b",
        name="pace",
        question="GPT: how long does a step take, over the plain model's?",
        run=step_costs.pace_row,
        arms=("plain", *STREAM_ARMS),
        seeds=REPORTING,
        clocks=("ms", "times"),
    ),
    Experiment(
        lab="05b",
        name="tuning",
        question="GPT: which of five learning rates is best for each arm?",
        run=tuning_row,
        arms=TUNED,
        seeds=TUNING,
        points=[{"rate": rate} for rate in range(len(RATES["cpu"]))],
    ),
    Experiment(
        lab="05b",
        name="scaling",
        question="GPT: what are streams worth, against plain models of equal "
        "parameters, FLOPs and seconds?",
        run=scaling_row,
        arms=ARMS,
        seeds=REPORTING,
        claims=("hyb-1.6-4.4",),
    ),
    Experiment(
        lab="05b",
        name="smoothing",
        question="GPT: do four streams collapse without smoothing?",
        run=smoothing_row,
        arms=tuple(EPSILONS),
        seeds=REPORTING[:3],
    ),
]
