"""A small cluster's network on one machine, with links as slow as asked for.

    agent's namespace                           namespace of rank r
    -----------------                           -------------------
    bridge "data"     -- port r ========= eth0  10.1.x.x   shaped both ways
    bridge "control"  -- side r --------- ctl0  10.2.x.x   not shaped
        10.2.0.1: torchrun's store

Each rank has a namespace of its own (namespaces.py) with two virtual cables
(veth pairs). What ranks say to each other runs through eth0, where `tc tbf`, a
token bucket, lets the asked-for rate pass: outward at the rank's end, inward at
the switch's end. The store's messages take the other cable, so they neither
wait behind gradients nor appear in eth0's counters.

The agent calls `build_network` before it has any thread, and starts everything
else afterwards. A rank calls `enter_network` before it has any thread.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import math
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from labsupport.distributed import namespaces
from labsupport.distributed.link_speed import LinkSpeed

DATA = ipaddress.ip_network("10.1.0.0/16")
CONTROL = ipaddress.ip_network("10.2.0.0/16")
SBIN = ("/usr/sbin", "/sbin")  # not on every user's PATH
ENTRANCES = "LABS_NETWORK"

# Jumbo frames, as clusters use them: 66 of 9014 bytes are headers, where it is
# 66 of 1514 with the ordinary size. tbf counts headers too.
MTU = 9000
# What may pass at once after a pause. It must hold a frame and cover the time
# until the system wakes tbf again; more would let small messages pass unshaped.
# tbf cuts TCP's larger packets (up to 64 KiB) into frames by itself.
BURST_BYTES = 16 * 1024
BURST_S = 1e-3
# What may wait. TCP has at most 4 MiB under way in a connection, so little or
# nothing is dropped, as on a switch that makes its senders wait.
QUEUE_BYTES = 16 * 1024**2
QUEUE_PACKETS = 100_000  # netem counts packets

CONGESTION_CONTROLS = ("cubic", "reno")


class CannotShape(Exception):
    """Why there is no shaped network here: one clause for the reader."""


@dataclass(frozen=True)
class Network:
    """What `build_network` has made.

    Attributes:
        agent_address: where ranks reach the agent.
        store_addresses: where ranks reach each rank beside the shaped link.
        addresses: each rank's address on its shaped link, eth0.
        entrances: paths by which a rank enters its namespace.
        congestion_control: what TCP uses in the ranks' namespaces.
        delays: whether the links have their latency. If not, and one was asked
            for, something else has to emulate it.
    """

    agent_address: str
    store_addresses: list[str]
    addresses: list[str]
    entrances: list[str]
    congestion_control: str
    delays: bool

    def environment(self) -> dict[str, str]:
        """For the agent's environment, which the ranks inherit."""
        return {
            ENTRANCES: ":".join(self.entrances),
            "GLOO_SOCKET_IFNAME": "eth0",
            # NCCL would go past the links: over NVLink, PCIe, shared memory.
            "NCCL_SOCKET_IFNAME": "eth0",
            "NCCL_P2P_DISABLE": "1",
            "NCCL_SHM_DISABLE": "1",
            "NCCL_IB_DISABLE": "1",
        }

    def note(self) -> str:
        """How the links are made, for the reader."""
        how = f"links shaped by tc tbf, TCP with {self.congestion_control}"
        return how if self.delays else f"{how}; no netem here to delay packets"


def build_network(links: list[LinkSpeed]) -> Network:
    """Move this process into a network namespace of its own and build there.

    Args:
        links: one for each rank.

    Returns:
        The network, which works for as long as this process stays where it is.

    Raises:
        CannotShape: this machine does not allow it, or lacks a part. The process
            may have left its network by then, so ask `what_prevents_shaping` first.
    """
    if sys.platform != "linux":
        raise CannotShape("network namespaces need Linux")
    for tool in ("ip", "tc"):
        find_tool(tool)
    try:
        namespaces.leave_for_own_network()
    except OSError as error:
        raise CannotShape(why_no_namespace(error)) from None
    return connect(links)


def connect(links: list[LinkSpeed]) -> Network:
    """Lay the cables of a network whose switches are in this namespace."""
    prepare_namespace()
    ip(
        "link set lo up",
        "link add data up type bridge mcast_snooping 0",
        "link add control up type bridge mcast_snooping 0",
        f"address add {CONTROL[1]}/{CONTROL.prefixlen} dev control",
    )
    here = namespaces.hold_current()
    entrances, delays, congestion_control = [], True, ""
    for rank, link in enumerate(links):
        with namespaces.inside_a_new_one() as inside:
            congestion_control = prepare_namespace()
            ip(*cables(rank, namespaces.path_of(here)))
            tc(*shape("eth0", link))
            delays = delay("eth0", link) and delays
        entrances.append(namespaces.path_of(inside))
    os.close(here)
    ranks = range(len(links))
    ip(*(f"link set port{rank} master data up" for rank in ranks))
    ip(*(f"link set side{rank} master control up" for rank in ranks))
    tc(*(line for rank in ranks for line in shape(f"port{rank}", links[rank])))
    return Network(
        agent_address=str(CONTROL[1]),
        store_addresses=[str(CONTROL[rank + 2]) for rank in ranks],
        addresses=[str(DATA[rank + 1]) for rank in ranks],
        entrances=entrances,
        congestion_control=congestion_control,
        delays=delays,
    )


