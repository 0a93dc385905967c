"""What lab 04a trains with: AdaSum, late gradients, cosines, the reader's feedback."""

from types import SimpleNamespace

import pytest
import torch

from labs.lab_04a import experiments
from labs.lab_04a.adasum import adasum, tournament
from labs.lab_04a.experiments import Alone, judged, until_target
from labs.lab_04a.live import OwnFeedback, forget
from labs.lab_04a.methods import ARMS, arm_of
from labs.lab_04a.plan import GPT_PLANS
from labs.lab_04a.redundancy import WatchedFusion, mean_cosine
from labs.lab_04a.stale import Delayed
from labsupport.distributed.fusion import TopKFusion
from labsupport.errors import LabError
from labsupport.exercise.practice import on_ranks

A, B = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])


def test_adasum_adds_what_is_orthogonal_and_averages_what_agrees():
    assert adasum(A, B).tolist() == [3, 4]
    assert torch.allclose(adasum(A, A), A)
    # (1 - 6/18) 3 + (1 - 6/8) 2 along the first axis.
    assert torch.allclose(adasum(A, torch.tensor([2.0, 0.0])), torch.tensor([2.5, 0]))
    assert adasum(A, torch.zeros(2)).tolist() == [3, 0]


def test_three_workers_play_two_rounds():
    c = torch.tensor([0.0, 4.0])
    assert torch.allclose(tournament([A, B, c]), adasum(adasum(A, B), c))
    assert tournament([A]) is A


@pytest.mark.parametrize(
    "pair, cosine", [((A, A), 1.0), ((A, -A), -1.0), ((A, torch.tensor([0.0, 3])), 0.0)]
)
def test_the_mean_cosine_of_two_workers(pair, cosine):
    squares = sum(float(g.square().sum()) for g in pair) / 2
    mean = float(((pair[0] + pair[1]) / 2).square().sum())
    assert mean_cosine(squares, mean, 2) == pytest.approx(cosine)


@pytest.mark.parametrize("other, cosine", [(A, 1.0), (-A, -1.0), (B, 0.0)])
def test_cosines_are_taken_where_the_hook_passes(other, cosine):
    """Of the buffer that DDP hands over, before and after it is averaged."""

    def watched(own, dist):
        def all_reduce(x, group):
            dist.all_reduce(x)

        def get_world_size(group):
            return dist.get_world_size()

        grouped = SimpleNamespace(all_reduce=all_reduce, get_world_size=get_world_size)
        fusion = WatchedFusion(dist=grouped)
        fusion.know(torch.nn.Linear(2, 1, bias=False))
        fusion.fuse_bucket(own, {"weight": own.view(1, 2)})
        fusion.end_step()
        return fusion.cosines

    # Equally long, as halves of a batch are.
    pair = [A.clone(), other / other.norm() * A.norm()]
    assert on_ranks(watched, pair) == [pytest.approx([cosine])] * 2


def test_no_gradients_have_no_cosine():
    assert mean_cosine(0.0, 0.0, 4) == 0.0


@pytest.mark.parametrize("delay", [0, 1, 3])
def test_a_gradient_comes_so_many_updates_late(delay):
    p, delayed, seen = torch.nn.Parameter(torch.zeros(1)), Delayed(delay), []
    for step in range(6):
        p.grad = torch.tensor([float(step)])
        if delayed.swap([p]):
            seen.append(float(p.grad))
    assert seen == [float(step) for step in range(6 - delay)]


def test_nothing_comes_early():
    with pytest.raises(LabError, match="delay=-1: use 0 or more updates"):
        Delayed(-1)


@pytest.mark.parametrize(
    "curve, steps",
    [
        ([3.0, 2.6, 2.4], 62.5),  # half way between the looks at 50 and at 75
        ([2.4, 2.3], 25.0),
        ([3.0, 2.6], None),
    ],
)
def test_steps_to_the_target(curve, steps):
    """The target is 2.5, and there is a look every 25 steps."""
    assert experiments.TARGET == 2.5
    assert until_target(curve, 25) == steps


def test_a_training_that_does_not_get_there_counts_with_all_its_steps():
    late = judged({"curve": [3.0, 2.9], "sent": 10.0}, "cpu")
    assert not late["reached"]
    assert late["steps_to_target"] == GPT_PLANS["cpu"].steps
    assert late["bytes_to_target"] == 10 * GPT_PLANS["cpu"].steps
    there = judged({"curve": [3.0, 2.0], "sent": 10.0}, "cpu")
    assert there["reached"] and there["bytes_to_target"] == 375


def test_every_arm_has_four_trials():
    assert {len(arm.trials) for arm in ARMS.values()} == {4}
    with pytest.raises(LabError, match="arm='best': choose one of ddp, bf16"):
        arm_of("best")


def test_arms_of_agf_begin_with_the_same_directions():
    found = set()
    for name in ("agf_uniform", "agf_signal", "agf_random", "power_sgd_4"):
        fusion = arm_of(name).make()
        fusion.dist = Alone()
        fusion.know(torch.nn.Linear(64, 64))
        found.add(fusion.directions("weight"))
    assert found == {4}


def feedback(g, e, compress):
    u = g + e
    sent = compress(u.clone())
    return sent, u - sent


def test_the_readers_feedback_is_top_k_with_feedback():
    model = torch.nn.Linear(30, 20)
    generator = torch.Generator().manual_seed(0)
    own = OwnFeedback(0.1, feedback, dist=Alone())
    ours = TopKFusion(0.1, torch.float32, dist=Alone())
    without = OwnFeedback(0.1, forget, dist=Alone())
    for fusion in (own, ours, without):
        fusion.know(model)
    for _ in range(3):
        gradient = torch.randn(20, 30, generator=generator)
        found = [gradient.clone() for _ in range(3)]
        for fusion, g in zip((own, ours, without), found, strict=True):
            fusion.fuse_named({"weight": g})
    assert torch.equal(found[0], found[1])
    assert (found[0] != 0).sum() == 60
    assert torch.allclose(own.residual("weight"), ours.residual("weight"))
    assert not without.residual("weight").any()
    # A step that cannot be used leaves the residual as it was.
    before = own.residual("weight").clone()
    spoilt = torch.full((20, 30), torch.inf)
    own.fuse_named({"weight": spoilt})
    assert spoilt.isnan().all() and torch.equal(own.residual("weight"), before)
    kept = found[2] != 0
    assert torch.equal(found[2][kept], gradient[kept])
