"""All exercises of lab 06, as `Lab` looks for them."""

from labs.lab_06.exercise_kernel import KERNEL
from labs.lab_06.exercises_core import CORRUPT, VERIFY, VOTE
from labs.lab_06.exercises_deep import ATTEND, CHOOSE

EXERCISES = (VERIFY, CORRUPT, VOTE, ATTEND, CHOOSE, KERNEL)
