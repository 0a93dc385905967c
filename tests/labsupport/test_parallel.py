"""Every layout computes what one process computes, on gloo ranks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.labsupport.parallel_ranks import layouts_to_try

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.distributed


@pytest.fixture(scope="session")
def find(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What every rank found out, by the number of ranks; each is run once."""
    folder = tmp_path_factory.mktemp("parallel")
    known: dict[int, list[dict[str, Any]]] = {}

    def run(world: int) -> list[dict[str, Any]]:
        if world not in known:
            script = ROOT / "tests" / "labsupport" / "parallel_ranks.py"
            done = subprocess.run(
                [sys.executable, "-W", "ignore", script, folder, str(world)],
                env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
                capture_output=True,
                text=True,
                timeout=250,
            )
            assert done.returncode == 0, done.stderr
            files = (folder / f"{world}-{rank}.pt" for rank in range(world))
            known[world] = [torch.load(file) for file in files]
        return known[world]

    return run


TRIED = [
    pytest.param(world, str(layout), marks=[pytest.mark.slow] if world == 8 else [])
    for world in (1, 2, 4, 8)
    for layout in layouts_to_try(world)
]


@pytest.mark.parametrize(("world", "layout"), TRIED)
def test_a_layout_is_one_process(find: Any, world: int, layout: str) -> None:
    for rank in find(world):
        compared = rank["compared"][layout]
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
