"""Lab 04b's exercises: what no list of known mistakes says."""

import pytest
import torch

from labs.lab_04b import exercises_core as core
from labs.lab_04b import exercises_deep as deep
from labsupport.exercise import run_checks


def test_shortest_by_trying_all_divisions():
    """The check's own yardstick, held against brute force."""
    for a_W, c_W, B in (([0.0, 3.0], [1.0, 0.5], 7), ([0.0, 20.0], [1.0, 1.0], 5)):
        every = [
            max(a_W[0] + c_W[0] * b, a_W[1] + c_W[1] * (B - b)) for b in range(1, B)
        ]
        assert core.shortest(a_W, c_W, B) == pytest.approx(min(every))


def test_any_best_division_passes():
    """From the other end: start at 1 each, and give to whoever would end first."""

    def greedy(a_W, c_W, B):
        b_W = [1] * len(a_W)
        for _ in range(B - len(a_W)):
            ends = [a + c * (b + 1) for a, c, b in zip(a_W, c_W, b_W, strict=True)]
            b_W[ends.index(min(ends))] += 1
        return b_W

    assert run_checks(core.BALANCE, greedy).passed


@pytest.mark.parametrize(
    ("attempt", "words"),
    [
        (lambda a, c, B: torch.tensor([12, 4]), "Asked: a list of 2 numbers"),
        (lambda a, c, B: [12, 5], "whose sum is 17"),
        (lambda a, c, B: [16, 0], "at least 1 sample for every worker"),
        (lambda a, c, B: [12.0, 4.0], "whole numbers, of type int"),
    ],
)
def test_what_is_no_division(attempt, words):
    verdict = run_checks(core.BALANCE, attempt)
    assert verdict.state == "failed"
    assert words in verdict.message


def test_one_sample_too_many_for_a_worker_that_starts_late():
    def never_taken_back(a_W, c_W, B):
        T = (B + sum(a / c for a, c in zip(a_W, c_W, strict=True))) / sum(
            1 / c for c in c_W
        )
        b_W = [max(1, int((T - a) / c)) for a, c in zip(a_W, c_W, strict=True)]
        while sum(b_W) < B:
            ends = [a + c * (b + 1) for a, c, b in zip(a_W, c_W, b_W, strict=True)]
            b_W[ends.index(min(ends))] += 1
        return b_W

    verdict = run_checks(core.BALANCE, never_taken_back)
    assert verdict.step == "a worker that starts late"
    assert "then the others have too much" in verdict.message


def test_weights_that_moved():
    def in_place(loss, weights, raw, alphas):
        direction, found, at = core.filter_direction(weights, raw), [], 0.0
        for alpha in alphas:
            for w, d in zip(weights, direction, strict=True):
                w += (alpha - at) * d
            at = alpha
            found.append(loss(weights))
        return torch.stack(found)

    verdict = run_checks(core.SLICE, in_place)
    assert verdict.step == "weights stay"
    assert "change the tensors you were given" in verdict.message

    def raw_in_place(loss, weights, raw, alphas):
        for w, d in zip(weights, raw, strict=True):
            if w.ndim < 2:
                d.zero_()
            else:
                d /= d.norm(dim=1, keepdim=True).clamp(min=1e-12)
                d *= w.norm(dim=1, keepdim=True)
        return core.loss_slice(loss, weights, raw, alphas)

    assert run_checks(core.SLICE, raw_in_place).step == "weights stay"

    def sam_in_place(gradient, w_P, rho):
        g_P = gradient(w_P)
        w_P += rho * g_P / g_P.norm()
        return gradient(w_P)

    verdict = run_checks(deep.SAM_STEP, sam_in_place)
    assert "w_P left as it is" in verdict.message


def test_a_row_of_zeros():
    def unclamped(loss, weights, raw, alphas):
        direction = [
            torch.zeros_like(w)
            if w.ndim < 2
            else d / d.norm(dim=1, keepdim=True) * w.norm(dim=1, keepdim=True)
            for w, d in zip(weights, raw, strict=True)
        ]
        return torch.stack(
            [
                loss([w + a * d for w, d in zip(weights, direction, strict=True)])
                for a in alphas
            ]
        )

    verdict = run_checks(core.SLICE, unclamped)
    assert verdict.step == "a row of zeros"
    assert "clamp the length" in verdict.message


def test_a_tensor_of_one_number_is_a_number():
    def noise(*arguments):
        return torch.tensor(deep.noise_scale(*arguments))

    assert run_checks(deep.NOISE, noise).passed
    assert "a number" in run_checks(deep.NOISE, lambda *a: "three").message


def test_a_deadlock_is_named():
    def only_rank_0(gradient_P, b, dist):
        if dist.get_rank() == 0:
            dist.all_reduce(gradient_P)
        return gradient_P

    assert "deadlock" in run_checks(core.AVERAGE, only_rank_0).message
