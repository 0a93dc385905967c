"""Lab 00: what is special about its exercise's checks."""

import torch

from labs.lab_00.exercises import EXERCISES, rms_norm
from labsupport.exercise import run_checks

(RMS_NORM,) = EXERCISES


def test_a_forgotten_return_is_named():
    verdict = run_checks(RMS_NORM, lambda x, w, eps=0: None)
    assert verdict.state == "failed"
    assert "is a `return` missing?" in verdict.message


def test_solution_passes_whichever_way_it_is_written():
    def another(x_BTD, weight_D, eps=1e-6):
        root = ((x_BTD * x_BTD).sum(-1, True) / x_BTD.shape[-1] + eps).sqrt()
        return weight_D * (x_BTD / root)

    assert run_checks(RMS_NORM, rms_norm).passed
    assert run_checks(RMS_NORM, another).passed
    assert run_checks(RMS_NORM, torch_rms_norm).passed


def torch_rms_norm(x_BTD, weight_D, eps=1e-6):
    return torch.nn.functional.rms_norm(x_BTD, (x_BTD.shape[-1],), weight_D, eps)


def test_an_unknown_mistake_still_says_what_was_asked_and_what_came():
    verdict = run_checks(RMS_NORM, lambda x, w, eps=0: rms_norm(x, w) * 1.5)
    assert verdict.state == "failed"
    assert "Asked:" in verdict.message
    assert "Yours:" in verdict.message
    assert "Likely cause" not in verdict.message


def test_a_detached_output_fails_at_the_gradient():
    verdict = run_checks(RMS_NORM, lambda x, w, eps=1e-6: rms_norm(x, w, eps).detach())
    assert verdict.step == "gradients against the reference"


def test_changing_the_input_is_named():
    def in_place(x_BTD, weight_D, eps=1e-6):
        x_BTD *= torch.rsqrt(x_BTD.pow(2).mean(-1, True) + eps)
        return x_BTD * weight_D

    verdict = run_checks(RMS_NORM, in_place)
    assert (
        "Asked: x_BTD left as it is.\nYours: it was changed in place" in verdict.message
    )
    assert "Likely cause" not in verdict.message


def test_a_small_difference_is_shown_where_it_is_largest():
    verdict = run_checks(RMS_NORM, lambda x, w, eps=1e-6: rms_norm(x, w, eps) * 1.0001)
    assert "largest difference at [" in verdict.message


def test_a_wrong_signature_is_explained():
    verdict = run_checks(RMS_NORM, lambda x: x)
    assert "raised TypeError" in verdict.message


def test_every_hint_is_reached_by_some_mistake():
    assert {wrong.hint for wrong in RMS_NORM.wrong} == {1, 2, 3}
