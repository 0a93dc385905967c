"""All exercises of lab 03, as `Lab` looks for them."""

from labs.lab_03.exercises_core import DECODE, MATMUL, QUANTISE
from labs.lab_03.exercises_deep import ENCODE, GRADIENTS, POWER
from labs.lab_03.exercises_kernel import SCALE

EXERCISES = (DECODE, QUANTISE, MATMUL, GRADIENTS, POWER, ENCODE, SCALE)
