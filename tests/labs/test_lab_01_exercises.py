"""Lab 01: what is special about its exercises' checks."""

import torch

from labs.lab_01.exercises_core import SINKHORN
from labsupport.exercise import run_checks


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
