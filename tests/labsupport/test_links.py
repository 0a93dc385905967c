"""Shaped links: who gets which, how fast they are, and that none is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from labsupport.distributed import network
from labsupport.distributed.link_speed import LinkSpeed, parse_link
from labsupport.distributed.links import UNLIMITED, links_for
from labsupport.distributed.network import what_prevents_shaping
from labsupport.errors import LabError
from tests.two_nodes import traces_of

HERE = Path(__file__).parent
QUIET = os.environ | {"TORCH_CPP_LOG_LEVEL": "ERROR"}


@pytest.fixture(scope="module")
def allowed() -> None:
    reason = what_prevents_shaping()
    if reason is not None:
        pytest.skip(f"no shaped links here: {reason}")


needs_namespaces = pytest.mark.usefixtures("allowed")


# --- The options -------------------------------------------------------------


def test_a_cell_without_links() -> None:
    assert links_for(4, None, []) is None


def test_every_rank_has_the_common_link_or_its_own() -> None:
    fast, slow = parse_link("100mbit,5ms"), parse_link("50mbit")
    assert links_for(3, "100mbit,5ms", []) == [fast] * 3
    assert links_for(3, "100mbit,5ms", ["2=50mbit"]) == [fast, fast, slow]
    assert links_for(2, None, ["0=50mbit"]) == [slow, UNLIMITED]
    assert links_for(2, "50mbit", ["0 = 100mbit,5ms", "1=50mbit"]) == [fast, slow]


@pytest.mark.parametrize(
    ("link", "link_ranks", "said"),
    [
        ("fast", [], "'fast' is no link"),
        (None, ["1=fast"], "'fast' is no link"),
        (None, ["1="], "'' is no link"),
        (None, ["2"], "write RANK=LINK, as in --link-rank 2=50mbit"),
        (None, ["50mbit"], "write RANK=LINK"),
        (None, ["=50mbit"], "write RANK=LINK"),
        (None, ["-1=50mbit"], "write RANK=LINK"),
        ("1gbit", ["4=50mbit"], "with --nproc 4 ranks are 0 to 3"),
        ("1gbit", ["2=50mbit", "2=10mbit"], "names rank 2 twice"),
    ],
)
def test_a_wrong_option_is_one_sentence(
    link: str | None, link_ranks: list[str], said: str
) -> None:
    with pytest.raises(LabError) as caught:
        links_for(4, link, link_ranks)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


# --- Whether it is possible --------------------------------------------------


@needs_namespaces
def test_asking_is_cheap_and_leaves_nothing() -> None:
    before = interfaces()
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        assert what_prevents_shaping() is None
        seconds.append(time.perf_counter() - start)
    assert interfaces() == before
    assert min(seconds) < 0.3


def test_why_not_on_another_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(network.CannotShape, match="network namespaces need Linux"):
        network.build_network([UNLIMITED])


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_why_not_without_tc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network.shutil, "which", lambda name, path: None)
    with pytest.raises(network.CannotShape, match="ip is not installed: install ipro"):
        network.build_network([UNLIMITED])


@needs_namespaces
def test_why_not_where_none_are_allowed() -> None:
    """In a user namespace whose limit of network namespaces is zero."""
    script = """
import os
from pathlib import Path
from labsupport.distributed.namespaces import CLONE_NEWUSER, system_call
from labsupport.distributed.network import what_prevents_shaping
user = os.geteuid()
system_call("unshare", CLONE_NEWUSER)
Path("/proc/self/uid_map").write_text(f"0 {user} 1")
Path("/proc/sys/user/max_net_namespaces").write_text("0")
print(what_prevents_shaping())
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "no permission to make network namespaces"


# --- How fast the links are --------------------------------------------------

EXPERIMENTS = {
    "2 at 100": {"links": ["100mbit"] * 2, "bytes": 3_000_000},
    "4 at 100": {"links": ["100mbit"] * 4, "bytes": 2_000_000},
    "2 at 400": {"links": ["400mbit"] * 2, "bytes": 12_000_000},
    "4 at 400": {"links": ["400mbit"] * 4, "bytes": 8_000_000},
    "1 slow": {"links": ["400mbit"] * 2 + ["50mbit", "400mbit"], "bytes": 1_000_000},
}


