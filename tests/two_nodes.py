"""Two machines for tests: two network namespaces on one switch.

    with two_nodes() as nodes:
        process = nodes.run_in(0, ["torchrun", ...], stdout=PIPE)

As on a cluster, a node's host name leads to its address; here because it is the
address. A process of its own (`hold`) holds the namespaces and ends when its
stdin closes, so nothing is left even if pytest is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labsupport.distributed import namespaces
from labsupport.distributed.links import UNLIMITED
from labsupport.distributed.network import build_network

CLONE_NEWUTS = 0x04000000  # a host name of its own
THIS = str(Path(__file__).resolve())


@dataclass
class TwoNodes:
    """Attributes:
    addresses: the nodes' addresses, by which they reach each other.
    """

    holder: int
    addresses: list[str]
    entrances: list[str]
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def run_in(self, node: int, argv: list[str], **more: Any) -> subprocess.Popen[str]:
        """Start a command in a node; it is killed when the nodes go."""
        where = [str(self.holder), self.entrances[node], self.addresses[node]]
        process = subprocess.Popen(
            [sys.executable, THIS, "enter", *where, *argv], text=True, **more
        )
        self.started.append(process)
        return process

    def processes(self) -> list[int]:
        """The ids of all processes that are in a node now."""
        inside = {Path(entrance).stat().st_ino for entrance in self.entrances}
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended, or is another user's
                if (place / "ns/net").stat().st_ino in inside:
                    found.append(int(place.name))
        return found

    def end(self) -> None:
        """Kill what is in the nodes, until nothing is."""
        while found := self.processes():
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for process in self.started:
            process.communicate()


@contextlib.contextmanager
def two_nodes() -> Iterator[TwoNodes]:
    """Two nodes, for as long as the block lasts."""
    with subprocess.Popen(
        [sys.executable, THIS, "hold"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        nodes = TwoNodes(holder.pid, **json.loads(holder.stdout.readline()))
        try:
            yield nodes
        finally:
            nodes.end()
            holder.stdin.close()


def traces_of(namespaces: list[int]) -> list[str]:
    """Whatever keeps one of these namespaces: a process in it, a descriptor, a
    name. A namespace that nothing keeps does not exist.
    """
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            for place in (process / "ns/net", *(process / "fd").iterdir()):
                with contextlib.suppress(OSError):
                    name = str(place.readlink())
                    if name in [f"net:[{inode}]" for inode in namespaces]:
                        found.append(str(place))
    mounts = Path("/proc/self/mountinfo").read_text()
    return found + [f"{i}" for i in namespaces if f"net:[{i}]" in mounts]


def hold() -> None:
    network = build_network([UNLIMITED] * 2)
    made = {"addresses": network.addresses, "entrances": network.entrances}
    print(json.dumps(made), flush=True)
    sys.stdin.read()


def enter(holder: str, entrance: str, address: str, *argv: str) -> None:
    users = Path(f"/proc/{holder}/ns/user")
    if not users.samefile("/proc/self/ns/user"):  # made without root
        descriptor = os.open(users, os.O_RDONLY)
        namespaces.system_call("setns", descriptor, namespaces.CLONE_NEWUSER)
    namespaces.enter(entrance)
    namespaces.system_call("unshare", CLONE_NEWUTS)
    socket.sethostname(address)
    os.execvp(argv[0], argv)


if __name__ == "__main__":
    {"hold": hold, "enter": enter}[sys.argv[1]](*sys.argv[2:])
