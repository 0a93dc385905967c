"""All exercises of lab 01, as `Lab` looks for them."""

from labs.lab_01.exercises_core import CONNECT, GAIN, SINKHORN
from labs.lab_01.exercises_deep import BACKWARD, FIRST_BIAS
from labs.lab_01.exercises_kernel import STEP

EXERCISES = (GAIN, SINKHORN, CONNECT, BACKWARD, FIRST_BIAS, STEP)
