"""The model of a step's time says what hand calculation says."""

from __future__ import annotations

import pytest

from labsupport.distributed.balance import StepCost
from labsupport.distributed.call import call_on_ranks
from labsupport.distributed.link_fit import Link
from labsupport.distributed.parallel.layout import Layout
from labsupport.distributed.parallel.memory import numbers_on_rank
from labsupport.distributed.parallel.predict import Costs, predict, rank_correlation
from labsupport.distributed.parallel.schedules import pause_share
from labsupport.distributed.parallel.synchronise import Copies
from labsupport.errors import LabError
from labsupport.nn import GPT, GPTConfig

CONFIG = GPTConfig(vocab_size=32, d_model=8, n_layers=4, n_heads=2, d_ff=16)
PSI = numbers_on_rank(Layout(), CONFIG)
# 1 ms a message, 1 MB/s; 10 ms and 1 ms a row; an update of 5 ms.
COSTS = Costs(Link(1e-3, 1e6, 2), StepCost(0.010, 0.001), 0.005)


def seconds(layout: Layout, costs: Costs = COSTS) -> list[float]:
    found = predict(layout, CONFIG, 8, 16, costs)
    assert found.total == pytest.approx(sum(vars(found).values()))
    return list(vars(found).values())


def test_one_process() -> None:
    assert seconds(Layout()) == pytest.approx([0.018, 0, 0, 0.005])


def test_copies() -> None:
    # 4 rows each. One bucket and two single numbers: 3 x 2 messages, 4 Psi + 8 bytes.
    wanted = [0.014, 0, 0.006 + (4 * PSI + 8) / 1e6, 0.005]
    assert seconds(Layout(replicate=2)) == pytest.approx(wanted)


def test_shards_of_gloo_send_more() -> None:
    layout = Layout(shard=2)
    plain = Costs(COSTS.link, COSTS.rows, COSTS.update, gloo=False)
    _, _, gloo, update = seconds(layout)
    _, _, ideal, _ = seconds(layout, plain)
    # reduce_scatter's 4 Psi / 2 once more.
    assert gloo - ideal == pytest.approx(2 * PSI / 1e6)
    assert update == pytest.approx(0.0025)


def test_a_pipeline_waits() -> None:
    compute, pauses, _, _ = seconds(Layout(pipeline=2, microbatches=4))
    # The second stage has the output layer: 2 blocks of 656 and 256 numbers, of the
    # 4 blocks and the 256 in all. Two rows a microbatch.
    share = (2 * 656 + 256) / (4 * 656 + 256)
    piece = 0.010 / 2 + 0.001 * 2 * share
    assert compute == pytest.approx(4 * piece)
    assert pauses == pytest.approx(piece)


def test_a_cut_block_multiplies_less() -> None:
    compute, _, communication, _ = seconds(Layout(tensor=2))
    share = (4 * (320 + 16) + 256) / (4 * 656 + 256)
    assert compute == pytest.approx(0.010 + 0.008 * share)
    # 16 sums of 8 x 16 x 8 numbers, and two single ones.
    wanted = 0.002 * 18 + (16 * 4 * 8 * 16 * 8 + 8) / 1e6
    assert communication == pytest.approx(wanted)


def test_pauses_by_formula() -> None:
    assert pause_share("1F1B", 4, 8) == pytest.approx(3 / 11)
    assert pause_share("GPipe", 4, 8) == pytest.approx(3 / 11)
    # Half as long with two stages a rank; a sixth; none.
    assert pause_share("Interleaved1F1B", 4, 8) == pytest.approx(1.5 / 9.5)
    assert pause_share("InterleavedZeroBubble", 4, 8) == pytest.approx(0.5 / 8.5)
    assert pause_share("DualPipeV", 4, 8) == pytest.approx(1 / 9)
    assert pause_share("ZBV", 4, 8) == 0


def test_orders() -> None:
    assert rank_correlation([1, 2, 3], [10, 20, 90]) == pytest.approx(1)
    tied = rank_correlation([1, 1, 2], [5, 6, 9])
    assert tied == rank_correlation([1, 1, 2], [6, 5, 9]) < 1
    assert rank_correlation([1, 2, 3], [9, 2, 1]) == pytest.approx(-1)
    # Places 0 1 2 3 and 1 0 3 2: 1 - 6 x 4 / (4 x 15)
    assert rank_correlation([1, 2, 3, 4], [2, 1, 4, 3]) == pytest.approx(0.6)
    with pytest.raises(LabError, match="2 and 3 numbers"):
        rank_correlation([1, 2], [1, 2, 3])


def test_bad_input_gets_a_sentence() -> None:
    with pytest.raises(LabError, match="way='gossip': use one of per_gradient"):
        Copies(GPT(CONFIG), "gossip")
    with pytest.raises(LabError, match="function='train': write module:name"):
        call_on_ranks("train", 2)
