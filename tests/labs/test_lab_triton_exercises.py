"""The Triton primer: stub, solution and every known wrong kernel."""

import pytest

import kernels
from kernels.language import jit, tl
from labs.lab_triton.exercises import EXERCISES
from labsupport.exercise import run_checks

pytestmark = pytest.mark.skipif(not kernels.INTERPRETED, reason="runs interpreted")

CASES = [(exercise, wrong) for exercise in EXERCISES for wrong in exercise.wrong]


@jit
def stub_kernel(x_ptr, out_ptr, N, BLOCK: tl.constexpr):
    raise NotImplementedError


def stub(*arguments):
    raise NotImplementedError


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.id)
def test_stub_and_solution(exercise):
    empty = stub_kernel if exercise.launch else stub
    assert run_checks(exercise, empty).state == "unsolved"
    verdict = run_checks(exercise, exercise.ours)
    assert verdict.passed, verdict.message


@pytest.mark.parametrize(
    ("exercise", "wrong"), CASES, ids=[f"{e.id}-{w.name}" for e, w in CASES]
)
def test_a_known_mistake_is_named(exercise, wrong):
    verdict = run_checks(exercise, wrong.function)
    assert verdict.state == "failed"
    assert verdict.wrong == wrong.name, verdict.message
    assert wrong.cause in verdict.message
    assert f"open hint {wrong.hint} of {len(exercise.hints)}" in verdict.message


@jit
def add_in_other_words(x_ptr, y_ptr, out_ptr, N, BLOCK: tl.constexpr):
    first = BLOCK * tl.program_id(0)
    mine = first + tl.arange(0, BLOCK)
    a = tl.load(x_ptr + mine)
    b = tl.load(y_ptr + mine)
    tl.store(out_ptr + mine, b + a)


def test_a_mistake_is_named_however_it_is_written():
    assert run_checks(EXERCISES[0], add_in_other_words).wrong == "missing mask"


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.id)
def test_every_exercise_knows_at_least_three_mistakes(exercise):
    assert len(exercise.wrong) >= 3