def enter_network(rank: int) -> None:
    """Move a rank, its local number given, into its namespace; without shaped
    links do nothing. For the rank's first moment: threads that exist already
    stay where they are.
    """
    entrances = os.environ.get(ENTRANCES)
    if entrances:
        namespaces.enter(entrances.split(":")[rank])


def what_prevents_shaping() -> str | None:
    """None when links can be shaped here; otherwise why not, in one clause.

    Tried in a process of its own: a network for two ranks, which is gone with it.
    """
    probe = subprocess.run(
        [sys.executable, "-m", "labsupport.distributed.network"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if probe.returncode == 0:
        return None
    return (probe.stdout or probe.stderr).strip().rpartition("\n")[2]


def prepare_namespace() -> str:
    """Set what a new namespace has of its own; returns the congestion control.

    It is inherited from the machine, where it may be one (bbr) that paces its
    packets by a rate it estimates, and then two machines would measure
    different things on the same link. IPv6 would announce itself on every
    cable, and the counters would show it.
    """
    settings = Path("/proc/sys/net")
    for of in ("all", "default"):
        with contextlib.suppress(OSError):
            (settings / f"ipv6/conf/{of}/disable_ipv6").write_text("1")
    congestion_control = settings / "ipv4/tcp_congestion_control"
    for name in CONGESTION_CONTROLS:
        with contextlib.suppress(OSError):  # not allowed here, or /proc is read-only
            congestion_control.write_text(name)
            break
    return congestion_control.read_text().strip()


def cables(rank: int, switch: str) -> list[str]:
    """A rank's two veth pairs, made in its namespace with the far ends at `switch`."""
    return [
        "link set lo up",
        f"link add eth0 mtu {MTU} type veth "
        f"peer name port{rank} mtu {MTU} netns {switch}",
        f"address add {DATA[rank + 1]}/{DATA.prefixlen} dev eth0",
        "link set eth0 up",
        f"link add ctl0 type veth peer name side{rank} netns {switch}",
        f"address add {CONTROL[rank + 2]}/{CONTROL.prefixlen} dev ctl0",
        "link set ctl0 up",
    ]


def shape(device: str, link: LinkSpeed) -> list[str]:
    """Let `link.bytes_per_s` out of a device."""
    if link.bytes_per_s is None:
        return []
    burst = max(BURST_BYTES, math.ceil(link.bytes_per_s * BURST_S))
    return [
        f"qdisc add dev {device} root handle 1: tbf "
        f"rate {round(link.bytes_per_s * 8)}bit burst {burst} limit {QUEUE_BYTES}"
    ]


def delay(device: str, link: LinkSpeed) -> bool:
    """Hold what leaves a device for `link.latency_s`, in place of tbf's queue;
    False if this kernel has no netem.
    """
    if not link.latency_s:
        return True
    place = "root" if link.bytes_per_s is None else "parent 1:"
    microseconds = round(link.latency_s * 1e6)
    try:
        tc(
            f"qdisc add dev {device} {place} netem "
            f"delay {microseconds}us limit {QUEUE_PACKETS}"
        )
    except CannotShape:
        return False
    return True


def ip(*commands: str) -> None:
    run_batch("ip", commands)


def tc(*commands: str) -> None:
    run_batch("tc", commands)


def run_batch(tool: str, commands: tuple[str, ...]) -> None:
    """One process for all commands; they act on this thread's namespace."""
    if not commands:
        return
    done = subprocess.run(
        [find_tool(tool), "-batch", "-"],
        input="".join(f"{command}\n" for command in commands),
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        said = done.stderr.partition("\n")[0]
        if "not permitted" in said or "denied" in said:
            raise CannotShape(NO_PERMISSION)
        raise CannotShape(f"{tool} says: {said}")


def find_tool(name: str) -> str:
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *SBIN])
    found = shutil.which(name, path=path)
    if found is None:
        raise CannotShape(f"{name} is not installed: install iproute2")
    return found


NO_PERMISSION = "no permission to make network namespaces"


def why_no_namespace(error: OSError) -> str:
    """As a clause. ENOSPC: the administrator allows none, or no more."""
    if error.errno in (errno.EPERM, errno.EACCES, errno.ENOSPC):
        return NO_PERMISSION
    return f"no network namespaces ({error.strerror})"


def main() -> None:
    """What `what_prevents_shaping` runs."""
    try:
        build_network([LinkSpeed(bytes_per_s=12.5e6)] * 2)
    except CannotShape as reason:
        print(reason)
        sys.exit(1)


if __name__ == "__main__":
    main()
