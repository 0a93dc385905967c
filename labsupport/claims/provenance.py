"""Where a number comes from: machine, versions, commit, date."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from labsupport.paths import ROOT


def machine_name() -> str:
    """A short name for this kind of machine: "cpu-x86_64-2cores", "h200-x1"."""
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name(0).removeprefix("NVIDIA ")
        return f"{name.lower().replace(' ', '-')}-x{torch.cuda.device_count()}"
    return f"cpu-{platform.machine()}-{usable_cores()}cores"


def usable_cores() -> int:
    """Cores this process may run on, which a container can limit."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def provenance() -> dict[str, Any]:
    """What a reader needs in order to run the same thing again."""
    return {
        "machine": machine_name(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "triton": _installed("triton"),
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def origin_words(origin: dict[str, Any]) -> str:
    """Machine, versions, commit and date of a record, in one line."""
    return (
        f"{origin['machine']}, torch {origin['torch']}, "
        f"commit {origin['commit'][:9]}, {origin['date']}"
    )


def caption(origin: dict[str, Any]) -> str:
    """The line under every recorded figure."""
    return f"Recorded on {origin_words(origin)}; not measured on your machine."


def commit() -> str:
    """The commit of the tree, with "+changes" if it was not clean."""
    head = _git("rev-parse", "HEAD")
    if not head:
        return "unknown"
    # Measurements themselves may be new; everything else has to be committed.
    dirty = _git("status", "--porcelain", "--", ".", ":!data/measurements")
    return head + ("+changes" if dirty else "")


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    try:
        with Path("/proc/cpuinfo").open() as stream:
            for line in stream:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
