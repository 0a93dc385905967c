"""Ranks as copies of a warm process, where torchrun would start new ones.

torchrun runs `python -u -m labsupport.distributed.worker FOLDER` for each rank,
and each of them imports PyTorch: two to four seconds before a cell's first
line. Here a fork server has imported it already (preload.py), and a rank is a
copy of it: some milliseconds. The rest is torchrun's own: rendezvous,
environment variables, watching, restarts.

Forking a process that has used CUDA, or that runs threads, breaks the copy.
That is why neither the notebook's kernel nor the agent is forked, but a server
that only imports.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, ClassVar

from torch.distributed.elastic.multiprocessing import api
from torch.distributed.elastic.multiprocessing.subprocess_handler import (
    SubprocessHandler,
)

from labsupport.distributed import worker
from labsupport.distributed.folders import RunFolder, read_json, write_json


def start_server() -> None:
    """Start the fork server; it imports while this process does too.

    Its socket lies in the pool's own folder (pool.py), which is removed even if
    this process is killed.
    """
    multiprocessing.current_process()._config["tempdir"] = os.environ["LABS_POOL_DIR"]  # type: ignore[attr-defined]
    forkserver.set_forkserver_preload(["labsupport.distributed.preload"])
    forkserver.ensure_running()


class Forked:
    """A forked process, seen as torchrun sees a `subprocess.Popen`."""

    def __init__(self, process: ForkServerProcess) -> None:
        self.process = process
        assert process.pid is not None
        self.pid = process.pid

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self.process.join(timeout)
        code = self.process.exitcode
        if code is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.process.name, timeout)
        return code


class Rank(SubprocessHandler):
    """One rank, as torchrun starts it; its end is remembered.

    Attributes:
        latest: the ranks of the attempt that runs now, by local rank. torchrun
            forgets them when it restarts, but the report needs their ends.
    """

    latest: ClassVar[dict[int, Rank]] = {}

    def __init__(self, **named: Any) -> None:
        attempt = int(named["env"]["TORCHELASTIC_RESTART_COUNT"])
        if attempt and named["local_rank_id"] == 0:
            note_attempt(RunFolder(Path(named["args"][-1])))
        super().__init__(**named)
        self.closed = False
        Rank.latest[self.local_rank_id] = self

    def close(self, death_sig: signal.Signals | None = None) -> None:
        """Signal the rank and what it has started: another rank has failed."""
        self.closed = True
        try:
            super().close(death_sig)
        except ProcessLookupError:  # it does not lead a group yet, or has gone
            if self.proc.poll() is None:
                os.kill(self.proc.pid, death_sig or signal.SIGTERM)

    @classmethod
    def exit_codes(cls) -> dict[int, int | None]:
        """By local rank; None for one that torchrun has ended after another."""
        codes: dict[int, int | None] = {}
        for rank, mine in cls.latest.items():
            code = mine.proc.poll() or 0
            codes[rank] = None if mine.closed and code else code
        return codes


class ForkedRank(Rank):
    """One rank, forked instead of executed."""

    def _popen(self, args: tuple[str, ...], env: dict[str, str]) -> Any:
        context = multiprocessing.get_context("forkserver")
        process = context.Process(target=worker.run_forked, args=(args[-1], env))
        process.start()
        return Forked(process)


def note_attempt(folder: RunFolder) -> None:
    """torchrun starts all ranks anew: put away how they ended."""
    earlier = read_json(folder.attempts) or []
    codes = Rank.exit_codes()
    for rank in codes:
        if folder.end(rank).exists():
            folder.end(rank).replace(folder.end_of_attempt(len(earlier), rank))
    write_json(folder.attempts, [*earlier, codes])


def use_forked_ranks() -> None:
    """Make torchrun fork its ranks, where that is known to work.

    On macOS system libraries start threads of their own while they are
    imported, so there ranks are started as plain torchrun starts them.
    """
    forks = sys.platform == "linux" and os.environ.get("LABS_RANKS") != "exec"
    if forks:
        start_server()
    api.get_subprocess_handler = ForkedRank if forks else Rank  # type: ignore[assignment]
