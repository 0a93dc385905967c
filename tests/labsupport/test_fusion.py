"""Gradient fusion holds what it promises, on 2 and on 4 gloo ranks."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from labsupport.distributed.fusion import (
    BudgetController,
    DiLoCo,
    LowRankFusion,
    RandomFusion,
    ThresholdFusion,
    TopKFusion,
)
from labsupport.distributed.fusion.budget import (
    Demand,
    allocate_at_random,
    allocate_by_signal,
)
from labsupport.distributed.fusion.hook import start_thread
from labsupport.distributed.fusion.low_rank import judge_directions, most_directions
from labsupport.distributed.fusion.message import all_finite
from labsupport.errors import LabError
from labsupport.train.noise_scale import two_batch_estimate

ROOT = Path(__file__).parents[2]
WORLDS = (2, 4)
METHODS = (
    "dense",
    "dense_bf16",
    "low_rank",
    "low_rank_bf16",
    "power_sgd",
    "signal",
    "random_r",
    "top_k",
    "top_k_fp32",
    "threshold",
    "random",
)
COUNTED = ("dense_bf16", "low_rank_bf16", "signal", "top_k", "threshold", "random")
EXACT = ("dense", "low_rank", "power_sgd", "top_k_fp32")
pytestmark = pytest.mark.distributed


@pytest.fixture(scope="session")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """What every rank found out, by the number of ranks."""
    folder = tmp_path_factory.mktemp("fusion")
    script = ROOT / "tests" / "labsupport" / "fusion_ranks.py"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(script), str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    return {
        W: [torch.load(folder / f"{W}-{rank}.pt") for rank in range(W)] for W in WORLDS
    }


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def apart(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The largest difference, relative to the largest number of that parameter."""
    assert a.keys() == b.keys()
    return max(
        float((a[n] - b[n]).abs().max() / b[n].abs().max().clamp(min=1e-12)) for n in b
    )


