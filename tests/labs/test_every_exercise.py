"""Every exercise of every lab: stub, solution and each known wrong answer.

What is special about one exercise is tested in the file of its lab.
"""

import importlib

import pytest

import kernels
from kernels.language import jit
from labsupport.exercise import run_checks
from labsupport.paths import LABS

EXERCISES = [
    exercise
    for file in sorted(LABS.glob("lab_*/exercises.py"))
    for exercise in importlib.import_module(
        f"labs.{file.parent.name}.exercises"
    ).EXERCISES
    if kernels.INTERPRETED or exercise.launch is None
]
MISTAKES = [(exercise, wrong) for exercise in EXERCISES for wrong in exercise.wrong]
every_exercise = pytest.mark.parametrize(
    "exercise", EXERCISES, ids=lambda each: each.id
)


def stub(*arguments):
    raise NotImplementedError


@jit
def stub_kernel():
    raise NotImplementedError


def test_labs_have_exercises():
    assert {exercise.id[0] for exercise in EXERCISES} >= {"0", "1", "P", "T"}


@every_exercise
def test_stub_and_solution(exercise):
    empty = stub if exercise.launch is None else stub_kernel
    assert run_checks(exercise, empty).state == "unsolved"
    verdict = run_checks(exercise, exercise.ours)
    assert verdict.passed, verdict.message


@pytest.mark.parametrize(
    ("exercise", "wrong"), MISTAKES, ids=[f"{e.id}-{w.name}" for e, w in MISTAKES]
)
def test_a_known_mistake_is_named(exercise, wrong):
    verdict = run_checks(exercise, wrong.function)
    assert verdict.state == "failed"
    assert verdict.wrong == wrong.name, verdict.message
    assert wrong.cause in verdict.message
    assert f"open hint {wrong.hint} of {len(exercise.hints)}" in verdict.message


@every_exercise
def test_it_knows_at_least_three_mistakes(exercise):
    assert len(exercise.wrong) >= 3
