"""Lab 01: what is special about its exercises' checks."""

import pytest
import torch

from labs.lab_01.exercises_core import SINKHORN
from labs.lab_01.exercises_deep import FIRST_BIAS, first_bias
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
    assert "overflow" in verdict.message
    assert "open hint 3" in verdict.message


def test_the_largest_logit_of_a_whole_matrix_may_be_subtracted():
    """That scales all columns alike, which the first division undoes."""

    def of_a_matrix(logits_nnM, iterations=20):
        res_nnM = torch.exp(logits_nnM - logits_nnM.amax((0, 1), keepdim=True))
        for _ in range(iterations):
            res_nnM = res_nnM / res_nnM.sum(dim=0, keepdim=True)
            res_nnM = res_nnM / res_nnM.sum(dim=1, keepdim=True)
        return res_nnM

    assert run_checks(SINKHORN, of_a_matrix).passed


def test_division_in_place_is_named_and_so_is_a_lost_gradient():
    def in_place(logits_nnM, iterations=20):
        res_nnM = torch.exp(logits_nnM - logits_nnM.amax(0, keepdim=True))
        for _ in range(iterations):
            res_nnM /= res_nnM.sum(dim=0, keepdim=True)
            res_nnM /= res_nnM.sum(dim=1, keepdim=True)
        return res_nnM

    verdict = run_checks(SINKHORN, in_place)
    assert verdict.step == "gradient"
    assert "`x = x / y` for `x /= y`" in verdict.message

    lost = run_checks(SINKHORN, lambda x, t=20: SINKHORN.ours(x.detach(), t))
    assert lost.step == "gradient"
    assert "without .detach()" in lost.message


@pytest.mark.parametrize(
    ("part", "step", "hint"),
    [(slice(0, 4), "reads", 2), (slice(4, 8), "writes", 1), (slice(8, 24), "keeps", 3)],
)
def test_biases_that_are_wrong_in_a_new_way_get_the_hint_of_their_check(
    part, step, hint
):
    def candidate(n, main):
        bias_P = first_bias(n, main)
        bias_P[part] = torch.linspace(0.3, 0.4, len(bias_P[part]))
        return bias_P

    verdict = run_checks(FIRST_BIAS, candidate)
    assert (verdict.step, verdict.wrong) == (step, "")
    assert "Likely cause" in verdict.message
    assert f"open hint {hint} of" in verdict.message


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
