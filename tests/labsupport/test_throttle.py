"""An emulated link takes the time of its model and changes nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RANKS = [(world, rank) for world in (2, 4) for rank in range(world)]

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.skipif(sys.platform != "linux", reason="the test forks its ranks"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the ranks of throttle_ranks.py wrote what they found."""
    place = tmp_path_factory.mktemp("throttle")
    script = ROOT / "tests" / "labsupport" / "throttle_ranks.py"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), str(place)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return place


def found(place: Path, world: int, rank: int) -> dict[str, Any]:
    return json.loads((place / f"{world}-{rank}.json").read_text())


def takes(seconds: float, model: float) -> bool:
    """Never faster than the model; slower only by what a busy machine adds."""
    return model <= seconds < 2 * model + 1.0


@pytest.mark.parametrize(("world", "rank"), RANKS)
def test_time_is_that_of_the_model(place: Path, world: int, rank: int) -> None:
    """2.5 MB leave each rank at 100 mbit, 12.5 MB/s; or messages of 50 ms each."""
    times = found(place, world, rank)["times"]
    assert takes(times["all_reduce"], 0.2)
    assert takes(times["latency"], 2 * (world - 1) * 0.05), "the messages of a ring"
    assert takes(times["monitored"], {2: 1, 4: 2}[world] * 0.05)
    if rank == 0:
        assert takes(times["send"], 0.2)


@pytest.mark.parametrize(("world", "rank"), RANKS)
def test_one_slow_rank_slows_all(place: Path, world: int, rank: int) -> None:
    """Rank 0 has half the rate, the others fifty times as much.

    Rank 0 may begin a little later than those that wait for it, never earlier.
    """
    times = found(place, world, rank)["times"]
    assert takes(times["one slow"], 0.4 if rank == 0 else 0.35)


@pytest.mark.parametrize(("world", "rank"), RANKS)
def test_a_call_returns_at_once_and_the_link_is_used_in_turn(
    place: Path, world: int, rank: int
) -> None:
    times = found(place, world, rank)["times"]
    assert takes(times["two"], 0.4), "two collectives at once take twice as long"
    assert times["called"] < 0.4, "the calls themselves do not wait"


@pytest.mark.parametrize(("world", "rank"), RANKS)
def test_the_program_computes_meanwhile(place: Path, world: int, rank: int) -> None:
    """It computes until 0.35 s; by then a link of 0.2 s has long been done."""
    times = found(place, world, rank)["times"]
    assert times["left to wait"] < 0.15
    assert times["counted when called"] == 1


@pytest.mark.parametrize(("world", "rank"), RANKS)
def test_results_are_the_same_bit_for_bit(place: Path, world: int, rank: int) -> None:
    """Of every collective, DDP with and without a hook, FSDP2, and a pipeline."""
    compared = found(place, world, rank)
    assert compared["compared"] >= 70
    assert compared["different"] == []


def test_refusals_are_heard(place: Path) -> None:
    gloo, lab, after = found(place, 2, 0)["refusals"]
    assert "invalid output tensor list" in gloo
    assert lab == "this rank's link is already 100mbit: use one throttle."
    assert after == "[2.0, 2.0]", "the group is still of use"


def test_after_a_failure_nobody_waits_for_the_link(place: Path) -> None:
    """The failed block had called what takes the link 200 s."""
    assert found(place, 2, 0)["times"]["failed"] < 20


def test_a_lost_peer_is_heard_however_it_is_waited_for(place: Path) -> None:
    assert json.loads((place / "lost.json").read_text()) == dict.fromkeys(
        ["ddp", "all_reduce", "send", "reduce_scatter", "functional"], "lost peer"
    )
