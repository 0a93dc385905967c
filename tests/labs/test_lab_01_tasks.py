"""Lab 01's second task can be learned, and the watch sees the whole stream."""

import math

import torch

from labs.lab_01.arms import residual_of
from labs.lab_01.chain_task import ENTROPY, FIRST, V, chain_batches, draw_chain
from labs.lab_01.plan import PLANS
from labs.lab_01.stream_size import FLOAT16_MAX, StreamSize
from labsupport.nn import GPT
from labsupport.train import train

PLAN = PLANS["ci"]


def test_each_letter_is_followed_by_its_own_three():
    successors_V3 = draw_chain(3)
    assert all(len(set(row)) == 3 for row in successors_V3.tolist())
    first_share = []
    for step in range(20):
        tokens_BT, targets_BT = chain_batches(PLAN, 3)(step)
        assert tokens_BT.shape == (PLAN.batch_size, PLAN.length)
        assert torch.equal(tokens_BT[:, 1:], targets_BT[:, :-1])
        after_BT3 = FIRST + successors_V3[tokens_BT - FIRST]
        hits_BT3 = after_BT3 == targets_BT[..., None]
        assert hits_BT3.any(-1).all()
        first_share.append(hits_BT3[..., 0].double().mean())
    assert 0.65 < torch.stack(first_share).mean() < 0.75


def test_a_seed_has_one_chain_and_each_step_its_own_letters():
    again, other = chain_batches(PLAN, 3), chain_batches(PLAN, 4)
    tokens_BT = chain_batches(PLAN, 3)(5)[0]
    assert torch.equal(tokens_BT, again(5)[0])
    assert not torch.equal(tokens_BT, again(6)[0])
    assert not torch.equal(draw_chain(3), draw_chain(4))
    assert not torch.equal(tokens_BT, other(5)[0])


def test_a_small_model_learns_the_chain():
    """From ln 256 to well below ln 26, what the letters alone would give."""
    torch.manual_seed(0)
    run = train(
        GPT(PLAN.config),
        chain_batches(PLAN, 0),
        steps=120,
        lr=3e-2,
        live=False,
    )
    assert run.metrics[0]["loss"] > math.log(V)
    late = [row["loss"] for row in run.metrics[-10:]]
    assert ENTROPY - 0.2 < sum(late) / 10 < 0.7 * math.log(V)


def test_the_watch_sees_the_largest_number_of_the_last_forward():
    torch.manual_seed(0)
    model = GPT(PLAN.config, residual=residual_of("hc"))
    watch = StreamSize(model)
    tokens_BT, _ = chain_batches(PLAN, 0)(0)
    model(tokens_BT)
    before = watch.measure(model)["largest"]
    assert 0 < before < 100
    with torch.no_grad():
        last = model.blocks[1].ffn_residual
        last.bias_P[-16:].mul_(1000)  # H_res of one branch in the middle
    model(tokens_BT)
    assert watch.largest > 100 * before
    with torch.no_grad():
        last.bias_P[-16:].div_(1000)
    model(tokens_BT)
    assert watch.largest < 2 * before


def test_a_float16_stream_that_overflows_is_seen_as_infinite():
    torch.manual_seed(0)
    model = GPT(PLAN.config, residual=residual_of("hc", torch.float16))
    watch = StreamSize(model)
    with torch.no_grad():
        model.blocks[1].ffn_residual.bias_P[-16:].mul_(10 * FLOAT16_MAX)
    model(chain_batches(PLAN, 0)(0)[0])
    assert math.isinf(watch.largest)
