"""Lab 01: stub, solution and every known wrong answer give the right message."""

import pytest
import torch

from labs.lab_01.exercises import EXERCISES
from labs.lab_01.exercises_core import SINKHORN
from labsupport.exercise import run_checks

ON_TENSORS = [exercise for exercise in EXERCISES if exercise.launch is None]
CASES = [(exercise, wrong) for exercise in ON_TENSORS for wrong in exercise.wrong]


def stub(*arguments):
    raise NotImplementedError


@pytest.mark.parametrize("exercise", ON_TENSORS, ids=lambda exercise: exercise.id)
def test_stub_and_solution(exercise):
    assert run_checks(exercise, stub).state == "unsolved"
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


@pytest.mark.parametrize("exercise", ON_TENSORS, ids=lambda exercise: exercise.id)
def test_every_exercise_knows_at_least_three_mistakes(exercise):
    assert len(exercise.wrong) >= 3


def test_an_overflow_is_found_where_nothing_else_is_wrong():
    def without_shift(logits_nnM, iterations=20):
        res_nnM = logits_nnM.exp()
        for _ in range(iterations):
            res_nnM = res_nnM / res_nnM.sum(dim=0, keepdim=True)
            res_nnM = res_nnM / res_nnM.sum(dim=1, keepdim=True)
        return res_nnM

    verdict = run_checks(SINKHORN, without_shift)
    assert verdict.step == "large logits"


def test_one_softmax_and_then_sinkhorn_is_a_solution_too():
    """softmax over a column is exp and the first normalisation in one."""

    def with_softmax(logits_nnM, iterations=20):
        res_nnM = torch.softmax(logits_nnM, dim=0)
        res_nnM = res_nnM / res_nnM.sum(dim=1, keepdim=True)
        for _ in range(iterations - 1):
            res_nnM = res_nnM / res_nnM.sum(dim=0, keepdim=True)
            res_nnM = res_nnM / res_nnM.sum(dim=1, keepdim=True)
        return res_nnM

    assert run_checks(SINKHORN, with_softmax).passed
