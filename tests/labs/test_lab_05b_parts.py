"""Lab 05b's models, sizes, trainings, decoding and experiments."""

import math

import pytest
import torch

from labs.lab_05b import published_rows, rank_training, step_costs, writing
from labs.lab_05b.arms import ARMS, PUBLISHED_K, STREAM_ARMS, arm_of
from labs.lab_05b.decoding import Decoder
from labs.lab_05b.exercises_core import aggregate
from labs.lab_05b.plan import GPT_PLANS, PREFIX, RANK_STEPS, TEXTS
from labs.lab_05b.sizes import (
    block_weights,
    plain_parameters,
    resized,
    stream_parameters,
    training_flops,
)
from labs.lab_05b.training import diversity, examine, train_arm
from labsupport.errors import LabError
from labsupport.exercise.practice import on_ranks
from labsupport.nn import GPT, GPTConfig, ParScale

SCALES = ("ci", "cpu")


def tokens(B, T, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (B, T), generator=generator)


# --- sizes ----------------------------------------------------------------------


@pytest.mark.parametrize("scale", SCALES)
def test_counted_parameters_are_those_of_the_models(scale):
    for name in (*STREAM_ARMS, "plain", "prefix"):
        arm = arm_of(name, scale)
        model = arm.make()
        plain = plain_parameters(arm.config)
        more = stream_parameters(arm.config, arm.streams, arm.prefix)
        assert model.parameter_count() == plain + more
        assert GPT(arm.config).parameter_count() == plain


