"""Equal against balanced batches on two ranks: what a step takes, and who waits."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from labs.lab_04b.plan import RANK_PLANS, SLOW
from labs.lab_04b.rank_program import courses
from labs.lab_04b.workers import Course
from labsupport.distributed.balance import StepCost, balanced_time
from labsupport.settings import Scale

ARMS = {
    "equal": (SLOW, "equal"),
    "balanced": (SLOW, "balanced"),
    "even_equal": (1, "equal"),
    "even_balanced": (1, "balanced"),
}
"""Arm -> how much slower rank 1 is, and the policy. The last two are controls: where
workers are alike, balancing has nothing to win."""
NAMES = {
    "equal": "3 x slower, equal batches",
    "balanced": "3 x slower, balanced",
    "even_equal": "alike, equal batches",
    "even_balanced": "alike, balanced",
}


def settled(course: Course) -> slice:
    """The steps that are judged: the later two thirds, when batches have settled."""
    return slice(len(course.batch) // 3, None)


def step_ms(every: Sequence[Course]) -> float:
    """Median time of a step, from the first rank's begin to the last one's end."""
    part = settled(every[0])
    begins = zip(*(course.begin[part] for course in every), strict=True)
    ends = zip(*(course.done[part] for course in every), strict=True)
    return statistics.median(
        1e3 * (max(end) - min(begin))
        for begin, end in zip(begins, ends, strict=True)
    )


def idle_share(every: Sequence[Course]) -> float:
    """Which share of the time until all have met workers wait, on the mean."""
    part = settled(every[0])
    waited = total = 0.0
    for course in every:
        steps = zip(
            course.begin[part],
            course.ready[part],
            course.met[part],
            strict=True,
        )
        for begin, ready, met in steps:
            waited += met - ready
            total += met - begin
    return waited / total


def measured_costs(every: Sequence[Course]) -> list[StepCost]:
    """Every rank's median time per sample in the settled steps.

    Batches hardly differ by then, so a fixed time cannot be told apart; it is in c_i.
    """
    found = []
    for course in every:
        part = settled(course)
        steps = zip(
            course.batch[part],
            course.begin[part],
            course.ready[part],
            strict=True,
        )
        each = [(ready - begin) / batch for batch, begin, ready in steps]
        found.append(StepCost(0.0, statistics.median(each)))
    return found


def balance_row(arm: str, seed: int, scale: Scale) -> dict[str, Any]:
    """One run on two ranks.

    Returns:
        ms: median time of a step. idle: mean share of waiting.
        bound_ms: the closed form's T for the costs that were measured, computing
            only: no division of the samples computes faster.
        batches: of both ranks at the end. ratio: c of rank 1 over c of rank 0.
        loss: of the last step.
    """
    slow, policy = ARMS[arm]
    every = courses(
        2, scale=scale, seed=seed, repeats=[1, slow], policy=policy
    )
    costs = measured_costs(every)
    bound = balanced_time(costs, RANK_PLANS[scale].batch_size)
    return {
        "ms": round(step_ms(every), 3),
        "idle": round(idle_share(every), 4),
        "bound_ms": round(1e3 * bound, 3),
        "batches": [course.batch[-1] for course in every],
        "ratio": round(costs[1].per_sample / costs[0].per_sample, 3),
        "loss": round(every[0].loss[-1], 4),
    }


CLOCKS = ("ms", "idle", "bound_ms", "batches", "ratio")
