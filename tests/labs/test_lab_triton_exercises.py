"""The Triton primer: what is special about its exercises' checks."""

import pytest

import kernels
from kernels.language import jit, tl
from labs.lab_triton.exercises import EXERCISES
from labsupport.exercise import run_checks

pytestmark = pytest.mark.skipif(not kernels.INTERPRETED, reason="runs interpreted")


@jit
def add_in_other_words(x_ptr, y_ptr, out_ptr, N, BLOCK: tl.constexpr):
    first = BLOCK * tl.program_id(0)
    mine = first + tl.arange(0, BLOCK)
    a = tl.load(x_ptr + mine)
    b = tl.load(y_ptr + mine)
    tl.store(out_ptr + mine, b + a)


def test_a_mistake_is_named_however_it_is_written():
    assert run_checks(EXERCISES[0], add_in_other_words).wrong == "missing mask"
