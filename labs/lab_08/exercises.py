"""All exercises of lab 08, as `Lab` looks for them."""

from labs.lab_08.exercise_kernel import KERNEL
from labs.lab_08.exercises_core import ON_POLICY, REJECT, SOFT
from labs.lab_08.exercises_deep import MIXTURE

EXERCISES = (SOFT, REJECT, ON_POLICY, MIXTURE, KERNEL)
