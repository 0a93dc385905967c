"""Lab 03's checks: where their truth comes from, and what they refuse and accept."""

import sys

import pytest
import torch

from kernels.fp8_scaling import (
    dequantise_reference,
    quantise_reference,
    round_up_to_power_of_two,
)
from labs.lab_03 import exercises_core as core
from labs.lab_03 import exercises_deep as deep
from labsupport.exercise import run_checks

OTHERWISE = [
    (core.DECODE, core.value_in_torch),
    (core.QUANTISE, core.by_the_kernels),
    (core.MATMUL, core.by_the_formula),
    (deep.GRADIENTS, deep.by_autograd),
    (deep.POWER, round_up_to_power_of_two),
    (deep.ENCODE, deep.right_code),
]
"""Exercises, and the same computed in another way."""


@pytest.mark.parametrize(("exercise", "other"), OTHERWISE, ids=lambda x: None)
def test_another_solution_passes_and_ours_is_not_asked(exercise, other):
    """A check that asked our solution would pass it whatever it does."""
    called = set()
    before = sys.getprofile()
    sys.setprofile(lambda frame, event, _: called.add(frame.f_code))
    try:
        verdict = run_checks(exercise, other)
    finally:
        sys.setprofile(before)
    assert verdict.passed, verdict.message
    assert other.__code__ in called
    assert exercise.ours.__code__ not in called


def test_the_formula_is_the_product_of_what_codes_stand_for():
    class Exact(core.NarrowDot):
        @staticmethod
        def coarse(sums):
            return sums

    T = 4
    q, s = quantise_reference(core.random(3, 8, seed=1), (1, T))
    w, t = quantise_reference(core.random(12, 8, seed=2), (T, T))
    x, v = dequantise_reference(q, s, (1, T)), dequantise_reference(w, t, (T, T))
    came = core.by_the_formula(q, s, w, t, T, Exact(T))
    wanted = x.double() @ v.double().t()  # s q was rounded to float32
    torch.testing.assert_close(came, wanted, rtol=1e-5, atol=1e-9)


def quantise_with_floor(x_MK, T, floor_of_scale=0.0, floor_of_amax=0.0):
    tiles = x_MK.reshape(len(x_MK), -1, T)
    amax = tiles.abs().amax(2).clamp(min=floor_of_amax)
    scale = (amax / 448).clamp(min=floor_of_scale)
    return core.cast(tiles / scale[:, :, None]).view(x_MK.shape), scale


@pytest.mark.parametrize(
    "floor",
    [
        {"floor_of_scale": 1e-8},
        {"floor_of_scale": 1e-12},
        {"floor_of_scale": 1e-30},
        {"floor_of_amax": 2.0**-126},
    ],
)
def test_a_floor_that_small_gradients_would_not_pass_is_refused(floor):
    verdict = run_checks(core.QUANTISE, lambda x, T: quantise_with_floor(x, T, **floor))
    assert verdict.state == "failed" and verdict.step == "tiny numbers"
    assert "the floor under the scale" in verdict.message
    assert "open hint 3 of 3" in verdict.message


def test_vectors_for_the_tensor_core_are_refused_in_words():
    def by_element(q, s, w, t, T, dot):
        return dot(q[0, :T], w[0, :T])

    verdict = run_checks(core.MATMUL, by_element)
    assert "two matrices in `dot`" in verdict.message


def test_our_product_stays_on_the_device_of_its_codes():
    q, w = (torch.zeros(4, 4, device="meta") for _ in range(2))
    s, t = torch.zeros(4, 2, device="meta"), torch.zeros(2, 2, device="meta")
    y = core.fp8_matmul(q, s, w, t, 2, lambda a, b: a @ b.t())
    assert y.device.type == "meta" and y.shape == (4, 4)
