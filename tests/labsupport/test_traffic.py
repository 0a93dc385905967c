"""Traffic is counted right: against hand-worked numbers, the sockets' own
counters, and the loopback interface of a network namespace.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from labsupport.distributed.traffic_counts import Connection, Count, RankTraffic
from labsupport.distributed.traffic_report import Traffic, bytes_text, read_traffic

ROOT = Path(__file__).parents[2]
MIB4 = 2**22
WORLDS = (2, 4)
ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
    "PYTHONWARNINGS": "ignore",
}
linux = pytest.mark.skipif(sys.platform != "linux", reason="sockets are read on Linux")


def private_network() -> list[str]:
    """The words that run a program with a loopback interface of its own."""
    for options in (["-n"], ["-rn"]):
        words = ["unshare", *options, "sh", "-c", 'ip link set lo up && exec "$@"', "-"]
        if shutil.which("unshare") and shutil.which("ip"):
            done = subprocess.run([*words, "true"], capture_output=True)
            if done.returncode == 0:
                return words
    return []


class Runs:
    """What the ranks of traffic_ranks.py wrote."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.private = private_network()
        script = ROOT / "tests" / "labsupport" / "traffic_ranks.py"
        done = subprocess.run(
            [*self.private, sys.executable, str(script), str(place)],
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr

    def ranks(self, world: int, step: str) -> list[dict[str, Any]]:
        files = [self.place / f"{world}-{rank}.json" for rank in range(world)]
        return [json.loads(file.read_text())[step] for file in files]

    def whole(self, world: int, cell: str = "traffic") -> Traffic:
        return read_traffic(
            [self.place / f"{world}-{rank}.{cell}" for rank in range(world)]
        )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("traffic"))


# What each rank sends of the 4 MiB that it hands in: textbook, then gloo.
Share = Callable[[int, int], float]
PLAIN: dict[str, tuple[Share, Share]] = {
    "all_reduce": (lambda r, W: 2 * (W - 1) / W,) * 2,
    "all_gather_single": (lambda r, W: W - 1,) * 2,
    # gloo: one all_reduce for each part, twice what is needed.
    "reduce_scatter_single": (lambda r, W: (W - 1) / W, lambda r, W: 2 * (W - 1) / W),
    "all_to_all_single": (lambda r, W: 1 / 2,) * 2,
    "gather": (lambda r, W: float(r > 0),) * 2,
    "send": (lambda r, W: float(r == 0),) * 2,
    "barrier": (lambda r, W: 0.0,) * 2,
}
PLAIN["scatter"] = (lambda r, W: (W - 1) * (r == 0),) * 2  # handed in: W x 4 MiB


@linux
@pytest.mark.distributed
@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", PLAIN)
def test_textbook_and_sockets(runs: Runs, name: str, world: int) -> None:
    textbook, gloo = PLAIN[name]
    for rank, seen in enumerate(runs.ranks(world, name)):
        called = "recv" if name == "send" and rank == 1 else name
        if name == "send" and rank > 1:
            assert seen["collectives"] == {}
            continue
        assert list(seen["collectives"]) == [called]
        count = seen["collectives"][called]
        assert count["calls"] == 1
        assert count["ideal_sent"] == pytest.approx(textbook(rank, world) * MIB4, abs=8)
        assert seen["sent"] == pytest.approx(
            gloo(rank, world) * MIB4, rel=2e-3, abs=2e3
        )


@linux
@pytest.mark.distributed
@pytest.mark.parametrize("world", WORLDS)
def test_a_tree_shares_out_what_the_textbook_gives_the_root(
    runs: Runs, world: int
) -> None:
    seen = runs.ranks(world, "broadcast")
    ideal = [rank["collectives"]["broadcast"]["ideal_sent"] for rank in seen]
    assert ideal == [(world - 1) * MIB4] + [0] * (world - 1)
    assert sum(rank["sent"] for rank in seen) == pytest.approx(sum(ideal), rel=2e-3)


@linux
@pytest.mark.distributed
@pytest.mark.parametrize("world", WORLDS)
def test_sockets_agree_with_the_network_interface(runs: Runs, world: int) -> None:
    """The interface also counts TCP's headers, the store, and what TCP sends anew."""
    if not runs.private:
        pytest.skip("network namespaces are not allowed here")
    for name in [*PLAIN, "broadcast", "reduce"]:
        seen = runs.ranks(world, name)
        links = [link for rank in seen for link in rank["connections"]]
        sent = sum(link["sent"] for link in links)
        received = sum(link["received"] for link in links)
        assert received == pytest.approx(sent, rel=1e-3, abs=2000)
        carried = sent + sum(link["sent_again"] for link in links)
        assert carried <= seen[0]["loopback"] <= 1.05 * carried + 50_000, name


