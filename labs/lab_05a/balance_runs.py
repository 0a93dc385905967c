"""Lab 04b's unequal ranks once more, and ranks that are slow by turns."""

from __future__ import annotations

from typing import Any

from labs.lab_04b.balance_runs import idle_share, step_ms
from labs.lab_04b.plan import RANK_PLANS, SLOW
from labs.lab_04b.rank_program import courses
from labs.lab_05a.plan import BALANCE_ARMS
from labsupport.settings import Scale

CLOCKS = ("ms", "idle", "batches")


def balance_row(arm: str, seed: int, scale: Scale) -> dict[str, Any]:
    """One run on two ranks; where they take turns, from two thirds of the steps on.

    Returns:
        ms: median time of a step. idle: mean share of waiting. Both of the later two
            thirds of the steps, so that a turn is in the middle of them.
        batches: of both ranks at the end.
        loss: of the last step.
    """
    policy, turns = BALANCE_ARMS[arm]
    every = courses(
        2,
        scale=scale,
        seed=seed,
        repeats=[1, SLOW],
        policy=policy,
        turn=2 * RANK_PLANS[scale].steps // 3 if turns else None,
    )
    return {
        "ms": round(step_ms(every), 3),
        "idle": round(idle_share(every), 4),
        "batches": [course.batch[-1] for course in every],
        "loss": round(every[0].loss[-1], 4),
    }
