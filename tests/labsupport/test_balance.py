"""Batches for unequal workers: by hand, by trying everything, and as things change."""

import itertools
import random

import pytest

from labsupport.distributed.balance import (
    CostFit,
    StepCost,
    balanced_batches,
    balanced_time,
    equal_batches,
    gradient_weight,
)
from labsupport.errors import LabError


def longest(costs, batches):
    return max(cost.time(b) for cost, b in zip(costs, batches, strict=True))


def test_the_closed_form_by_hand():
    """One of two workers takes three times as long: 3 to 1, and 3/4 of a half."""
    costs = [StepCost(0, 1), StepCost(0, 3)]
    assert balanced_time(costs, 16) == 12
    assert balanced_batches(costs, 16) == [12, 4]
    # Fixed times: T = (11 + 2/1 + 4/2) / (1 + 1/2) = 10, and 2 + 8 = 4 + 2 * 3.
    costs = [StepCost(2, 1), StepCost(4, 2)]
    assert balanced_time(costs, 11) == pytest.approx(10)
    assert balanced_batches(costs, 11) == [8, 3]


def test_no_other_division_is_shorter():
    generator = random.Random(0)
    for _ in range(200):
        workers = generator.randint(1, 4)
        samples = generator.randint(workers, 14)
        costs = [
            StepCost(generator.choice([0, 1, 5, 30]), generator.choice([0.5, 1, 4]))
            for _ in range(workers)
        ]
        every = [
            b
            for b in itertools.product(range(1, samples + 1), repeat=workers)
            if sum(b) == samples
        ]
        best = min(longest(costs, b) for b in every)
        batches = balanced_batches(costs, samples)
        assert batches in [list(b) for b in every]
        assert longest(costs, batches) == pytest.approx(best)
        assert balanced_time(costs, samples) <= best + 1e-9


def test_a_worker_that_starts_too_late_gets_one_sample():
    costs = [StepCost(0, 1), StepCost(0, 1), StepCost(100, 1)]
    assert balanced_batches(costs, 9) == [4, 4, 1]
    assert balanced_time(costs, 9) == 101


def test_equal_batches():
    assert equal_batches(4, 10) == [3, 3, 2, 2]
    assert equal_batches(1, 7) == [7]


def test_weights_make_the_mean_over_samples():
    """Workers with 1 and 3 samples: (2 * 1/4 * x + 2 * 3/4 * y) / 2."""
    assert [gradient_weight(b, 4, 2) for b in (1, 3)] == [0.5, 1.5]
    assert gradient_weight(5, 20, 4) == 1
    batches = [3, 1, 12]
    assert sum(gradient_weight(b, 16, 3) for b in batches) == pytest.approx(3)


def test_a_fit_finds_the_line():
    fit = CostFit()
    for batch in (4, 8, 6):
        fit.add(batch, 0.5 + 0.25 * batch)
    assert fit.cost.fixed == pytest.approx(0.5)
    assert fit.cost.per_sample == pytest.approx(0.25)


def test_one_batch_size_gives_no_line_but_a_rate():
    fit = CostFit()
    fit.add(8, 4.0)
    assert fit.cost == StepCost(0, 0.5)
    # A fixed time found earlier is kept while batches stay the same.
    fit = CostFit(window=2)
    for batch, seconds in ((4, 3.0), (8, 5.0), (8, 5.0), (8, 5.0)):
        fit.add(batch, seconds)
        fit.cost  # noqa: B018  (a fit is made at each step)
    assert fit.cost.fixed == pytest.approx(1.0)
    assert fit.cost.per_sample == pytest.approx(0.5)
    # Far faster than that fixed time: it cannot be true any more.
    for _ in range(2):
        fit.add(8, 0.8)
    assert fit.cost.fixed == 0
    assert fit.cost.per_sample == pytest.approx(0.1)


def test_noise_never_makes_a_time_negative():
    generator = random.Random(1)
    for _ in range(100):
        fit = CostFit()
        for _ in range(6):
            fit.add(generator.randint(1, 9), generator.uniform(0.1, 3))
            assert fit.cost.fixed >= 0 and fit.cost.per_sample > 0


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_balance_is_found_and_found_again_when_a_worker_speeds_up(noise):
    """Three workers, the last one 3 times slower until step 30."""
    generator = random.Random(2)

    def real(step):
        slow = 3.0 if step < 30 else 1.0
        return [StepCost(2, 1), StepCost(2, 1), StepCost(2, slow)]

    fits, batches, steps = [CostFit() for _ in range(3)], equal_batches(3, 60), []
    for step in range(60):
        costs = real(step)
        spent = [c.time(b) for c, b in zip(costs, batches, strict=True)]
        steps.append(max(spent))
        for fit, batch, t in zip(fits, batches, spent, strict=True):
            fit.add(batch, t * generator.uniform(1 - noise, 1 + noise))
        batches = balanced_batches([fit.cost for fit in fits], 60)
    slow, fast = (balanced_time(real(step), 60) for step in (0, 59))
    assert steps[0] == 62
    assert max(steps[5:30]) < 1.12 * slow
    assert max(steps[40:]) < 1.12 * fast


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: balanced_batches([], 4), "0 workers: use at least 1"),
        (lambda: balanced_batches([StepCost(0, 1)] * 3, 2), "2 samples for 3 workers"),
        (lambda: equal_batches(3, 2), "2 samples for 3 workers"),
        (lambda: StepCost(-1, 1), "fixed=-1: use a time of at least 0"),
        (lambda: StepCost(0, 0), "per_sample=0: use a time above 0"),
        (lambda: StepCost(0, float("nan")), "per_sample=nan: use a time above 0"),
        (lambda: CostFit(window=1), "window=1: a line needs at least 2 steps"),
        (lambda: CostFit().cost, "No step to fit yet"),
        (lambda: CostFit().add(0, 1.0), "A step of 0 samples in 1.0 s"),
        (lambda: CostFit().add(2, float("inf")), "A step of 2 samples in inf s"),
        (lambda: gradient_weight(5, 4, 2), "A batch of 5 among 4 samples: use 0 to 4"),
        (lambda: gradient_weight(0, 0, 2), "at least 1 sample in all"),
        (lambda: gradient_weight(1, 4, 0), "0 workers: use at least 1"),
    ],
)
def test_bad_input_gets_a_sentence(wrong, sentence):
    with pytest.raises(LabError, match=sentence):
        wrong()
