"""Lab 04b's trainings, slices, planes and noise."""

import math

import pytest
import torch
from torch.nn.utils import parameters_to_vector

from labs.lab_04b import exploring, landscape, noise_runs
from labs.lab_04b.exercises_core import filter_direction
from labs.lab_04b.exploring import ARMS, TRIALS, Trial, train_gpt
from labs.lab_04b.plan import CHECKS, GPT_PLANS
from labsupport.errors import LabError
from labsupport.nn import GPT
from labsupport.train import mean_loss
from labsupport.train.noise_scale import two_batch_estimate

STEPS = GPT_PLANS["ci"].steps


@pytest.fixture(scope="module")
def trained():
    return train_gpt("plain", 0, "ci", Trial(8e-3), keep=8)


# --- trainings ---------------------------------------------------------------


@pytest.mark.parametrize("arm", ARMS)
def test_all_arms_have_the_same_number_of_gradients(arm, monkeypatch):
    calls = []
    backward, grad = torch.Tensor.backward, torch.autograd.grad

    def counted(function):
        def call(*arguments, **named):
            calls.append(1)
            return function(*arguments, **named)

        return call

    monkeypatch.setattr(torch.Tensor, "backward", counted(backward))
    monkeypatch.setattr(torch.autograd, "grad", counted(grad))
    found = train_gpt(arm, 0, "ci", TRIALS[arm][0])
    assert found.run.stopped == "finished"
    assert len(calls) == STEPS
    assert len(exploring.losses(found, "ci")["curve"]) == CHECKS


def test_every_arm_has_as_many_trials():
    assert {len(trials) for trials in TRIALS.values()} == {6}
    assert len({trial for trials in TRIALS.values() for trial in trials}) > 18


def test_averages_ride_on_the_plain_training():
    """The same course; only what is evaluated differs."""
    plain = train_gpt("plain", 0, "ci", Trial(4e-3))
    curve = [row["loss"] for row in plain.run.metrics]
    for arm in ("ema", "lawa"):
        found = train_gpt(arm, 0, "ci", Trial(4e-3, TRIALS[arm][0].strength))
        assert [row["loss"] for row in found.run.metrics] == curve
        assert found.model is not found.run.model
        end = exploring.flat(plain.model)
        assert torch.equal(exploring.flat(found.run.model), end)
        assert not torch.equal(exploring.flat(found.model), end)
        last = found.run.metrics[-1]["validation"]
        check = exploring.validation("ci", 16)
        assert last == pytest.approx(mean_loss(found.model, check))


def test_the_short_text_comes_again():
    batch = exploring.batches(0, "ci", repeated=True)
    fresh = exploring.batches(0, "ci")
    rows = {tuple(row) for step in range(300) for row in batch(step)[0].tolist()}
    others = {tuple(row) for step in range(300) for row in fresh(step)[0].tolist()}
    assert len(rows) < 500 < 1000 < len(others)