@pytest.fixture(scope="module")
def measured(allowed: None) -> dict[str, dict[str, Any]]:
    experiments = json.dumps(list(EXPERIMENTS.values()))
    done = subprocess.run(
        [sys.executable, str(HERE / "shaped_ranks.py"), experiments],
        capture_output=True,
        text=True,
        env=QUIET,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    return dict(zip(EXPERIMENTS, results, strict=True))


def share_of_model(experiment: dict[str, Any], result: dict[str, Any]) -> float:
    """The ring's ideal time, 2(W-1)/W n/rate of the slowest, over the best measured."""
    world = len(experiment["links"])
    rates = [parse_link(text).bytes_per_s or 0.0 for text in experiment["links"]]
    ideal = 2 * (world - 1) / world * experiment["bytes"] / min(rates)
    return ideal / min(result["seconds"])


@pytest.mark.distributed
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_all_reduce_takes_what_the_link_allows(
    measured: dict[str, dict[str, Any]], name: str
) -> None:
    """The fifth is one slow link that all wait for."""
    result = measured[name]
    world = len(EXPERIMENTS[name]["links"])
    assert result["sum"] == world * (world + 1) / 2
    assert 0.70 <= share_of_model(EXPERIMENTS[name], result) <= 1.02


@pytest.mark.distributed
def test_what_a_rank_receives_is_shaped_too(
    measured: dict[str, dict[str, Any]],
) -> None:
    """Three send to one at the same time, each on an idle link of its own."""
    ideal = 3 * EXPERIMENTS["4 at 100"]["bytes"] / 4 / 12.5e6
    assert 0.70 <= ideal / measured["4 at 100"]["gathered_in"] <= 1.02


@pytest.mark.distributed
def test_the_links_counters_hold_what_ranks_sent_each_other(
    measured: dict[str, dict[str, Any]],
) -> None:
    """Data, headers and acknowledgements; the store's messages go elsewhere."""
    for name, experiment in EXPERIMENTS.items():
        world = len(experiment["links"])
        ideal = 2 * (world - 1) / world * experiment["bytes"]
        for sent in measured[name]["sent"]:
            assert all(1.0 <= bytes / ideal <= 1.05 for bytes in sent), name


@pytest.mark.distributed
def test_the_store_does_not_wait_for_the_link(
    measured: dict[str, dict[str, Any]],
) -> None:
    for name, result in measured.items():
        assert result["store_wait"] < 0.1 * min(result["seconds"]), name


@pytest.mark.distributed
def test_the_reader_hears_how_links_are_made(
    measured: dict[str, dict[str, Any]],
) -> None:
    note = measured["2 at 100"]["note"]
    assert "tc tbf" in note
    assert any(name in note for name in network.CONGESTION_CONTROLS)


# --- Delay -------------------------------------------------------------------


def test_a_delay_is_asked_of_netem(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(network, "tc", lambda *commands: asked.extend(commands))
    assert network.delay("eth0", LinkSpeed(12.5e6, 0.005))
    assert network.delay("eth0", LinkSpeed(None, 0.0005))
    assert network.delay("eth0", LinkSpeed(12.5e6)), "none asked for, none missing"
    assert [command.partition(" limit")[0] for command in asked] == [
        "qdisc add dev eth0 parent 1: netem delay 5000us",
        "qdisc add dev eth0 root netem delay 500us",
    ]


def test_a_kernel_without_netem_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*commands: str) -> None:
        raise network.CannotShape("tc says: Specified qdisc kind is unknown.")

    monkeypatch.setattr(network, "tc", refuse)
    assert not network.delay("eth0", LinkSpeed(12.5e6, 0.005))


# --- With torchrun -----------------------------------------------------------


# --- What is left afterwards -------------------------------------------------

AGENT = """
import os, signal, sys
from labsupport.distributed.lifeline import end_with_the_kernel
from labsupport.distributed.links import UNLIMITED
from labsupport.distributed.network import build_network, enter_network
network = build_network([UNLIMITED] * 2)
os.environ.update(network.environment())
inside = [os.stat("/proc/self/ns/net").st_ino]
ready, told = os.pipe()
for rank in range(2):
    if os.fork() == 0:
        enter_network(rank)
        end_with_the_kernel()
        os.write(told, b"x")
        signal.pause()
    os.read(ready, 1)
inside += [os.stat(entrance).st_ino for entrance in network.entrances]
print(*inside, flush=True)
sys.stdin.read()
"""


@pytest.mark.distributed
@needs_namespaces
@pytest.mark.parametrize("user", ["with its rights", "without root"])
@pytest.mark.parametrize("how", ["ends", "is killed"])
def test_nothing_is_left_when_the_agent(how: str, user: str) -> None:
    """Root without its rights stands for a user who has none. It keeps one: to
    be called root inside, for which a user needs none.
    """
    drop = ["setpriv", "--bounding-set=-all,+setfcap"]
    through = drop if user == "without root" and os.geteuid() == 0 else []
    before = interfaces()
    with subprocess.Popen(
        [*through, sys.executable, "-c", AGENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as agent:
        assert agent.stdin is not None and agent.stdout is not None
        inside = [int(number) for number in agent.stdout.readline().split()]
        assert len(set(inside)) == 3
        assert traces_of(inside), "they exist while it runs"
        assert interfaces() == before, "the machine's own network does not change"
        if how == "is killed":
            agent.send_signal(signal.SIGKILL)
        else:
            agent.stdin.close()
        agent.wait(timeout=20)
        end = time.monotonic() + 20
        while traces_of(inside) and time.monotonic() < end:
            time.sleep(0.05)
    assert traces_of(inside) == []
    assert interfaces() == before


def interfaces() -> list[str]:
    """The network interfaces of the machine's own namespace."""
    return sorted(path.name for path in Path("/sys/class/net").iterdir())
