"""A notebook with torchrun cells, in IPython's own shell, for tests.

The fixture `notebook` (tests/labsupport/conftest.py) checks in the end that
nothing was left: no process, no port, no shared memory, no half-written file.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from IPython.core.interactiveshell import InteractiveShell

START = """
import os, signal, sys
from pathlib import Path
import torch
import torch.distributed as dist
dist.init_process_group(backend())
rank, x = dist.get_rank(), torch.ones(1)
"""
START_LINES = START.count("\n")  # above a test's body, the magic's line included


class Notebook:
    """IPython's shell, and what its cells leave behind."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.shell = InteractiveShell()
        self.names: dict[str, Any] = self.shell.user_ns
        self.shell.run_line_magic("load_ext", "labsupport.distributed")

    def run(self, source: str) -> None:
        """Run a cell; what it raises is raised here."""
        result = self.shell.run_cell(source, store_history=True)
        result.raise_error()

    def torchrun(self, options: str, body: str) -> None:
        self.run(f"%%torchrun {options}\n{START.strip(chr(10))}\n{body}")

    def processes(self) -> list[psutil.Process]:
        """Live processes that a cell of this notebook has started."""
        return [p for p in below(self.home) if not is_agent(p)]


def below(home: Path) -> list[psutil.Process]:
    """Every live process that anything with this LABS_HOME has started."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            started = process.environ()
            alive = process.status() != psutil.STATUS_ZOMBIE
            mine = started.get("LABS_HOME") == str(home) and "LABS_POOL" in started
            if alive and mine:
                found.append(process)
    return found


def is_agent(process: psutil.Process) -> bool:
    """An agent, or its fork server, which share a session."""
    try:
        leader = psutil.Process(os.getsid(process.pid))
        return "labsupport.distributed.agent" in leader.cmdline()
    except (psutil.Error, OSError):
        return False


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait for a condition; the limit only keeps a broken test from hanging."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition never came true"
        time.sleep(0.02)


def shared_memory() -> list[Path]:
    place = Path("/dev/shm")
    return list(place.iterdir()) if place.is_dir() else []
