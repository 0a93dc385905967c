"""The processes that a notebook's torchrun cells have started: find them, ask
where they are, end them.

An agent is started with a token in its environment (LABS_POOL). Everything
below it inherits the token, whether forked or executed, so a search for it
finds the agent, its fork server, every rank and whatever the cells started,
and never a stranger that happens to have the number of a process that ended.

The agent and its fork server share a session; each rank leads one of its own.
So of a pool's processes those outside the agent's session belong to the cell.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable

import psutil

from labsupport.distributed.folders import RunFolder

GENTLE_S = 1.5
HARD_S = 2.0


def of_pool(token: str) -> list[psutil.Process]:
    """Every live process that carries the token."""
    found = []
    mine = psutil.Process().uids().real
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.uids().real != mine:
                continue
            if process.environ().get("LABS_POOL") != token:
                continue
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def of_cell(token: str, agent: int) -> list[psutil.Process]:
    """The ranks, and whatever the cell started."""
    own = []
    for process in of_pool(token):
        with contextlib.suppress(OSError):
            if os.getsid(process.pid) != agent:
                own.append(process)
    return own


def end_all(find: Callable[[], list[psutil.Process]]) -> None:
    """Kill what `find` finds until it finds nothing more."""
    end = time.monotonic() + HARD_S
    while (found := find()) and time.monotonic() < end:
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(found, timeout=0.5)


def rank_pids(folder: RunFolder, nproc: int) -> dict[int, int]:
    """The process id of every rank that has got as far as writing it."""
    pids = {}
    for rank in range(nproc):
        with contextlib.suppress(FileNotFoundError, ValueError):
            pids[rank] = int(folder.pid(rank).read_text())
    return pids


def signal_ranks(
    ranks: dict[int, int], own: list[psutil.Process], number: signal.Signals
) -> list[int]:
    """Send a signal to every rank that is among `own`; returns which got it.

    psutil refuses to signal a process id that meanwhile means another process.
    """
    by_pid = {process.pid: process for process in own}
    reached = []
    for rank, pid in ranks.items():
        with contextlib.suppress(psutil.Error):
            if pid in by_pid:
                by_pid[pid].send_signal(number)
                reached.append(rank)
    return reached


def interrupt(ranks: dict[int, int], own: list[psutil.Process]) -> None:
    """Send SIGINT, so that a `finally` in the cell runs, and give it a moment. A
    rank that waits inside C code does not notice it.
    """
    reached = {ranks[rank] for rank in signal_ranks(ranks, own, signal.SIGINT)}
    asked = [process for process in own if process.pid in reached]
    psutil.wait_procs(asked, timeout=GENTLE_S)


def ask_for_stacks(
    folder: RunFolder, ranks: dict[int, int], own: list[psutil.Process]
) -> list[int]:
    """Have every live rank write its stack (worker.py arranged for it).

    Returns the ranks that were asked, once their dumps stopped growing or a
    second has passed.
    """
    asked = signal_ranks(ranks, own, signal.SIGUSR1)
    sizes: dict[int, int] = {}
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        time.sleep(0.05)
        now = {rank: folder.stacks(rank).stat().st_size for rank in asked}
        if now == sizes and all(now.values()):
            break
        sizes = now
    return asked