@pytest.mark.parametrize("W", WORLDS)
@pytest.mark.parametrize("method", METHODS)
def test_all_ranks_have_the_same_bits(found, W, method):
    first, *others = [rank["fused"][method] for rank in found[W]]
    for other in others:
        assert all(equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("W", WORLDS)
def test_dense_is_ddp(found, W):
    for rank in found[W]:
        for ours, theirs in zip(rank["fused"]["dense"], rank["ddp"], strict=True):
            assert apart(ours, theirs) < 1e-6


@pytest.mark.parametrize("W", WORLDS)
def test_all_directions_in_float32_are_ddp(found, W):
    for rank in found[W]:
        for ours, theirs in zip(rank["full_rank"], rank["ddp"], strict=True):
            assert apart(ours, theirs) < 1e-6
        few = rank["fused"]["low_rank"][0]
        assert apart(few, rank["ddp"][0]) > 0.1  # the comparison can fail


@pytest.mark.parametrize("W", WORLDS)
@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_lost(found, W, method):
    """The mean of u is what was fused plus the mean of the new residuals."""
    for step in range(4):
        rows = [rank["conservation"][method][step] for rank in found[W]]
        for name in rows[0]:
            u, fused, residual = torch.stack([row[name] for row in rows]).mean(0)
            gap = (u - fused - residual).abs().max()
            # In bfloat16 each of W sums on the way is rounded, too: to 8 bits.
            largest = float(u.abs().max())
            allowed = 1e-6 if method in EXACT else W * 2**-8 * largest
            assert gap <= allowed + 1e-7, (name, step)


@pytest.mark.parametrize("W", WORLDS)
def test_residuals_hold_what_was_not_sent(found, W):
    """So that the test above is about something."""
    last = found[W][0]["conservation"]
    for method in ("low_rank", "top_k", "threshold", "random"):
        _, fused, residual = last[method][-1]["first.weight"]
        assert residual.norm() > 0.3 * fused.norm()
    assert not last["dense"][-1]["first.weight"][2].any()


@pytest.mark.parametrize("W", WORLDS)
@pytest.mark.parametrize("method", ["dense", "full_rank"])
def test_unequal_batches_are_one_process(found, W, method):
    for rank in found[W]:
        ours = {n: g for n, g in rank["unequal"][method].items() if "idle" not in n}
        assert apart(ours, rank["unequal"]["one"]) < 1e-6


@pytest.mark.parametrize("W", WORLDS)
@pytest.mark.parametrize("method", COUNTED)
def test_bytes_by_formula_by_collective_and_through_sockets(found, W, method):
    ranks = [rank["traffic"][method] for rank in found[W]]
    formula, counted, sent = (sum(column) / W for column in zip(*ranks, strict=True))
    if method == "threshold":  # ranks send unequally, and the longest decides
        assert formula <= counted
    else:
        assert formula == pytest.approx(counted, rel=0.02)
    assert sent == pytest.approx(counted, rel=0.02)


@pytest.mark.parametrize("W", WORLDS)
def test_buckets_do_not_matter(found, W):
    for rank in found[W]:
        one, many = rank["buckets"]["one"], rank["buckets"]["many"]
        for a, b in zip(one, many, strict=True):
            assert apart(a, b) < 1e-4


@pytest.mark.parametrize("W", WORLDS)
@pytest.mark.parametrize("method", ["low_rank_bf16", "signal", "top_k", "random"])
def test_a_checkpoint_goes_on_to_the_same_bits(found, W, method):
    for rank in found[W]:
        runs = rank["resumed"][method]
        for a, b in zip(runs["straight"], runs["rest"], strict=True):
            assert equal(a, b)


@pytest.mark.parametrize("W", WORLDS)
@pytest.mark.parametrize("method", METHODS)
def test_nan_on_one_rank_is_nan_on_all_and_spoils_no_residual(found, W, method):
    for rank in found[W]:
        nan = rank["not_finite"][method]["nan"]
        assert nan["first.weight"] and nan["experts"]
        assert rank["not_finite"][method]["same"]


@pytest.mark.parametrize("W", WORLDS)
def test_after_nan_it_goes_on(found, W):
    assert all(rank["after_nan"] for rank in found[W])


@pytest.mark.parametrize("W", WORLDS)
def test_in_float32_it_is_torchs_powersgd(found, W):
    for rank in found[W]:
        ours, theirs = rank["torch"]["ours"], rank["torch"]["theirs"]
        for a, b in zip(ours, theirs, strict=True):
            assert apart(a, b) < 1e-3


@pytest.mark.parametrize("W", WORLDS)
def test_wrong_use_is_refused_in_a_sentence(found, W):
    for rank in found[W]:
        said = rank["refused"]
        assert said["not_ddp"] == (
            "attach() takes a DistributedDataParallel; got a Small: wrap it first."
        )
        assert said["sparse"] == (
            "0 has sparse gradients, which cannot be fused: make it with sparse=False."
        )
        sentence = (
            "a parameter of shape (24, 12) was not in the model when the hook was "
            "attached: wrap the changed model in a new DistributedDataParallel and "
            "attach a new hook."
        )
        assert said["changed"] == sentence
        assert "was not in the model when the hook was attached" in said["in_backward"]


@pytest.mark.parametrize("W", WORLDS)
def test_local_sgd_meets_in_the_mean(found, W):
    runs = [rank["local"]["local"] for rank in found[W]]
    assert runs[0]["met"] == [False, False, True, False, False, True]
    for step in (2, 5):
        before, after = torch.stack([run["weights"][step] for run in runs]).unbind(1)
        assert torch.allclose(after[0], before.mean(0), atol=1e-6)
        assert all(torch.equal(after[0], other) for other in after)
    assert not torch.equal(runs[0]["weights"][1][1], runs[1]["weights"][1][1])


@pytest.mark.parametrize("W", WORLDS)
def test_diloco_is_sgd_with_nesterov_on_differences(found, W):
    """torch's own SGD follows the workers' mean difference to the same weights."""
    runs = [rank["local"]["diloco"] for rank in found[W]]
    torch.manual_seed(0)
    theta = torch.nn.Parameter(torch.nn.Linear(12, 24).weight.detach().clone())
    outer = torch.optim.SGD([theta], lr=0.5, momentum=0.9, nesterov=True)
    for step in (2, 5):
        before, after = torch.stack([run["weights"][step] for run in runs]).unbind(1)
        theta.grad = theta.detach() - before.mean(0)
        outer.step()
        assert torch.allclose(after[0], theta, atol=1e-6)


@pytest.mark.parametrize("W", WORLDS)
def test_the_shared_direction_is_the_coherent_one(found, W):
    """A rank-one part, the same for all workers, in noise of 24 x 16 numbers."""
    for rank in found[W]:
        shared, noise = rank["statistics"]["coherence"].tolist()
        assert 1 > shared > noise > 1 / W


def test_signal_is_the_energy_that_workers_share():
    """R_ij = s_j + noise, 4 workers, 20 000 draws of 16 numbers: |s|^2 = 9 and 0."""
    generator = torch.Generator().manual_seed(0)
    shared_Nr = torch.zeros(16, 2)
    shared_Nr[3, 0] = 3.0
    noise = torch.randn(20_000, 4, 16, 2, generator=generator)
    r_SWNr = shared_Nr + noise
    energy_Sr = r_SWNr.square().sum(2).mean(1)
    sigma2_Sr = r_SWNr.mean(1).square().sum(1)
    signal_Sr, coherence_Sr = judge_directions(sigma2_Sr, energy_Sr, W=4)
    assert signal_Sr.mean(0).tolist() == pytest.approx([9, 0], abs=0.1)
    # Noise alone: energies of 4 in the mean and of 16 in each worker.
    assert coherence_Sr[:, 1].mean().item() == pytest.approx(1 / 4, abs=0.01)


def test_workers_that_send_the_same_are_redundant(found):
    for W in WORLDS:
        for rank in found[W]:
            assert rank["statistics"]["all_the_same"] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("W", WORLDS)
def test_before_start_everything_is_sent(found, W):
    for rank in found[W]:
        for step in (0, 1):
            assert apart(rank["start"][step], rank["ddp"][step]) < 1e-6
        assert apart(rank["start"][2], rank["ddp"][2]) > 0.1


def test_without_feedback_nothing_is_kept(found):
    assert all(rank["no_feedback"]["memory"] == 0 for rank in found[2])


@pytest.mark.parametrize("W", WORLDS)
@pytest.mark.parametrize("allocation", ["signal", "random_r"])
def test_directions_move_within_the_budget(found, W, allocation):
    ranks = [rank["ranks"][allocation] for rank in found[W]]
    assert all(rank["r"] == ranks[0]["r"] for rank in ranks)
    assert len(set(ranks[0]["r"].values()) - {0}) > 1
    before, after = ranks[0]["bytes"]
    assert 0.95 * before <= after <= before * 1.001


@pytest.mark.parametrize("W", WORLDS)
def test_residuals_do_not_grow_without_bound(found, W):
    """What workers differ in is sent, too, and does not add up for ever; PowerSGD's
    residual grows as a random walk: from step 30 to step 110 by a factor near 2."""
    for rank in found[W]:
        assert rank["drift"]["own"] < 1.2
        assert rank["drift"]["fused"] > 1.5


# --- without ranks -------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape, most",
    [((5,), 0), ((4, 4), 1), ((64, 64), 31), ((3, 24, 10), 7), ((1, 9), 0), ((), 0)],
)
def test_the_most_directions_that_still_save(shape, most):
    """64 x 64: 31 (64 + 64) = 3968 < 4096, and 32 would be 4096."""
    assert most_directions(torch.Size(shape)) == most


