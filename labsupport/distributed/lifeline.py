"""End when the kernel ends, however it ends.

The kernel holds the write end of a pipe whose read end is the stdin of the
agent, and its fork server and ranks inherit it. Nothing is ever written. When
the kernel is gone the system closes its end, and a read returns at once.

PR_SET_PDEATHSIG is the usual answer, but it exists on Linux only, and it fires
when the *thread* that started the child ends. As a second rope the parent's
process id is watched too: a program that the kernel forked may hold a copy of
the pipe's write end.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable

PARENT_CHECK_S = 1.0


def end_with_the_kernel(fd: int = 0, first: Callable[[], None] | None = None) -> None:
    """Watch the pipe in a thread.

    Args:
        fd: the pipe's read end.
        first: called before this process ends. The agent passes a function
            that ends the ranks, should one not get round to it by itself.
    """
    threading.Thread(
        target=_watch,
        args=(os.dup(fd), os.getppid(), first),
        name="lifeline",
        daemon=True,
    ).start()


def close_stdin() -> None:
    """Put /dev/null in the pipe's place: a cell that reads stdin gets nothing,
    and its own children do not inherit the pipe. For ranks; the agent must
    keep it as fd 0, because that is how the ranks inherit it.
    """
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)


def _watch(lifeline: int, parent: int, first: Callable[[], None] | None) -> None:
    while os.getppid() == parent:
        readable, _, _ = select.select([lifeline], [], [], PARENT_CHECK_S)
        if readable and os.read(lifeline, 1) == b"":
            break
    with contextlib.suppress(Exception):
        if first is not None:
            first()
    # Agent and ranks each lead a session of their own, so the group holds
    # only what this process started (data loaders, say).
    if os.getpgid(0) == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)