def test_half_the_gradients():
    found = train_gpt("plain", 0, "ci", Trial(4e-3), gradients=STEPS // 2)
    assert found.run.steps_done == STEPS // 2


@pytest.mark.parametrize(
    ("arm", "trial", "sentence"),
    [
        ("adam", Trial(1e-3), "arm='adam': choose one of plain, sam"),
        ("sam", Trial(1e-3), "sam with strength=None: only plain has none"),
        ("plain", Trial(1e-3, 0.1), "plain with strength=0.1: only plain has none"),
    ],
)
def test_bad_settings(arm, trial, sentence):
    with pytest.raises(LabError, match=sentence):
        train_gpt(arm, 0, "ci", trial)


# --- the landscape ------------------------------------------------------------


def test_the_loss_of_given_weights_and_the_model_unchanged(trained):
    batches = exploring.validation("ci", 2)
    loss = landscape.loss_of(trained.model, batches)
    weights = landscape.weights_of(trained.model)
    before = exploring.flat(trained.model)
    assert loss(weights).item() == pytest.approx(mean_loss(trained.model, batches))
    moved = [w + 0.1 for w in weights]
    other = GPT(GPT_PLANS["ci"].config)
    for p, w in zip(other.parameters(), moved, strict=True):
        p.data = w
    assert loss(moved).item() == pytest.approx(mean_loss(other, batches), rel=1e-5)
    assert torch.equal(exploring.flat(trained.model), before)


def test_the_twin_is_the_same_function(trained):
    batches = exploring.validation("ci", 2)
    loss = landscape.loss_of(trained.model, batches)
    twin = landscape.rescaled_twin(trained.model, 8.0)
    weights = landscape.weights_of(trained.model)
    assert loss(twin).item() == pytest.approx(loss(weights).item(), rel=1e-5)
    assert sum(not torch.equal(a, b) for a, b in zip(twin, weights, strict=True)) == 2
    raw = landscape.random_direction(trained.model, 3)

    def at(given):
        direction = filter_direction(given, raw)
        return loss([w + 0.5 * d for w, d in zip(given, direction, strict=True)])

    assert at(twin).item() == pytest.approx(at(weights).item(), rel=1e-4)


def test_rows_of_a_direction_are_as_long_as_those_of_the_weights(trained):
    weights = landscape.weights_of(trained.model)
    raw = landscape.random_direction(trained.model, 0)
    for w, d in zip(weights, filter_direction(weights, raw), strict=True):
        if w.ndim < 2:
            assert not d.any()
        else:
            torch.testing.assert_close(d.norm(dim=1), w.norm(dim=1))


def test_planes_hold_the_end_and_the_path(trained):
    batches = exploring.validation("ci", 1)[:1]
    end = landscape.loss_of(trained.model, batches)(
        landscape.weights_of(trained.model)
    ).item()
    both = {
        "random": landscape.random_plane(trained.model, trained.path, 0),
        "path": landscape.path_plane(trained.model, trained.path),
    }
    for plane in both.values():
        assert torch.allclose(plane.path_K2[-1], torch.zeros(2), atol=1e-5)
        grid = landscape.losses_on(plane, trained.model, batches)
        assert len(grid) == len(grid[0]) == landscape.SIDE
        assert min(min(line) for line in grid) <= end + 0.01
    assert both["path"].share > 0.9 > 0.1 > both["random"].share
    # The random plane's middle is the end itself, and so is its loss.
    middle = landscape.SIDE // 2
    grid = landscape.losses_on(both["random"], trained.model, batches)
    assert grid[middle][middle] == pytest.approx(end, abs=1e-3)
    # The path plane begins on the positive side, and its axes are of length 1.
    plane = both["path"]
    assert (plane.path_K2[0] >= 0).all()
    assert plane.first_P.norm().item() == pytest.approx(1.0, rel=1e-4)
    away_P = trained.path[0] - parameters_to_vector(landscape.weights_of(trained.model))
    assert plane.path_K2[0, 0].item() == pytest.approx(
        torch.dot(away_P, plane.first_P).item(), rel=1e-3
    )


def test_a_path_of_two_points_spans_no_plane(trained):
    with pytest.raises(LabError, match="A path of 2 points: use at least 3"):
        landscape.path_plane(trained.model, trained.path[:2])


def test_rise_is_zero_where_the_loss_does_not_depend_on_weights(trained):
    class Flat(torch.nn.Module):
        def __init__(self, curvature):
            super().__init__()
            self.w = torch.nn.Parameter(torch.tensor([[3.0, 4.0]]))
            self.curvature = curvature

        def loss(self, tokens, targets):
            return 1.0 + self.curvature * self.w.square().sum()

    batch = [(torch.zeros(1), torch.zeros(1))]
    assert landscape.rise(Flat(0.0), batch) == 0.0
    # |w + d / 4|^2 - |w|^2, over d and -d: (5 / 4)^2.
    assert landscape.rise(Flat(2.0), batch) == pytest.approx(2 * 1.5625, rel=1e-4)


# --- noise ----------------------------------------------------------------------


def test_known_noise_is_found():
    found = list(noise_runs.known_gradients(0, steps=4000, batch=8))
    signal, noise = (
        sum(getattr(m, name) for m in found) / len(found)
        for name in ("signal", "noise")
    )
    assert signal == pytest.approx(1.0, rel=0.1)
    assert noise / signal == pytest.approx(noise_runs.KNOWN, rel=0.1)


def test_a_watched_step_is_a_plain_step():
    """Groups change nothing: one step of the whole batch, by torch."""
    batch = GPT_PLANS["ci"].batch_size
    watched, plain = (noise_runs.fresh_model(1, "ci") for _ in range(2))
    steps = noise_runs.watched_steps(
        watched, 1, "ci", lr=4e-3, sequences=3 * batch,
        next_batch=lambda step: batch, base=batch,
    )  # fmt: skip
    first = next(steps)
    tokens, targets = exploring.batches(1, "ci")(0)
    loss = plain.loss(tokens, targets)
    assert first.loss == pytest.approx(loss.item(), rel=1e-5)
    grads = torch.autograd.grad(loss, list(plain.parameters()))
    square = sum(g.square().sum().item() for g in grads)
    # What was put in comes out: |g_B|^2 = |G|^2 + tr / B.
    assert first.signal + first.noise / batch == pytest.approx(square, rel=1e-4)
    assert len(list(steps)) == 2


def test_groups_of_unequal_size_are_weighed():
    """Batches of 7 in groups of 2, 2, 2 and 1."""
    watched, plain = (noise_runs.fresh_model(1, "ci") for _ in range(2))
    first = next(
        noise_runs.watched_steps(
            watched, 1, "ci", lr=4e-3, sequences=7, next_batch=lambda s: 7, base=7
        )
    )
    tokens, targets = exploring.Corpus.load().batch(
        "train", 0, batch_size=7, length=GPT_PLANS["ci"].length, seed=1
    )
    loss = plain.loss(tokens, targets)
    grads = torch.autograd.grad(loss, list(plain.parameters()))
    square = sum(g.square().sum().item() for g in grads)
    assert first.loss == pytest.approx(loss.item(), rel=1e-5)
    assert first.signal + first.noise / 7 == pytest.approx(square, rel=1e-4)


def test_the_adaptive_batch_follows_the_noise():
    adaptive = noise_runs.AdaptiveBatch(8)
    assert adaptive(0) == adaptive(7) == 8
    for true, wanted in ((3.0, 8), (30.0, 28), (1e6, 64)):
        for _ in range(200):
            adaptive.add(noise_runs.Measured(0.0, adaptive.batch, 1.0, true))
        assert adaptive(8) in (wanted, wanted + 4), true


def test_squares_rebuilt_from_estimates_are_the_squares():
    signal, noise = two_batch_estimate(10.0, 5.5, 2, 8)
    adaptive = noise_runs.AdaptiveBatch(8)
    adaptive.add(noise_runs.Measured(0.0, 8, signal, noise))
    assert adaptive.scale.value == pytest.approx(noise / signal)
    assert not math.isnan(adaptive.scale.value)


@pytest.mark.parametrize("arm", ["small", "large", "adaptive"])
def test_rules_for_batches_read_the_same_sequences(arm):
    row = noise_runs.batch_row(arm, 0, "ci", lr=4e-3)
    plan = GPT_PLANS["ci"]
    if arm == "small":
        assert row["steps"] == plan.steps
    if arm == "large":
        assert row["steps"] == plan.steps // noise_runs.LARGEST
    assert row["batches"][0] == (32 if arm == "large" else 4)
