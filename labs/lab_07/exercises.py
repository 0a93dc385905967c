"""All exercises of lab 07, as `Lab` looks for them."""

from labs.lab_07.exercise_kernel import KERNEL

EXERCISES = (KERNEL,)
