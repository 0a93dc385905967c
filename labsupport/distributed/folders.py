"""The folder of one run: every file through which kernel and ranks speak.

Files, not pipes: a pipe that nobody drains blocks its writer after 64 KiB, and
a file is still there to read when everything has gone wrong.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labsupport.errors import LabError
from labsupport.paths import my_labs

KEPT = 20


@dataclass(frozen=True)
class RunFolder:
    """Names the files of one run. Written by the kernel: cell, pushed names,
    settings. Written by the agent: its log, the machine, the exit codes. Written
    by a rank: the files that carry its number, which is LOCAL_RANK, its number
    on this machine.
    """

    path: Path

    @property
    def shown(self) -> str:
        """The folder as a reader knows it: my_labs/runs/dp-1."""
        return self.path.relative_to(my_labs().parent).as_posix()

    @property
    def cell(self) -> Path:
        return self.path / "cell.py"

    @property
    def pushed_source(self) -> Path:
        return self.path / "pushed.py"

    @property
    def pushed_values(self) -> Path:
        return self.path / "pushed.safetensors"

    @property
    def settings(self) -> Path:
        """What a rank has to know before the cell: see launch.write_settings."""
        return self.path / "settings.json"

    @property
    def machine(self) -> Path:
        """What the agent found: {"backend": "gloo", "gpus": 0}."""
        return self.path / "machine.json"

    @property
    def place(self) -> Path:
        """Where this machine's ranks stand among all: {"first": 0, "world": 4}."""
        return self.path / "place.json"

    @property
    def attempts(self) -> Path:
        """The attempts that torchrun has given up, first one first: a list of
        {"0": exit code, ...} by local rank. Exists after a restart only.
        """
        return self.path / "attempts.json"

    @property
    def next(self) -> Path:
        """Where ranks that were kept read which folder to run next."""
        return self.path / "next.json"

    @property
    def agent_log(self) -> Path:
        return self.path / "agent.log"

    @property
    def agent_end(self) -> Path:
        """How the agent ended: {"exitcodes": {"1": -9}, "error": null}."""
        return self.path / "agent.end.json"

    @property
    def out_of_memory(self) -> Path:
        """Exists if the system has ended a process for want of memory."""
        return self.path / "out_of_memory"

    @property
    def finished(self) -> Path:
        """Exists once the kernel has read everything it wants."""
        return self.path / "finished"

    def pid(self, rank: int) -> Path:
        return self.path / f"rank{rank}.pid"

    def log(self, rank: int) -> Path:
        return self.path / f"rank{rank}.log"

    def stacks(self, rank: int) -> Path:
        return self.path / f"rank{rank}.stacks"

    def end(self, rank: int) -> Path:
        return self.path / f"rank{rank}.end.json"

    def end_of_attempt(self, attempt: int, rank: int) -> Path:
        """Where `end` is moved when torchrun starts the rank anew."""
        return self.path / f"rank{rank}.end.{attempt}.json"

    def traceback(self, rank: int) -> Path:
        return self.path / f"rank{rank}.traceback.txt"

    def values(self, rank: int) -> Path:
        return self.path / f"rank{rank}.values"

    def metrics(self, rank: int) -> Path:
        """What the rank logged, a JSON object a line."""
        return self.path / f"rank{rank}.metrics.jsonl"

    def traffic(self, rank: int) -> Path:
        return self.path / f"rank{rank}.traffic.json"


def write_json(path: Path, content: Any) -> None:
    """Write all of it or nothing: a reader never meets half a file."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    unfinished.write_text(json.dumps(content), encoding="utf-8")
    unfinished.replace(path)


def read_json(path: Path) -> Any:
    """The file's content, or None when it was never written."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def place(folder: RunFolder, nproc: int) -> tuple[int, int]:
    """The number of this machine's first rank, and how many ranks there are.

    The first rank writes it; before that, or if it never got so far, the ranks
    are taken to be on this machine only.
    """
    known = read_json(folder.place)
    return (known["first"], known["world"]) if known else (0, nproc)


def new_run_folder(name: str) -> RunFolder:
    """Make my_labs/runs/<name>-<number>, the next free number.

    `mkdir` either makes the folder or fails, so two kernels that start at the
    same moment get two folders.
    """
    runs = my_labs() / "runs"
    try:
        runs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabError(
            f"The folder {runs.parent.name} cannot be written ({error.strerror}): "
            "free some space, or set LABS_HOME to another folder."
        ) from None
    number = 1 + max(
        (
            int(path.name.rpartition("-")[2])
            for path in runs.glob(f"{name}-*")
            if path.name.rpartition("-")[2].isdecimal()
        ),
        default=0,
    )
    while True:
        path = runs / f"{name}-{number}"
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
            continue
        remove_old(runs)
        return RunFolder(path)


def remove_old(runs: Path, keep: int = KEPT) -> None:
    """Remove all but the newest runs; never one that may still be going.

    A run without its `finished` mark is in another kernel, or its kernel was
    killed. After a day it is taken to be the latter.
    """

    def made(path: Path) -> float:
        try:
            return path.stat().st_mtime
        except FileNotFoundError:  # another kernel removed it just now
            return 0.0

    folders = [path for path in runs.iterdir() if path.is_dir()]
    folders.sort(key=lambda path: (made(path), len(path.name), path.name))
    for path in folders[:-keep]:
        stale = time.time() - made(path) > 24 * 3600
        if stale or RunFolder(path).finished.exists():
            shutil.rmtree(path, ignore_errors=True)
