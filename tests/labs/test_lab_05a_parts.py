"""Lab 05a's opening, its training on two axes, and the same on real ranks."""

import pytest
import torch

from labs.lab_05a import opening
from labs.lab_05a.exercises_core import swiglu_on_ranks, zero_step
from labs.lab_05a.layout_runs import row_cost
from labs.lab_05a.live import SwiGLUOnRanks, train_on_axes
from labs.lab_05a.opening import LIVE_PLANS, Budget, arrangement_bytes, budget_of
from labsupport.distributed.magic import torchrun
from labsupport.errors import LabError
from labsupport.exercise.practice import on_ranks
from labsupport.nn import GPTConfig
from labsupport.nn.gpt import SwiGLU

PLENTY = 10**12


@pytest.mark.parametrize(
    ("points", "fixed", "per_row"),
    [
        ([(1.0, 3.0), (4.0, 9.0)], 1.0, 2.0),
        ([(1.0, 9.0), (4.0, 8.0)], 0.0, 2.0),  # more rows, less time
        ([(1.0, 1.0), (4.0, 8.0)], 0.0, 2.0),  # the step itself less than none
    ],
)
def test_a_row_always_takes_time(points, fixed, per_row):
    cost = row_cost(points)
    assert (cost.fixed, cost.per_sample) == pytest.approx((fixed, per_row))


class Data:
    """An axis of so many ranks on which nothing is sent."""

    def __init__(self, ranks):
        self.get_rank, self.get_world_size = (lambda: 0), (lambda: ranks)

    def all_reduce(self, x):
        pass

    def reduce_scatter_single(self, out, x):
        out.copy_(x)

    all_gather_single = reduce_scatter_single


@pytest.mark.parametrize("scale", LIVE_PLANS)
def test_only_both_remedies_together_fit_at_every_scale(scale):
    config = LIVE_PLANS[scale].config
    sizes, limit = arrangement_bytes(config), budget_of(config)
    fits = [size <= limit for size in sizes.values()]
    assert fits == [False, False, False, True]
    answer, sentence = opening.fitting_answer(config)
    assert answer == opening.CHOICES[3]
    assert f"The budget is {opening.mb(limit)}." in sentence
    # Four ranks together have room for more than twice what is needed.
    assert 4 * limit > 2 * sizes["copies"]


def test_a_budget_says_what_does_not_fit():
    budget = Budget(100)
    budget.hold("weights", 40)
    budget.hold("gradients", 60)
    with pytest.raises(LabError) as refused:
        budget.hold("Adam's means", 80)
    assert str(refused.value) == (
        "No room for Adam's means, 8e-05 MB: the budget is 0.0001 MB, held are weights "
        "4e-05 MB and gradients 6e-05 MB, so 0 MB are free."
    )
    assert budget.held == {"weights": 40, "gradients": 60}


def test_data_parallelism_is_refused_on_every_rank_and_would_have_needed_all():
    def attempt(seed, dist):
        try:
            budget = Budget(budget_of(LIVE_PLANS["ci"].config))
            opening.data_parallel_step(dist, "ci", seed, budget)
        except LabError as refused:
            return str(refused)

    def with_room(seed, dist):
        budget = Budget(PLENTY)
        opening.data_parallel_step(dist, "ci", seed, budget)
        return budget.held

    words = on_ranks(attempt, [0, 0, 0, 0])
    assert len(set(words)) == 1
    assert words[0].startswith("No room for Adam's means, 0.148 MB: the")
    P = opening.total_weights(LIVE_PLANS["ci"].config)
    assert sum(on_ranks(with_room, [0, 0])[0].values()) == 16 * P


def one_process(seed, dist):
    return train_on_axes(dist, dist, "ci", seed, budget=Budget(PLENTY))


@pytest.fixture(scope="module")
def alone():
    return on_ranks(one_process, [0])[0]


def test_one_rank_holds_16_bytes_a_weight(alone):
    P = opening.total_weights(LIVE_PLANS["ci"].config)
    assert alone.weights == P
    assert sum(alone.held.values()) == 16 * P
    assert alone.loss[-1] < alone.loss[0]


@pytest.mark.parametrize("W", [2, 4])
def test_along_the_tensor_axis_alone(alone, W):
    def work(seed, dist):
        return train_on_axes(Data(1), dist, "ci", seed, budget=Budget(PLENTY))

    for course in on_ranks(work, [0] * W):
        assert course.loss == pytest.approx(alone.loss, abs=1e-4)
        assert course.held["weights"] < alone.held["weights"]


def test_a_share_of_a_layer_is_the_layer_cut():
    layer = SwiGLU(GPTConfig(d_model=4, n_heads=1, d_ff=6))
    x_BTD = torch.randn(2, 3, 4)

    def work(x_BTD, dist):
        share = SwiGLUOnRanks(layer, dist, swiglu_on_ranks)
        assert share.gate_DH.shape == (4, 3)
        assert share.down_HD.shape == (3, 4)
        return share(x_BTD).detach()

    for y_BTD in on_ranks(work, torch.stack([x_BTD, x_BTD])):
        torch.testing.assert_close(y_BTD, layer(x_BTD).detach())


@pytest.mark.parametrize(
    ("attempt", "sentence"),
    [
        (lambda s, dist: train_on_axes(dist, dist, "ci", s), "over 5 ranks: use a"),
        (lambda s, dist: train_on_axes(Data(3), Data(1), "ci", s), "shared by 3"),
        (lambda s, dist: train_on_axes(Data(1), Data(1), "ci", s), "No room for"),
    ],
)
def test_what_is_refused(attempt, sentence):
    with pytest.raises(LabError, match=sentence):
        on_ranks(attempt, [0] * 5)


BODY = """
import torch.distributed as dist

from labs.lab_05a.live import train_on_axes, two_axes
from labsupport.errors import LabError

dist.init_process_group(backend())
data, tensor = two_axes(dist, 2, 2)
course = train_on_axes(data, tensor, "ci", 0, swiglu=swiglu, step=step)
share("course", vars(course))
try:
    two_axes(dist, 3, 2)
except LabError as refused:
    share("refused", str(refused))
"""


@pytest.mark.distributed
def test_four_real_ranks_train_within_the_budget(alone, monkeypatch, tmp_path):
    monkeypatch.setenv("LABS_HOME", str(tmp_path))
    names = {"swiglu": swiglu_on_ranks, "step": zero_step}
    torchrun("--nproc 4 --name axes --push swiglu,step", BODY, names)
    for rank in range(4):
        course = names["axes"][rank].course
        assert course["loss"] == pytest.approx(alone.loss, abs=1e-4)
        assert sum(course["held"].values()) <= course["limit"]
        assert course["held"]["Adam's means"] == course["held"]["weights"]
        assert "3 x 2 for 4 ranks" in names["axes"][rank].refused
