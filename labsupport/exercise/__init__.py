"""Exercises: checks that explain, hints, predictions, progress.

Nothing here ever stops a notebook. An exercise that is unsolved or wrong is
replaced by our own solution, with a badge that says so, and the lab goes on.
"""

from labsupport.exercise.check import (
    Check,
    CheckFailed,
    Verdict,
    expect_close,
    expect_tensor,
    run_checks,
)
from labsupport.exercise.spec import Exercise, WrongAnswer

__all__ = [
    "Check",
    "CheckFailed",
    "Exercise",
    "Verdict",
    "WrongAnswer",
    "expect_close",
    "expect_tensor",
    "run_checks",
]
