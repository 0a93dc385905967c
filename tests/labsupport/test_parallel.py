"""Every layout computes what one process computes, on gloo ranks."""

from __future__ import annotations

import pytest

from tests.labsupport.conftest import Parts
from tests.labsupport.parallel_ranks import layouts_to_try

pytestmark = pytest.mark.distributed


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
