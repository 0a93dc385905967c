"""Lab 04b's training over unequal ranks: the same training, other batches."""

import pytest

from labs.lab_04b import balance_runs
from labs.lab_04b.exercises_core import average_gradient
from labs.lab_04b.pictures import recovery_view, step_ms, timeline_view
from labs.lab_04b.plan import RANK_PLANS, SLOW
from labs.lab_04b.workers import Course, train_unequal
from labsupport.distributed.balance import StepCost, balanced_time
from labsupport.errors import LabError
from labsupport.exercise.practice import on_ranks


def courses(ranks=2, **options):
    """On practice ranks: one thread computes at a time, so times are of its work."""
    options = {"repeats": [1] * ranks, "steps": 6} | options
    return on_ranks(
        lambda seed, dist: train_unequal(dist, "ci", seed, **options), [0] * ranks
    )


@pytest.fixture(scope="module")
def alone():
    return courses(1, policy="equal")[0]


def by_rank(batches):
    return lambda a_W, c_W, B: batches


@pytest.mark.parametrize("batches", [[1, 23], [20, 4], [5, 6, 13]])
def test_any_batches_train_as_one_process(batches, alone):
    every = courses(len(batches), balance=by_rank(batches))
    assert [course.batch[-1] for course in every] == batches
    for course in every:
        assert course.loss == pytest.approx(alone.loss, abs=1e-4)


def test_without_weights_it_is_another_training(alone):
    """What exercise 4.7 is for: the check above does fail."""

    def mean_over_ranks(gradient_P, b, dist):
        dist.all_reduce(gradient_P)
        return gradient_P / dist.get_world_size()

    every = courses(balance=by_rank([1, 23]), average=mean_over_ranks)
    assert every[0].loss != pytest.approx(alone.loss, abs=1e-4)


def test_computing_thrice_changes_no_gradient(alone):
    assert courses(repeats=[1, SLOW], policy="equal")[1].loss == pytest.approx(
        alone.loss, abs=1e-4
    )


def test_ranks_that_are_slow_by_turns_train_the_same_and_change_their_batches(alone):
    every = courses(repeats=[1, SLOW], steps=24, turn=12)
    first, second = (course.batch for course in every)
    assert first[11] > second[11]
    assert first[23] < second[23]
    same = courses(repeats=[1, SLOW], policy="equal", turn=3)
    assert same[0].loss == pytest.approx(alone.loss, abs=1e-4)


def test_all_ranks_come_to_the_same_batches():
    every = courses(3, repeats=[1, 1, SLOW], steps=10)
    for step in zip(*(course.batch for course in every), strict=True):
        assert sum(step) == RANK_PLANS["ci"].batch_size
        assert min(step) >= 1
    # Rank 2 really has more to do for each sample.
    assert every[2].batch[-1] < every[0].batch[-1]


def test_times_are_in_order_and_none_is_missing():
    for course in courses():
        for begin, ready, met, done in zip(
            course.begin, course.ready, course.met, course.done, strict=True
        ):
            assert begin < ready <= met < done
        assert len(course.batch) == len(course.loss) == 6
        assert len(course.fixed) == len(course.per_sample) == 5


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"repeats": [1]}, r"repeats=\[1\] for 2 ranks: use one whole number of at"),
        ({"repeats": [1, 0]}, "at least 1 for each"),
        ({"policy": "fair"}, "policy='fair': use 'equal' or 'balanced'"),
        ({"balance": by_rank([10, 10])}, r"Batches \[10, 10\]: use 2 whole numbers"),
        ({"balance": by_rank([24, 0])}, "of at least 1 whose sum is 24"),
        ({"balance": by_rank([1.5, 22.5])}, "use 2 whole numbers"),
    ],
)
def test_bad_input_gets_a_sentence(options, sentence):
    with pytest.raises(LabError, match=sentence):
        courses(**options)


def test_one_ranks_nan_ends_all_with_a_sentence():
    def broken(gradient_P, b, dist):
        if dist.get_rank() == 1:
            gradient_P = gradient_P * float("nan")
        return average_gradient(gradient_P, b, dist)

    with pytest.raises(LabError, match="Step 1: the mean gradient is no finite numb"):
        courses(average=broken)


# --- what is read off a course ----------------------------------------------


def made_up(batch, computes, waits):
    """Four steps of 10 s, of which the last second is the update."""
    begin = [10.0 * step for step in range(6)]
    ready = [b + computes for b in begin]
    met = [r + waits for r in ready]
    done = [m + 1.0 for m in met]
    return Course([batch] * 6, begin, ready, met, done, [0.0] * 6)


def test_idle_and_step_time_by_hand():
    """One works for 3 of 9 s, the other for all of them."""
    every = [made_up(4, 3.0, 6.0), made_up(4, 9.0, 0.0)]
    assert balance_runs.idle_share(every) == pytest.approx(1 / 3)
    assert balance_runs.step_ms(every) == pytest.approx(10_000)
    assert step_ms([vars(course) for course in every], 2) == pytest.approx(10_000)
    costs = balance_runs.measured_costs(every)
    assert costs == [StepCost(0, 0.75), StepCost(0, 2.25)]
    # Of 8 samples: 8 / (1 / 0.75 + 1 / 2.25) s.
    assert balanced_time(costs, 8) == pytest.approx(4.5)


def test_the_timeline_says_who_waits():
    every = [vars(made_up(4, 3.0, 6.0)), vars(made_up(4, 9.0, 0.0))]
    view = timeline_view(every, 2, 3, "Two steps")
    assert view.table["computes, ms"] == [6000, 18000]
    assert view.table["waits, ms"] == [12000, 0]
    assert "rank 0 computes 6000 ms and waits 12000 ms" in view.sentence
    computes, waits, _ = view.figure.data
    assert list(computes.base) == [0, 10000, 0, 10000]
    assert list(waits.base) == [3000, 13000, 9000, 19000]


def test_recovery_in_words():
    every = [vars(made_up(b, 3.0, 6.0)) for b in (18, 6)]
    view = recovery_view(every, every, until=4)
    assert "Batches were 18 and 6 when rank 1 became as fast as the others" in (
        view.sentence
    )
    assert view.table["ms, balanced"] == [10_000] * 5
    assert view.figure.layout.yaxis.title.text == "samples"
    assert view.figure.layout.yaxis2.title.text == "ms a step"


@pytest.mark.distributed
def test_real_ranks_are_what_the_record_is_made_of():
    row = balance_runs.balance_row("balanced", 0, "ci")
    alone = on_ranks(
        lambda seed, dist: train_unequal(dist, "ci", seed, repeats=[1]), [0]
    )[0]
    assert row["loss"] == pytest.approx(alone.loss[-1], abs=1e-3)
    assert sum(row["batches"]) == RANK_PLANS["ci"].batch_size
    assert 0 < row["idle"] < 1 and row["ms"] > row["bound_ms"] > 0
