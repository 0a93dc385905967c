"""Every layout computes what one process computes, on gloo ranks."""

from __future__ import annotations

import pytest

from labsupport.distributed.parallel.synchronise import WAYS
from tests.labsupport.conftest import Parts
from tests.labsupport.parallel_ranks import ON_THE_WIRE, layouts_to_try

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


TRIED = [
    pytest.param(world, str(layout), marks=[pytest.mark.slow] if world == 8 else [])
    for world in (1, 2, 4, 8)
    for layout in layouts_to_try(world)
]


@pytest.mark.parametrize(("world", "layout"), TRIED)
def test_a_layout_is_one_process(parallel: Parts, world: int, layout: str) -> None:
    for rank in parallel.ranks(f"layouts-{world}", world):
        compared = rank[layout]
        assert max(compared["loss"]) < 1e-5
        assert compared["gradient"] < 1e-5


DENSE = [param for param in TRIED if "expert" not in param.values[1]]


@pytest.mark.parametrize(("world", "layout"), DENSE)
def test_a_ranks_bytes_are_the_formulas(
    parallel: Parts, world: int, layout: str
) -> None:
    for rank in parallel.ranks(f"layouts-{world}", world):
        assert rank[layout]["held"] == rank[layout]["formula"]


@pytest.mark.parametrize(("world", "layout"), DENSE)
def test_a_steps_collectives_are_the_formulas(
    parallel: Parts, world: int, layout: str
) -> None:
    """Calls, bytes handed in, bytes sent by the textbook; exactly."""
    for rank in parallel.ranks(f"layouts-{world}", world):
        assert rank[layout]["counted"] == rank[layout]["expected"]


GATHER, SCATTER, SUM = (
    "c10d._allgather_base_",
    "c10d._reduce_scatter_base_",
    "c10d.allreduce_",
)
# Two blocks, so three units: each block, and what is left.
BY_HAND = {
    "replicate 4": {SUM: 1},  # all gradients fit one bucket
    "shard 4": {GATHER: 2 * 3, SCATTER: 3},
    "shard 4, kept gathered": {GATHER: 3, SCATTER: 3},
    "replicate 2 x shard 2": {GATHER: 2 * 3, SCATTER: 3, SUM: 3},
    "tensor 4": {"c10d_functional.all_reduce": 2 * (2 + 2)},
    "shard 2 x tensor 2": {
        GATHER: 2 * 3,
        SCATTER: 3,
        "c10d_functional.all_reduce": 2 * (2 + 2),
    },
    "expert 4": {"c10d.alltoall_base_": 2 * (3 + 2), SUM: 1},
    "replicate 2 x expert 2": {"c10d.alltoall_base_": 2 * (3 + 2), SUM: 2 + 1},
}


@pytest.mark.parametrize("layout", BY_HAND)
def test_torchs_own_counter_says_the_same(parallel: Parts, layout: str) -> None:
    for rank in parallel.ranks("layouts-4", 4):
        assert rank[layout]["debug"] == BY_HAND[layout]


@pytest.mark.parametrize("layout", map(str, ON_THE_WIRE))
def test_sockets_send_what_the_formula_says_of_gloo(
    parallel: Parts, layout: str
) -> None:
    ranks = [rank["wire"][layout] for rank in parallel.ranks("wire", 4)]
    sockets, ideal, gloo = (
        sum(rank[name] for rank in ranks) for name in ("sockets", "ideal", "gloo")
    )
    assert sockets == pytest.approx(gloo, rel=0.02)
    # Of the textbook's bytes gloo's reduce_scatter needs twice as many.
    assert (gloo > 1.1 * ideal) == ("shard" in layout)


def test_kept_weights_are_whole_between_forward_and_backward(parallel: Parts) -> None:
    for rank in parallel.ranks("wire", 4):
        (before, given_back), (same, kept) = rank["registered"].values()
        assert before == same == given_back
        assert kept == 4 * before


def test_ddps_buckets_are_the_formulas(parallel: Parts) -> None:
    for rank in parallel.ranks("wire", 4):
        for sizes, formula in rank["buckets"].values():
            assert sizes == formula
        assert len(rank["buckets"][0.02][0]) > len(rank["buckets"][0.1][0]) > 1
        assert len(rank["buckets"][1.0][0]) == 1


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_sum_gradients_gives_the_same(parallel: Parts, way: str) -> None:
    for rank in parallel.ranks("wire", 4):
        loss, gradient = rank["ways"][way]
        assert loss < 1e-5
        assert gradient < 1e-5


def test_every_axis_and_schedule_was_tried() -> None:
    tried = [layout for world in (2, 4) for layout in layouts_to_try(world)]
    names = " ".join(map(str, tried))
    for word in ("replicate 4", "shard 4", "tensor 4", "pipeline 4", "expert 4"):
        assert word in names
    for pair in (
        "shard 2 x tensor 2",
        "replicate 2 x tensor 2",
        "replicate 2 x shard 2",
        "replicate 2 x expert 2",
        "pipeline 2 x tensor 2",
        "pipeline 2 x replicate 2",
        "pipeline 2 x shard 2",
        "replicate 2 x shard 2 x tensor 2",
    ):
        assert pair in names + " ".join(map(str, layouts_to_try(8)))
    for schedule in ("GPipe", "1F1B", "Interleaved1F1B", "ZBV", "DualPipeV"):
        assert f"{schedule} of 4" in names