def test_the_signal_is_that_of_the_noise_scale():
    """Workers' lengths against the mean's are batches of 1 and of W."""
    signal, _ = judge_directions(torch.tensor([3.0]), torch.tensor([7.0]), W=4)
    assert signal.item() == pytest.approx(two_batch_estimate(7.0, 3.0, 1, 4)[0])


@pytest.mark.parametrize(
    "numbers, finite",
    [
        ([1.0, -2.0], True),
        ([3e38, 3e38, -1.0], True),  # the sum overflows, the numbers do not
        ([torch.inf, -torch.inf], False),
        ([torch.nan, 1.0], False),
        ([], True),
    ],
)
def test_one_pass_says_whether_all_numbers_are_finite(numbers, finite):
    parts = [torch.zeros(3), torch.tensor(numbers)]
    assert all_finite(parts) is finite


def test_the_thread_ends_with_its_owner():
    class Owner:
        pass

    owner, done = Owner(), torch.futures.Future()
    before = threading.active_count()
    jobs = start_thread(owner)
    jobs.put((lambda owner=owner: torch.ones(1), done))  # type: ignore[misc]
    assert done.wait() == 1
    assert threading.active_count() == before + 1
    # The job is gone by then: the process may end, and no tensor is freed beside it.
    known = weakref.ref(owner)
    del owner
    assert known() is None
    for _ in range(100):
        gc.collect()
        if threading.active_count() == before:
            break
        time.sleep(0.05)
    assert threading.active_count() == before


