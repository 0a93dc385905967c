"""Agents that are ready to run cells, each with its fork server.

A notebook has one, which serves cell after cell; one more for each set of
ranks that `--keep` holds. An agent that was started in another environment
(the notebook has changed `os.environ` since) is not used again, because
libraries read the environment when they are imported.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labsupport.distributed import processes

# What a kernel inside another torchrun, or a shell, may have set.
NOT_INHERITED = ("TORCHELASTIC_", "PET_", "LABS_RUN", "LABS_BACKEND", "LABS_POOL")
NOT_INHERITED_NAMES = (
    "RANK LOCAL_RANK GROUP_RANK ROLE_RANK WORLD_SIZE LOCAL_WORLD_SIZE "
    "GROUP_WORLD_SIZE ROLE_WORLD_SIZE ROLE_NAME MASTER_ADDR MASTER_PORT "
    # pytest changes it between a test's phases.
    "PYTEST_CURRENT_TEST"
).split()
ANSWER_S = 3.0


def environment() -> dict[str, str]:
    """The kernel's environment, without what is another run's."""
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(NOT_INHERITED) and name not in NOT_INHERITED_NAMES
    }
    env["PYTHONUNBUFFERED"] = "1"
    env["MPLBACKEND"] = "Agg"  # a kernel's inline backend has no notebook here
    env.setdefault("OMP_NUM_THREADS", "1")
    # Warnings of torch's C++ code carry times and addresses; errors stay.
    env.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    return env


class Pool:
    """One agent, for as long as it lives.

    Its stdin is the lifeline; see lifeline.py. It leads a session of its own:
    Jupyter's interrupt goes to the kernel's process group, and what happens to
    the ranks then is for the kernel to decide.
    """

    def __init__(
        self, environment: dict[str, str], links: Sequence[str], log: Path
    ) -> None:
        self.environment = environment
        self.links = list(links)
        self.token = uuid.uuid4().hex
        # In it lies the fork server's socket, whose path has to be short.
        self.place = tempfile.mkdtemp(prefix=f"labs-{os.getpid()}-")
        own = {"LABS_POOL": self.token, "LABS_POOL_DIR": self.place}
        self.channel, theirs = socket.socketpair()
        with log.open("ab") as output, theirs:
            self.agent = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "labsupport.distributed.agent",
                    str(theirs.fileno()),
                    *links,
                ],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                env=environment | own,
                start_new_session=True,
            )

    def alive(self) -> bool:
        return self.agent.poll() is None

    def request(self, **request: Any) -> None:
        """Ask the agent to run a cell (agent.py says what a request holds);
        `has_answered` tells when it has.
        """
        with contextlib.suppress(OSError):  # it may have ended just now
            self.channel.sendall(json.dumps(request).encode() + b"\n")

    def has_answered(self, timeout: float) -> bool:
        """Whether the cell has ended, or the agent has, within `timeout` seconds."""
        readable, _, _ = select.select([self.channel], [], [], timeout)
        if not readable:
            return False
        with contextlib.suppress(OSError):
            if self.channel.recv(1):
                return True
        self.agent.wait()
        return True

    def cell_processes(self) -> list[Any]:
        """The ranks, and whatever the cell started."""
        return processes.of_cell(self.token, self.agent.pid)

    def end_cell(self, answered: bool) -> None:
        """End what is left of a cell, and the agent if it does not notice.

        Args:
            answered: the agent has already said that the ranks have ended.
        """
        processes.end_all(self.cell_processes)
        if not answered and not self.has_answered(ANSWER_S):
            self.end()
        elif not answered:  # a rank that was forked while the others were killed
            processes.end_all(self.cell_processes)

    def end(self) -> None:
        """End the agent and everything below it. Ranks before the agent, so
        that it collects them and no zombie is left behind.
        """
        processes.end_all(self.cell_processes)
        assert self.agent.stdin is not None
        self.agent.stdin.close()
        self.channel.close()
        self.agent.kill()
        self.agent.wait()
        shutil.rmtree(self.place, ignore_errors=True)
        processes.end_all(lambda: processes.of_pool(self.token))


_idle: list[Pool] = []


def borrow(log: Path, fresh: bool = False, links: Sequence[str] = ()) -> Pool:
    """An agent that fits the kernel's environment, warm if there is one.

    Args:
        log: where a new agent writes until its first cell begins.
        fresh: a new one in any case.
        links: the shaped links between its ranks (network.py), one a rank.
    """
    wanted = environment()
    found = None
    while _idle:
        pool = _idle.pop()
        fits = pool.environment == wanted and pool.links == list(links)
        if fits and pool.alive() and not fresh and found is None:
            found = pool
        else:
            pool.end()
    return found or Pool(wanted, links, log)


def give_back(pool: Pool) -> None:
    if pool.alive():
        _idle.append(pool)
    else:
        pool.end()


def end_idle() -> None:
    """Give back the memory of agents that wait for a cell."""
    while _idle:
        _idle.pop().end()
