"""Lab 03's trainings: outlier channels, moments, gradients, bytes."""

import math

import pytest
import torch
from torch import nn

from labs.lab_03 import language, memory, moments
from labs.lab_03.gradients import arriving_gradients, gradient_view, lost
from labs.lab_03.outlier_channels import (
    BF16LinearWithOutliers,
    FP8LinearWithOutliers,
)
from labs.lab_03.plan import GPT_PLANS, OUTLIER_CHANNELS, SIDE
from labsupport.errors import LabError
from labsupport.nn import BF16Linear, FP8Recipe
from labsupport.tasks.corpus import Corpus


def batch_of_ci():
    plan = GPT_PLANS["ci"]
    return Corpus.load().batch(
        "train", 0, batch_size=plan.batch_size, length=plan.length, seed=0
    )


@pytest.mark.parametrize("arm", language.ARMS)
def test_every_arm_starts_from_the_same_weights_and_about_the_same_loss(arm):
    found = []
    for each in ("fp32", arm):
        torch.manual_seed(3)
        model = language.make_gpt(each, "ci")
        found.append((model.blocks[0].ffn.up.weight, model.loss(*batch_of_ci())))
    assert torch.equal(found[0][0], found[1][0])
    assert found[1][1].item() == pytest.approx(found[0][1].item(), rel=0.01)


def test_unscaled_blocks_get_no_gradient_and_all_other_arms_do():
    for arm in language.ARMS:
        torch.manual_seed(3)
        model = language.make_gpt(arm, "cpu")
        tokens = torch.randint(256, (8, 64))
        model.loss(tokens, tokens).backward()
        length = sum(p.grad.norm() for p in model.blocks.parameters()).item()
        matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
        moved = [bool(p.grad.any()) for p in matrices]
        assert (not any(moved)) if arm == "unscaled" else all(moved), arm
        assert math.isfinite(length)
        assert model.head.weight.grad.any()


def test_outlier_channels_change_nothing_in_exact_arithmetic():
    """With a power of two, bfloat16 rounds the same mantissas."""
    torch.manual_seed(0)
    plain = BF16Linear(16, 8, bias=False)
    changed = BF16LinearWithOutliers(16, 8, bias=False, factor=2.0**17)
    changed.load_state_dict(plain.state_dict())
    x = torch.randn(5, 16)
    found = []
    for layer in (plain, changed):
        own = x.clone().requires_grad_()
        y = layer(own)
        y.square().sum().backward()
        found.append((y, own.grad, layer.weight.grad))
    for mine, right in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(mine, right)


def test_outliers_spoil_one_tile_or_all():
    """Relative error of y: with tiles of 4, and with one scale for all."""
    torch.manual_seed(0)
    x = torch.randn(64, 64)
    x[:, :OUTLIER_CHANNELS] = 0.0  # so that only the others' fate counts
    x[0, 0] = 1.0
    errors = {}
    for scheme in ("tile", "tensor"):
        layer = FP8LinearWithOutliers(
            64, 32, bias=False, recipe=FP8Recipe(scheme, 4), factor=1e6
        )
        exact = nn.functional.linear(x, layer.weight)[1:]
        errors[scheme] = ((layer(x)[1:] - exact).norm() / exact.norm()).item()
    assert errors["tile"] < 0.1 < 0.5 < errors["tensor"]


def test_moments_are_rounded_after_each_step():
    model = nn.Linear(64, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    moments.rounded_moments(moments.in_bfloat16, optimizer)
    model(torch.randn(3, 64)).sum().backward()
    optimizer.step()
    for state in optimizer.state.values():
        for name in ("exp_avg", "exp_avg_sq"):
            kept = state[name]
            assert kept.any()
            assert torch.equal(kept, kept.bfloat16().float())


def test_small_second_moments_vanish_in_eight_bits_and_their_roots_do_not():
    v = torch.logspace(-8, 0, 32)[None]
    assert (moments.in_unscaled_e4m3("v", v) == 0).sum() > 16
    assert (moments.in_scaled_e4m3("v", v) == 0).any()
    assert not (moments.root_in_scaled_e4m3("v", v) == 0).any()


def test_gradients_and_what_an_unscaled_cast_leaves_of_them():
    assert lost(torch.tensor([1.0, 2.0**-10, 1.01 * 2.0**-10, -1e-6])) == 0.5
    torch.manual_seed(0)
    model = language.make_gpt("fp32", "ci")
    g = arriving_gradients(model, *batch_of_ci())
    plan = GPT_PLANS["ci"]
    D, F = plan.config.d_model, plan.config.ffn_width
    tokens = plan.batch_size * plan.length
    assert len(g) == tokens * (3 * D + D + F + F + D)
    assert all(p.grad is None for p in model.parameters())
    view = gradient_view(g)
    assert "turns" in view.sentence and sum(view.table["percent"]) > 99


def test_bytes_that_a_layer_keeps():
    """By hand: x once for each layer; codes of weights; bfloat16 likewise."""
    rows = {arm: memory.memory_row(arm, 0, "ci") for arm in ("fp32", "bf16", "tensor")}
    plan = GPT_PLANS["ci"]
    D, F = plan.config.d_model, plan.config.ffn_width
    tokens = plan.batch_size * plan.length
    inputs = tokens * (D + D + D + F)  # gate and up share theirs in float32
    weights = D * (3 * D + D + 2 * F + F)
    assert rows["fp32"]["kept_linear"] == 4 * inputs
    assert rows["bf16"]["kept_linear"] == 2 * (inputs + tokens * D + weights)
    scales = 4 * 2 * 5  # one for x and one for w of five layers
    fp8 = inputs + tokens * D + weights + scales
    assert rows["tensor"]["kept_linear"] == fp8
    assert rows["fp32"]["total"] - rows["fp32"]["kept"] == 4 * rows["bf16"]["weights"]
    assert rows["bf16"]["moments"] * 2 == rows["fp32"]["moments"]


def test_tiles_divide_every_width():
    for scale, plan in GPT_PLANS.items():
        for width in (plan.config.d_model, plan.config.ffn_width):
            assert width % SIDE[scale] == 0 and width // SIDE[scale] >= 2


def test_an_unknown_arm():
    with pytest.raises(LabError, match="arm='fp4': choose one of fp32, bf16, tile"):
        language.make_gpt("fp4", "ci")
