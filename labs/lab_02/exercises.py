"""All exercises of lab 02, as `Lab` looks for them."""

from labs.lab_02.exercises_core import DISPATCH, GATE, UPDATE
from labs.lab_02.exercises_deep import LIMIT, QUANTILE
from labs.lab_02.exercises_kernel import COUNT

EXERCISES = (GATE, UPDATE, DISPATCH, LIMIT, QUANTILE, COUNT)
