"""The process between kernel and ranks: exactly torchrun, kept warm.

    python -m labsupport.distributed.agent CHANNEL [LINK ...]   (the kernel does it)

CHANNEL is the number of a socket on which the kernel sends one request for
each cell, a line of JSON: {"folder", "nproc", "links": what --link asks for,
"arguments": of torchrun}. The agent calls torchrun's own `parse_args` and `run`,
writes down every rank's exit code, which torchrun only prints, and answers with
an empty line. It leaves when nothing was asked of it for some minutes, and gives
its memory back.

With LINKs, one a rank, the agent and its ranks live in a small network of their
own (network.py).
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

from labsupport.distributed.folders import RunFolder, write_json
from labsupport.distributed.lifeline import end_with_the_kernel
from labsupport.distributed.link_speed import LinkSpeed, parse_link
from labsupport.distributed.network import Network, build_network

IDLE_S = float(os.environ.get("LABS_IDLE_SECONDS", "300"))
# How often torchrun looks whether a rank has ended.
MONITOR_S = 0.02


def torchrun_arguments(
    folder: RunFolder, request: dict[str, Any], network: Network | None
) -> list[str]:
    """The command line, as after the word `torchrun`.

    Port 0: the rendezvous store takes a free port and says which, so there is
    no moment in which another process could take a port that was found free.
    Without --max-restarts a failing cell must not run a second time by itself.
    """
    defaults = {
        "--nnodes": "1",
        "--nproc-per-node": str(request["nproc"]),
        "--rdzv-backend": "c10d",
        "--rdzv-endpoint": "127.0.0.1:0",
        "--rdzv-id": folder.path.name,
        "--max-restarts": "0",
        "--monitor-interval": str(MONITOR_S),
        "--shutdown-timeout": "3",
        "--log-dir": str(folder.path / "torchrun"),
    }
    if network is not None:
        # Where the ranks' store is: here, or with --max-restarts on rank 0.
        own_store = "--max-restarts" in request["arguments"]
        place = network.store_addresses[0] if own_store else network.agent_address
        defaults["--local-addr"] = place
    elif "--nnodes" not in request["arguments"]:
        defaults["--local-addr"] = "127.0.0.1"
    chosen = defaults | request["arguments"]
    return [
        *(f"{name}={value}" for name, value in chosen.items()),
        "--module",
        "labsupport.distributed.worker",
        str(folder.path),
    ]


def loopback() -> str | None:
    """The interface that keeps gloo on this machine. By default it listens on the
    address that the host name resolves to, which on a laptop may be a network
    it has left.
    """
    names = [name for _, name in socket.if_nameindex()]
    return next((name for name in ("lo", "lo0") if name in names), None)


def choose_interface(several_machines: bool, chosen: str | None) -> None:
    """Tell gloo its interface: the reader's choice, or else loopback, unless the
    ranks are on several machines.
    """
    name = chosen or (None if several_machines else loopback())
    os.environ.pop("GLOO_SOCKET_IFNAME", None)
    if name is not None:
        os.environ["GLOO_SOCKET_IFNAME"] = name


def end_everything() -> None:
    """End what the ranks did not end themselves when the kernel went."""
    from labsupport.distributed.processes import end_all, of_pool

    token, me = os.environ["LABS_POOL"], os.getpid()
    end_all(lambda: [process for process in of_pool(token) if process.pid != me])
    shutil.rmtree(os.environ["LABS_POOL_DIR"], ignore_errors=True)


def emulated_links(links: list[str], network: Network | None) -> list[str] | None:
    """What throttle.py has to do, by rank: all of the links, or only the delay
    that the network lacks.
    """
    if network is None:
        return links or None
    speeds = [parse_link(link) for link in links]
    if network.delays or not any(speed.latency_s for speed in speeds):
        return None
    return [str(LinkSpeed(None, speed.latency_s)) for speed in speeds]


def run_cell(request: dict[str, Any], network: Network | None) -> None:
    """Run one cell under torchrun and write down how it ended."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    from labsupport.distributed.forked import Rank
    from labsupport.distributed.rank_api import choose_backend

    folder, nproc = RunFolder(Path(request["folder"])), request["nproc"]
    chosen, gpus = choose_backend(nproc)
    os.environ["LABS_BACKEND"] = chosen
    # torch lets the ranks of all attempts meet in one store. With gloo a rank
    # that was restarted then finds the addresses of those that have died.
    several = request["arguments"].get("--max-restarts", "0") != "0"
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = str(int(several))
    throttle = emulated_links(request["links"], network)
    note = network.note() if network else None
    if note and throttle:
        note += ": the delay is emulated in the ranks' calls"
    machine = {"backend": chosen, "gpus": gpus, "network": note, "throttle": throttle}
    write_json(folder.machine, machine)
    error = None
    Rank.latest.clear()
    try:
        run(parse_args(torchrun_arguments(folder, request, network)))
    except ChildFailedError:
        pass  # the exit codes say it
    except Exception:  # torchrun itself failed; the kernel shows what it said
        error = traceback.format_exc()
    codes: dict[int, int | None] = dict.fromkeys(range(nproc), 0)
    codes |= Rank.exit_codes()
    write_json(folder.agent_end, {"exitcodes": codes, "error": error})


def main() -> None:
    network = None
    if sys.argv[2:]:  # before there is any thread
        network = build_network([parse_link(link) for link in sys.argv[2:]])
        os.environ.update(network.environment())
    end_with_the_kernel(first=end_everything)
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.set_inheritable(False)
    channel.settimeout(IDLE_S)
    interface = os.environ.get("GLOO_SOCKET_IFNAME")
    from labsupport.distributed.forked import use_forked_ranks

    use_forked_ranks()
    requests = channel.makefile("r", encoding="utf-8")
    while True:
        try:
            line = requests.readline()
        except TimeoutError:  # idle for long
            line = ""
        if not line:
            end_everything()
            return
        request = json.loads(line)
        with Path(RunFolder(Path(request["folder"])).agent_log).open("ab") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        choose_interface("--nnodes" in request["arguments"], interface)
        run_cell(request, network)
        channel.sendall(b"\n")


if __name__ == "__main__":
    main()