DEMANDS = [
    Demand("strong", cost=100, even=4, most=40, signal=[9.0, 8.0, 7.0, 6.0]),
    Demand("weak", cost=100, even=4, most=40, signal=[1.0, 0.1, 0.1, 0.1]),
    Demand("large", cost=400, even=4, most=40, signal=[9.0, 8.0, 7.0, 6.0]),
]


def test_signal_decides_for_each_byte():
    given = allocate_by_signal(DEMANDS)
    assert given == {"strong": 8, "weak": 4, "large": 3}


@pytest.mark.parametrize("seed", range(5))
def test_random_directions_keep_to_bounds_and_budget(seed):
    given = allocate_at_random(DEMANDS, seed)
    cost = sum(d.cost * given[d.name] for d in DEMANDS)
    assert 2400 - 100 < cost <= 2400
    assert all(2 <= r <= 8 for r in given.values())
    assert given == allocate_at_random(DEMANDS, seed)


def test_random_directions_differ_by_seed():
    assert len({tuple(allocate_at_random(DEMANDS, s).items()) for s in range(9)}) > 2


def test_a_matrix_gets_no_more_directions_than_save():
    thin = Demand("thin", cost=10, even=2, most=3, signal=[100.0])
    other = Demand("other", cost=10, even=2, most=9, signal=[1.0])
    assert allocate_by_signal([thin, other]) == {"thin": 3, "other": 1}


def test_the_controller_finds_the_budget():
    """A model of 2000 bytes a direction and 500 besides; the target is 10 500."""
    controller = BudgetController(10_500, r=1)
    r = 1
    for _ in range(30):
        r = controller.update(2000 * r + 500)
    assert r == 5
    controller.target = 4_500
    for _ in range(30):
        r = controller.update(2000 * r + 500)
    assert r == 2


@pytest.mark.parametrize(
    "make, sentence",
    [
        (
            lambda: BudgetController(0),
            "a budget of 0 bytes a step lets nothing through: use one above 0.",
        ),
        (
            lambda: LowRankFusion(0),
            "r=0: with no directions nothing would be sent; use at least 1.",
        ),
        (
            lambda: LowRankFusion(2, allocation="best"),  # type: ignore[arg-type]
            "allocation='best': choose one of uniform, signal, random.",
        ),
        (
            lambda: TopKFusion(0),
            "share=0 of the numbers to send: use one above 0, and at most 1.",
        ),
        (
            lambda: RandomFusion(1.5),
            "share=1.5 of the numbers to send: use one above 0, and at most 1.",
        ),
        (
            lambda: ThresholdFusion(0),
            "threshold=0: use one above 0; at 0 everything is sent.",
        ),
        (
            lambda: DiLoCo(torch.nn.Linear(2, 2), 0),
            "every=0: use at least 1 step between two means.",
        ),
    ],
)
def test_bad_settings(make, sentence):
    with pytest.raises(LabError) as refused:
        make()
    assert str(refused.value) == sentence
