"""Goodput by hand, and at its limits."""

import math

import pytest

from labsupport.distributed.goodput import StepModel, efficiency, goodput
from labsupport.errors import LabError


def test_step_time_by_hand():
    one = StepModel(fixed=1, per_sample=0.5, exchange=4)
    assert one.time(4, 1) == 3  # one worker exchanges nothing
    assert one.time(8, 2) == 3 + 4
    two = StepModel(fixed=1, per_sample=0.5, exchange=4, gamma=2)
    assert two.time(8, 2) == pytest.approx(5)  # 3, 4, 5
    ten = StepModel(fixed=1, per_sample=0.5, exchange=4, gamma=10)
    assert 4 < ten.time(8, 2) < 4.03
    more = StepModel(fixed=1, per_sample=0.5, exchange=4, per_worker=2)
    assert more.time(16, 4) == 3 + 4 + 2 * 2


def test_efficiency_by_hand():
    assert efficiency(8, 24, 8) == 1
    assert efficiency(40, 24, 8) == 0.5
    assert efficiency(1e9, 24, 8) < 1e-6
    assert efficiency(64, math.inf, 8) == 1
    assert efficiency(16, 0, 8) == 0.5  # without noise a second sample is worth nothing


def test_goodput_is_their_product():
    model = StepModel(fixed=1, per_sample=0.5, exchange=4)
    assert goodput(model, 8, 2, 24, 8) == pytest.approx(8 / 7)
    assert goodput(model, 40, 2, 24, 8) == pytest.approx(40 / 15 * 0.5)


def test_more_noise_wants_a_larger_batch():
    model = StepModel(fixed=0.01, per_sample=0.001, exchange=0.05)
    best = [
        max(range(8, 513, 8), key=lambda B: goodput(model, B, 4, phi, 8))
        for phi in (1, 10, 100, 1000)
    ]
    assert best == sorted(best) and best[0] < best[-1]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: StepModel(-1, 1, 1), "fixed=-1: use a time of at least 0"),
        (lambda: StepModel(0, 0, 1), "per_sample=0: use a time above 0"),
        (lambda: StepModel(0, 1, math.nan), "exchange=nan: use a time of at least 0"),
        (lambda: StepModel(0, 1, 1, gamma=0.5), "gamma=0.5: use 1 to 10"),
        (lambda: StepModel(0, 1, 1).time(3, 4), "3 samples for 4 workers"),
        (lambda: StepModel(0, 1, 1).time(3, 0), "at least 1 worker"),
        (lambda: efficiency(0, 1, 1), "Batches of 0 and 1: use at least 1"),
        (lambda: efficiency(1, -1, 1), "noise_scale=-1: use at least 0"),
    ],
)
def test_bad_input_gets_a_sentence(wrong, sentence):
    with pytest.raises(LabError, match=sentence):
        wrong()
