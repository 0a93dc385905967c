"""All exercises of lab 06, as `Lab` looks for them."""

from labs.lab_06.exercise_kernel import KERNEL
from labs.lab_06.exercises_core import CORRUPT, VERIFY, VOTE

EXERCISES = (VERIFY, CORRUPT, VOTE, KERNEL)
