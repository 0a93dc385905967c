"""The process between kernel and ranks: exactly torchrun.

    python -m labsupport.distributed.agent RUN_FOLDER NPROC

It calls torchrun's own `parse_args` and `run`, then writes down every rank's
exit code, which torchrun only prints.
"""

from __future__ import annotations

import os
import socket
import sys
import traceback
from pathlib import Path

from labsupport.distributed.folders import RunFolder, write_json
from labsupport.distributed.lifeline import end_with_the_kernel


def torchrun_arguments(folder: RunFolder, nproc: int) -> list[str]:
    """The command line, as after the word `torchrun`.

    Port 0: the rendezvous store takes a free port and says which, so there is
    no moment in which another process could take a port that was found free.
    One attempt only: a failing cell must not run a second time by itself.
    """
    return [
        "--nnodes=1",
        f"--nproc-per-node={nproc}",
        "--rdzv-backend=c10d",
        "--rdzv-endpoint=127.0.0.1:0",
        "--local-addr=127.0.0.1",
        f"--rdzv-id={folder.path.name}",
        "--max-restarts=0",
        "--shutdown-timeout=3",
        f"--log-dir={folder.path / 'torchrun'}",
        "--module",
        "labsupport.distributed.worker",
        str(folder.path),
    ]


def use_loopback() -> None:
    """Keep gloo on this machine: by default it listens on the address that the
    host name resolves to, which on a laptop may be a network it has left.
    """
    for _, name in socket.if_nameindex():
        if name in ("lo", "lo0"):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def end_ranks(folder: RunFolder) -> None:
    """End what the ranks did not end themselves when the kernel went."""
    from labsupport.distributed.processes import of_run

    for process in of_run(folder):
        if process.pid != os.getpid():
            process.kill()


def main() -> None:
    folder = RunFolder(Path(sys.argv[1]))
    nproc = int(sys.argv[2])
    end_with_the_kernel(first=lambda: end_ranks(folder))

    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    from labsupport.distributed.rank_api import choose_backend

    chosen, gpus = choose_backend(nproc)
    os.environ["LABS_BACKEND"] = chosen
    write_json(folder.machine, {"backend": chosen, "gpus": gpus})
    use_loopback()
    exitcodes: dict[int, int] = dict.fromkeys(range(nproc), 0)
    error = None
    try:
        run(parse_args(torchrun_arguments(folder, nproc)))
    except ChildFailedError as failed:
        for rank, failure in failed.failures.items():
            exitcodes[rank] = failure.exitcode
    except Exception:  # torchrun itself failed; the kernel shows what it said
        error = traceback.format_exc()
    write_json(folder.agent_end, {"exitcodes": exitcodes, "error": error})


if __name__ == "__main__":
    main()
