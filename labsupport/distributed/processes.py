"""The processes of one run: find them, ask where they are, end them.

A process belongs to a run when it was started with that run's folder in its
environment (LABS_RUN). The folder's name is unique, and children inherit the
variable, so this finds the agent, every rank, and whatever the cell started,
and never a stranger that happens to have the number of a process that ended.
torchrun gives every rank a session of its own, so ending the agent's process
group would not reach them.
"""

from __future__ import annotations

import contextlib
import signal
import time

import psutil

from labsupport.distributed.folders import RunFolder

GENTLE_S = 1.5
HARD_S = 2.0


def of_run(folder: RunFolder) -> list[psutil.Process]:
    """Every live process that belongs to the run."""
    own = []
    mine = psutil.Process().uids().real
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.uids().real != mine:
                continue
            if process.environ().get("LABS_RUN") != str(folder.path):
                continue
            if process.status() != psutil.STATUS_ZOMBIE:
                own.append(process)
    return own


def rank_pids(folder: RunFolder, nproc: int) -> dict[int, int]:
    """The process id of every rank that has got as far as writing it."""
    pids = {}
    for rank in range(nproc):
        with contextlib.suppress(FileNotFoundError, ValueError):
            pids[rank] = int(folder.pid(rank).read_text())
    return pids


def signal_ranks(folder: RunFolder, nproc: int, number: signal.Signals) -> list[int]:
    """Send a signal to every live rank; returns the ranks that got it.

    psutil refuses to signal a process id that meanwhile means another process.
    """
    own = {process.pid: process for process in of_run(folder)}
    reached = []
    for rank, pid in rank_pids(folder, nproc).items():
        with contextlib.suppress(psutil.Error):
            if pid in own:
                own[pid].send_signal(number)
                reached.append(rank)
    return reached


def ask_for_stacks(folder: RunFolder, nproc: int) -> list[int]:
    """Have every live rank write its stack (worker.py arranged for it).

    Returns the ranks that were asked, once their dumps stopped growing or a
    second has passed.
    """
    asked = signal_ranks(folder, nproc, signal.SIGUSR1)
    sizes: dict[int, int] = {}
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        time.sleep(0.05)
        now = {rank: folder.stacks(rank).stat().st_size for rank in asked}
        if now == sizes and all(now.values()):
            break
        sizes = now
    return asked


def end_all(folder: RunFolder, nproc: int, gently: bool) -> None:
    """End every process of the run; returns when none is left.

    Args:
        gently: send the ranks SIGINT first, so that a `finally` in the cell
            runs. A rank that waits inside C code does not notice it.

    Ranks before the agent, so that the agent collects them and no zombie is
    left behind.
    """
    if gently:
        signal_ranks(folder, nproc, signal.SIGINT)
        wait_until_ended(folder, nproc, GENTLE_S)
    ranks = set(rank_pids(folder, nproc).values())
    end = time.monotonic() + HARD_S
    while (own := of_run(folder)) and time.monotonic() < end:
        below = [process for process in own if process.pid in ranks] or own
        for process in below:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(below, timeout=0.5)


def wait_until_ended(folder: RunFolder, nproc: int, timeout: float) -> None:
    pids = set(rank_pids(folder, nproc).values())
    ranks = [process for process in of_run(folder) if process.pid in pids]
    psutil.wait_procs(ranks, timeout=timeout)
