"""Run a function on several ranks that are copies of this process.

The imports are paid once, as in a torchrun cell.

    if __name__ == "__main__":
        run_on_ranks(body, ranks=4)

Each rank finds what torchrun would set in its environment.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable


def run_on_ranks(body: Callable[[], None], ranks: int) -> None:
    """Run `body` once on each rank; ends this program when a rank fails."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(ranks),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    context = multiprocessing.get_context("fork")
    processes = []
    for rank in range(ranks):
        os.environ["RANK"] = os.environ["LOCAL_RANK"] = str(rank)
        processes.append(context.Process(target=body))
        processes[-1].start()
    for process in processes:
        process.join()
    failed = [rank for rank, process in enumerate(processes) if process.exitcode]
    if failed:
        sys.exit(f"failed: ranks {failed} of {ranks}")
