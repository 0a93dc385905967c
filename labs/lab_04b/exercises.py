"""All exercises of lab 04b, as `Lab` looks for them."""

from labs.lab_04b.exercises_core import AVERAGE, BALANCE, SLICE
from labs.lab_04b.exercises_deep import GOODPUT, NOISE, SAM_STEP

EXERCISES = (AVERAGE, BALANCE, SLICE, NOISE, GOODPUT, SAM_STEP)
