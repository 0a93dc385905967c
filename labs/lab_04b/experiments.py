"""Lab 04b's records: exploring, slices, unequal workers, noise, batches."""

from __future__ import annotations

import statistics

from labs.lab_04b import balance_runs, exploring, noise_runs, slices
from labs.lab_04b.exploring import TRIALS, Trial
from labs.lab_04b.landscape import rise
from labs.lab_04b.plan import GPT_PLANS
from labsupport.claims.record import Experiment, load_record
from labsupport.claims.rows import Row, pick
from labsupport.errors import LabError
from labsupport.settings import Scale

TUNING = (0, 1, 2)
REPORTING = (10, 11, 12, 13, 14)
"""Seeds. No pilot saw the second ones."""


def tuning_row(arm: str, seed: int, scale: Scale, *, trial: int) -> Row:
    """One setting of an arm."""
    chosen = TRIALS[arm][trial]
    found = exploring.train_gpt(arm, seed, scale, chosen)
    return {
        "lr": chosen.lr,
        "strength": chosen.strength,
        "validation": exploring.losses(found, scale)["validation"],
    }


def best_trial(arm: str, scale: Scale) -> Trial:
    """The setting with the lowest mean loss over the tuning seeds.

    Raises:
        LabError: the tuning has not been recorded at this scale, or not all of it.
    """
    rows = pick(load_record("04b", "tuning", scale)["rows"], arm=arm)
    wanted = len(TRIALS[arm]) * len(TUNING)
    if len(rows) < wanted:
        raise LabError(
            f"The tuning of {arm} has {len(rows)} of {wanted} rows: finish it first, "
            f"`labs record 04b tuning --scale {scale}`."
        )

    def mean(trial: int) -> float:
        return statistics.fmean(
            row["validation"] for row in pick(rows, trial=trial)
        )

    return TRIALS[arm][min(range(len(TRIALS[arm])), key=mean)]


def explore_row(
    arm: str, seed: int, scale: Scale, repeated: bool = False
) -> Row:
    """One arm at the setting that its tuning decided for.

    "half" is the control: plain with half the gradients, which has to be worse.
    """
    half = arm == "half"
    arm = "plain" if half else arm
    chosen = best_trial(arm, scale)
    found = exploring.train_gpt(
        arm,
        seed,
        scale,
        chosen,
        gradients=GPT_PLANS[scale].steps // 2 if half else None,
        repeated=repeated,
    )
    batches = exploring.validation(scale, 8)
    return {
        "lr": chosen.lr,
        "strength": chosen.strength,
        **exploring.losses(found, scale),
        "rise": round(rise(found.model, batches), 4),
    }


def repeated_row(arm: str, seed: int, scale: Scale) -> Row:
    """The changed task: a short text, read about eight times. Not tuned again."""
    return explore_row(arm, seed, scale, repeated=True)


def slice_row(arm: str, seed: int, scale: Scale, *, plane: str) -> Row:
    """A plane through the end of a training, at the tuned setting."""
    return slices.slice_row(arm, seed, scale, best_trial(arm, scale), plane)


EXPERIMENTS = [
    Experiment(
        lab="04b",
        name="tuning",
        question="GPT: which of six settings is best for each arm?",
        run=tuning_row,
        arms=exploring.ARMS,
        seeds=TUNING,
        points=[{"trial": trial} for trial in range(6)],
    ),
    Experiment(
        lab="04b",
        name="explore",
        question="GPT: does looking around, or averaging, end lower at equal "
        "gradient evaluations?",
        run=explore_row,
        arms=(*exploring.ARMS, "half"),
        seeds=REPORTING,
        claims=("agf-landscape",),
    ),
    Experiment(
        lab="04b",
        name="repeated",
        question="The same on a short text that is read eight times.",
        run=repeated_row,
        arms=(*exploring.ARMS, "half"),
        seeds=REPORTING,
    ),
    Experiment(
        lab="04b",
        name="slices",
        question="GPT: the loss around the end of a training, on two planes.",
        run=slice_row,
        arms=slices.ARMS,
        seeds=REPORTING[:3],
        points=[{"plane": plane} for plane in slices.PLANES],
    ),
    Experiment(
        lab="04b",
        name="balance",
        question="Two ranks, one three times slower: what does balancing save?",
        run=balance_runs.balance_row,
        arms=tuple(balance_runs.ARMS),
        seeds=REPORTING,
        claims=("agf-resources",),
        clocks=balance_runs.CLOCKS,
    ),
    Experiment(
        lab="04b",
        name="noise",
        question="GPT: how does the gradient noise scale move over a training?",
        run=noise_runs.noise_row,
        arms=("gpt", "known"),
        seeds=REPORTING[:3],
    ),
    Experiment(
        lab="04b",
        name="batch",
        question="GPT: small, large or adaptive batches at equal sequences?",
        run=noise_runs.batch_row,
        arms=("small", "large", "adaptive"),
        seeds=REPORTING[:3],
        points=[{"lr": lr} for lr in (2e-3, 4e-3, 8e-3)],
    ),
]