def test_counted_flops_are_those_of_torch():
    """Forward, of one text, by torch's own counter; attention in single steps.

    It counts products of matrices only, and so misses the weighted sum over streams.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    config = GPTConfig(d_model=16, n_layers=2, n_heads=2, d_ff=48, max_len=8)
    for P, M in ((1, 0), (1, 3), (4, 3)):
        model = ParScale(config, P, prefix=M)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(tokens(1, 8))
        weighted_sum = 0 if P == 1 else 2 * P * config.d_model
        forward = training_flops(config, P, M) / 3
        assert counter.get_total_flops() == 8 * (forward - weighted_sum)


@pytest.mark.parametrize("scale", SCALES)
def test_baselines_cost_what_they_are_named_for(scale):
    plain, eight = arm_of("plain", scale), arm_of("p8", scale)
    blocks = block_weights(plain.config)
    worth = PUBLISHED_K * math.log(8) + 1
    law = block_weights(arm_of("law8", scale).config)
    assert law == pytest.approx(worth * blocks, rel=0.01)
    params = plain_parameters(arm_of("params8", scale).config)
    assert params == pytest.approx(eight.make().parameter_count(), rel=0.01)
    assert arm_of("wide8", scale).flops_a_token == pytest.approx(
        eight.flops_a_token, rel=0.01
    )
    long = arm_of("long8", scale)
    assert long.steps * long.flops_a_token == pytest.approx(
        eight.steps * eight.flops_a_token, rel=0.02
    )
    assert arm_of("time8", scale, 3.5).steps == round(3.5 * plain.steps)
    for name in ("params8", "law8", "wide8"):
        config = arm_of(name, scale).config
        assert config.n_layers == plain.config.n_layers
        assert (
            0.5
            < config.ffn_width
            / config.d_model
            * (plain.config.d_model / plain.config.ffn_width)
            < 2.0
        )


def test_a_model_of_the_same_cost_is_the_same_model():
    config = GPT_PLANS["cpu"].config
    again = resized(config, block_weights, block_weights(config))
    assert (again.d_model, again.ffn_width) == (config.d_model, config.ffn_width)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("p3", "arm='p3': choose one of plain, prefix"),
        ("time8", "time8 needs the ratio of two times"),
    ],
)
def test_bad_arms(name, sentence):
    with pytest.raises(LabError, match=sentence):
        arm_of(name, "ci")


# --- trainings ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "prefix", "p4", "wide8", "long8"])
def test_a_training_and_its_row(name):
    run = train_arm(name, 0, "ci", 8e-3)
    arm = arm_of(name, "ci")
    assert run.stopped == "finished" and run.steps_done == arm.steps
    row = examine(arm, run, "ci")
    tokens_seen = arm.steps * GPT_PLANS["ci"].batch_size * GPT_PLANS["ci"].length
    assert row["flops"] == arm.flops_a_token * tokens_seen
    assert row["validation"] < math.log(256)
    assert ("alike" in row) == (name == "p4")


def test_all_stream_arms_begin_with_the_same_shared_weights():
    first = {}
    for name in ("prefix", *STREAM_ARMS):
        torch.manual_seed(3)
        model = arm_of(name, "ci").make()
        first[name] = model.blocks[0].ffn.up.weight.detach()
    assert all(torch.equal(w, first["prefix"]) for w in first.values())


def test_diversity_by_hand():
    torch.manual_seed(0)
    config = GPTConfig(d_model=16, n_layers=1, n_heads=2, max_len=8)
    same = ParScale(config, 4, prefix=0)
    with torch.no_grad():
        same.aggregator.score.weight.zero_()
        same.aggregator.score.bias.zero_()
    found = diversity(same, tokens(2, 8))
    assert found == pytest.approx({"alike": 1.0, "even": 1.0, "one": 0.25})
    with torch.no_grad():
        same.aggregator.score.bias[2] = 50.0
    found = diversity(same, tokens(2, 8))
    assert found == pytest.approx({"alike": 1.0, "even": 0.0, "one": 1.0})
    different = ParScale(config, 4)
    with torch.no_grad():
        for layer in different.prefix_attentions():
            layer.prefix_2PHMK.mul_(30)
    assert diversity(different, tokens(2, 8))["alike"] < 0.999


def test_readers_aggregation_trains_like_ours():
    losses = [
        [row["loss"] for row in train_arm("p4", 0, "ci", 8e-3, **own).metrics]
        for own in ({}, {"aggregate": aggregate})
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


# --- ranks -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone():
    return on_ranks(
        lambda seed, dist: rank_training.train_on_ranks(dist, "ci", seed), [0]
    )[0]


@pytest.mark.parametrize("W", [2, 4])
def test_streams_on_ranks_train_as_in_one_process(W, alone):
    every = on_ranks(
        lambda seed, dist: rank_training.train_on_ranks(
            dist, "ci", seed, aggregate=aggregate
        ),
        [0] * W,
    )
    assert len(alone) == RANK_STEPS["ci"]
    for losses in every:
        assert losses == pytest.approx(alone, abs=1e-4)


def test_a_loss_that_is_no_number_ends_with_a_sentence():
    def broken(x_PBTD, logits_BTP, eps):
        return x_PBTD.sum(0) * float("nan")

    with pytest.raises(LabError, match="Step 1: the loss is no number"):
        on_ranks(
            lambda seed, dist: rank_training.train_on_ranks(
                dist, "ci", seed, aggregate=broken
            ),
            [0],
        )


# --- writing ------------------------------------------------------------------------


@pytest.mark.parametrize(("P", "M"), [(1, 0), (1, 3), (4, 3)])
def test_decoding_says_what_the_whole_forward_says(P, M):
    torch.manual_seed(0)
    config = GPTConfig(d_model=16, n_layers=2, n_heads=2, max_len=8)
    model = GPT(config) if M == 0 else ParScale(config, P, prefix=M)
    x_BT = tokens(3, 8)
    decoder = Decoder(model, texts=3, room=8)
    with torch.no_grad():
        wanted = model(x_BT)
    for t in range(8):
        torch.testing.assert_close(decoder.step(x_BT[:, t]), wanted[:, t])
    # Layers, keys and values, rows, heads, positions, width of a head, 4 bytes.
    assert decoder.cache_bytes == 2 * 2 * (P * 3) * 2 * (M + 8) * 8 * 4
    with pytest.raises(LabError, match="room for 8 tokens: no more"):
        decoder.step(x_BT[:, 0])


def test_no_more_room_than_positions():
    config = GPTConfig(d_model=16, n_layers=1, n_heads=2, max_len=8)
    with pytest.raises(LabError, match="room=9: the model has 8 positions"):
        Decoder(GPT(config), 1, 9)


def test_what_writing_costs_in_bytes():
    plain, eight = (writing.writing_row(arm, 0, "ci") for arm in ("plain", "p8"))
    room = writing.WRITE_CONFIGS["ci"].max_len
    for texts in TEXTS:
        assert plain[f"cache_{texts}"] == texts * plain["cache_1"]
        ratio = eight[f"cache_{texts}"] / plain[f"cache_{texts}"]
        assert ratio == 8 * (room + PREFIX["ci"]) / room
    model = writing.writer("p8", "ci").make()
    assert eight["weights"] == 4 * model.parameter_count()
    assert plain["more_bytes"] == 0
    more = eight["weights"] + eight["cache_1"] - plain["weights"] - plain["cache_1"]
    assert eight["more_bytes"] == more


def test_the_model_of_equal_loss_is_larger_by_the_law():
    for scale in SCALES:
        plain, equal = (
            block_weights(writing.writer(arm, scale).config)
            for arm in ("plain", "equal")
        )
        assert equal / plain == pytest.approx(1.818, rel=0.01)


# --- steps in the headline's proportions ----------------------------------------------


def test_the_larger_model_is_as_much_larger_as_the_headlines():
    for scale in SCALES:
        small, large = (
            block_weights(step_costs.headline_arm(arm, scale).config)
            for arm in ("plain", "large")
        )
        assert large / small == pytest.approx(4353203200 / 1571472384, rel=0.02)


def test_a_headline_row():
    rows = {
        arm: step_costs.headline_row(arm, 0, "ci") for arm in step_costs.HEADLINE_ARMS
    }
    for row in rows.values():
        assert row["bytes"] == row["states"] + row["kept"]
        assert row["states"] == 16 * row["parameters"]
    # Eight streams keep more for the backward than one: nearly eight times as much.
    assert 3 < rows["p8"]["kept"] / rows["plain"]["kept"] < 9
    assert rows["p8"]["flops"] > rows["large"]["flops"]


def test_turns_are_taken():
    order = []
    spent, ratio = step_costs.in_turns(
        lambda: order.append("a"), lambda: order.append("b"), 3
    )
    assert "".join(order) == "ab" + "ab" + "ba" + "ab"
    assert spent > 0 and ratio > 0


# --- the published table as rows ---------------------------------------------


def test_a_published_row():
    rows = {
        arm: published_rows.published_row(arm, 5, "ci") for arm in published_rows.ARMS
    }
    assert rows["small"]["effective"] == pytest.approx(1.5715, abs=1e-4)
    assert rows["large"]["effective"] == pytest.approx(4.3532, abs=1e-4)
    assert 2.7 < rows["small_8"]["effective"] < 3.1
    assert rows["small_8"]["flops"] / rows["large"]["flops"] == pytest.approx(
        2.888, abs=1e-3
    )


def test_every_arm_has_a_name():
    assert set(ARMS) >= set(STREAM_ARMS) | {"plain", "prefix"}