# (calls, bytes handed in, bytes sent by the textbook) on each of two ranks.
LAYERS = 2 * 256 * 256 * 4  # two matrices of float32
OTHERWISE = {
    "async": {"all_reduce": (3, 3 * MIB4, 3 * MIB4)},
    "batched": {"send": (1, MIB4, MIB4), "recv": (1, MIB4, 0)},
    "functional": {"all_reduce": (1, MIB4, MIB4)},
    "inference": {"all_reduce": (1, MIB4, MIB4)},
    "ddp": {"all_reduce": (2, LAYERS, LAYERS)},  # one bucket for each matrix
    "ddp fp16 hook": {"all_reduce": (1, LAYERS // 2, LAYERS // 2)},
    # Each matrix is gathered twice, forward and backward.
    "fsdp2": {
        "all_gather_single": (4, LAYERS, LAYERS),
        "reduce_scatter_single": (2, LAYERS, LAYERS // 2),
    },
    "tensor parallel": {"all_reduce": (1, 8192, 8192)},
}


@linux
@pytest.mark.distributed
@pytest.mark.parametrize("name", OTHERWISE)
def test_every_way_to_issue_a_collective_is_seen(runs: Runs, name: str) -> None:
    for seen in runs.ranks(2, name):
        counts = {k: tuple(v.values()) for k, v in seen["collectives"].items()}
        assert counts == OTHERWISE[name]
        wire = sum(v[2] for v in counts.values())
        if name == "fsdp2":
            wire += LAYERS // 2  # gloo's reduce_scatter
        assert seen["sent"] == pytest.approx(wire, rel=0.01, abs=2000)


@linux
@pytest.mark.distributed
def test_what_is_not_named_is_seen_too(runs: Runs) -> None:
    first, second = runs.ranks(2, "object")
    assert first["collectives"]["all_gather"]["calls"] == 2, "the sizes, the objects"
    first, second = runs.ranks(2, "pipeline")
    assert first["collectives"]["send"] == second["collectives"]["recv"] | {
        "ideal_sent": 2 * 4 * 64 * 4  # two micro-batches of 4 rows of 64
    }
    first, second = runs.ranks(2, "checkpoint")
    assert {"gather", "scatter"} <= set(first["collectives"])


@linux
@pytest.mark.distributed
def test_a_refused_collective_fails_as_ever_and_is_not_counted(runs: Runs) -> None:
    refused = json.loads((runs.place / "2-0.refused").read_text())
    assert "invalid output tensor list" in refused
    assert json.loads((runs.place / "2-0.issued").read_text()) == ["barrier"]


@linux
@pytest.mark.distributed
@pytest.mark.parametrize("world", WORLDS)
def test_a_whole_run_though_the_body_destroyed_its_groups(
    runs: Runs, world: int
) -> None:
    """The last rank wrote after all others had closed their connections."""
    whole = runs.whole(world)
    assert not whole.missing
    sent, received = (
        [getattr(t, k) for t in whole.ranks] for k in ("sent", "received")
    )
    assert sum(sent) == pytest.approx(sum(received), rel=1e-4)
    assert sum(sent) > sum(t.ideal_sent for t in whole.ranks)
    peers = whole.peers().set_index(["rank", "peer"])
    assert len(peers) == world * (world - 1), "every pair, and no other connection"
    for (rank, peer), row in peers.iterrows():
        assert row["sent"] == pytest.approx(peers.loc[peer, rank]["received"], abs=2000)


@linux
@pytest.mark.distributed
def test_each_cell_of_kept_ranks_has_its_own_count(runs: Runs) -> None:
    for rank, first in enumerate(runs.whole(4, "first").ranks):
        assert first["all_reduce"] == Count(1, MIB4, MIB4 * 3 // 2)
        assert first.sent == pytest.approx(MIB4 * 3 / 2, rel=2e-3)
        second = runs.whole(4)[rank]
        steps = [*PLAIN, "broadcast", "reduce"]
        sent = sum(runs.ranks(4, step)[rank]["sent"] for step in steps)
        sent += MIB4 * (rank < 2)  # in a group of two, at the end
        assert second.sent == pytest.approx(sent, rel=2e-3)


SCRIPT = """
import torch
import torch.distributed as dist
from labsupport.distributed import backend, count_traffic
with count_traffic() as step:
    dist.init_process_group(backend())
    dist.all_reduce(torch.ones(1000))
    dist.destroy_process_group()
assert torch.distributed.destroy_process_group is dist.destroy_process_group
assert not hasattr(dist.destroy_process_group, "__wrapped__"), "torch as it was"
if step.rank == 0:
    print(step)
"""


@linux
@pytest.mark.distributed
def test_in_a_plain_script_under_torchrun(tmp_path: Path) -> None:
    script = tmp_path / "step.py"
    script.write_text(SCRIPT)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*torchrun, "--nproc-per-node", "2", str(script)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    counted, measured = done.stdout.rstrip().rsplit("\n", 1)
    assert counted == (
        "counted on rank 0  calls  handed in  ideal sent\n"
        "all_reduce             1   4.000 kB    4.000 kB"
    )
    assert measured.startswith("rank 0's sockets: 4.")


def rank(number: int, measured: int | None = None, **counts: Count) -> RankTraffic:
    """A rank that sent `measured` bytes to the next of two."""
    link = Connection(f"a:{number}", f"a:{1 - number}", measured or 0, 7, 0)
    return RankTraffic(
        number,
        2,
        counts,
        connections=None if measured is None else [link],
        not_measured="nccl need not" if measured is None else "",
    )


def test_the_text_of_ranks_that_are_alike() -> None:
    counts = {"all_reduce": Count(2, 3_000_000, 3_000_000), "barrier": Count(1)}
    traffic = Traffic([rank(0, 3_010_000, **counts), rank(1, 3_010_001, **counts)])
    assert str(traffic) == (
        "counted on each of 2 ranks  calls  handed in  ideal sent\n"
        "all_reduce                      2   3.000 MB    3.000 MB\n"
        "barrier                         1        0 B         0 B\n"
        "each rank's sockets: 3.0 MB sent (1.00 x ideal), 7 B received"
    )


def test_the_text_of_ranks_that_differ() -> None:
    traffic = Traffic(
        [rank(0, 4000, send=Count(1, 4000, 4000)), rank(1, 0, recv=Count(1, 4000, 0))],
        missing=[2],
    )
    assert str(traffic) == (
        "counted on each of 2 ranks   calls        handed in       ideal sent\n"
        "send                        0 to 1  0 B to 4.000 kB  0 B to 4.000 kB\n"
        "recv                        0 to 1  0 B to 4.000 kB              0 B\n"
        "rank 0's sockets: 4.0 kB sent (1.00 x ideal), 7 B received\n"
        "rank 1's sockets: 0 B sent, 7 B received\n"
        "rank 2 left no counts"
    )


def test_not_measured_is_not_zero() -> None:
    traffic = Traffic([rank(0, None, barrier=Count(1))])
    assert traffic.measured() == "not measured at the sockets: nccl need not"
    assert traffic[0].sent is None
    assert traffic.table()["sent"].isna().all()


def test_a_silent_run() -> None:
    assert Traffic([rank(0, 0)]).counted() == "no collective was called"
    assert "left no counts" in str(read_traffic([Path("never written")]))


def test_the_text_stays_short() -> None:
    kinds = {f"kind_{i}": Count(1, 10 - i, 10 - i) for i in range(9)}
    ranks = [
        RankTraffic(r, 4, kinds, [Connection("a", "b", r, r, 0)]) for r in range(4)
    ]
    text = str(Traffic(ranks))
    assert len(text.splitlines()) == 12
    assert "and kind_6, kind_7, kind_8" in text


def test_the_table() -> None:
    traffic = Traffic([rank(0, 4000, send=Count(1, 4000, 4000)), rank(1, 0)])
    table = traffic.table()
    assert table.columns.tolist() == (
        "rank collective calls payload ideal_sent sent received".split()
    )
    assert table["collective"].tolist() == ["send", "total", "total"]
    assert table.iloc[1].tolist() == [0, "total", 1, 4000, 4000, 4000, 7]
    assert traffic.peers()[["rank", "peer"]].values.tolist() == [[0, 1], [1, 0]]


def test_written_and_read(tmp_path: Path) -> None:
    written = rank(0, 5, send=Count(1, 2, 3))
    (tmp_path / "0").write_text(json.dumps(asdict(written)))
    read = read_traffic([tmp_path / "0", tmp_path / "1"], first=4)
    assert list(read.ranks) == [written]
    assert list(read.missing) == [5]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (4_194_304, "4.2 MB"),
        (1_500_000_000, "1.5 GB"),
        (10**13, "10000.0 GB"),
    ],
)
def test_bytes_text(count: int, text: str) -> None:
    assert bytes_text(count, 1) == text
