"""All exercises of lab 05b, as `Lab` looks for them."""

from labs.lab_05b.exercise_kernel import KERNEL
from labs.lab_05b.exercises_core import AGGREGATE, EQUAL, MISFIT
from labs.lab_05b.exercises_deep import ATTEND, BREAK_EVEN

EXERCISES = (AGGREGATE, MISFIT, EQUAL, ATTEND, BREAK_EVEN, KERNEL)
