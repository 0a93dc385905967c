"""Where a measurement comes from, and whether it still holds."""

from __future__ import annotations

import datetime
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import torch

from kernels.bench_check import BenchError
from kernels.fingerprint import specs_fingerprint

if TYPE_CHECKING:  # at run time it brings in Triton; refusals come first
    from kernels.bench_cases import Bench


def fingerprints(benches: Iterable[Bench]) -> dict[str, str]:
    """Operation -> the fingerprint of its kernels in all configurations."""
    return {bench.name: specs_fingerprint(bench.specs) for bench in benches}


def stale(
    record: Mapping[str, Any], benches: Iterable[Bench] | None = None
) -> set[str]:
    """The operations of a record whose kernels have changed since."""
    if benches is None:
        from kernels.bench_cases import all_benches

        benches = all_benches()
    now = fingerprints(benches)
    timed: Mapping[str, str] = record["fingerprints"]
    return {name for name, then in timed.items() if now.get(name) != then}


def origin(commit: str) -> dict[str, Any]:
    """Machine, versions, commit and date.

    Raises:
        BenchError: commit is not a whole commit's name.
    """
    if not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise BenchError(
            "--commit must be 40 hex digits, as `git rev-parse HEAD` prints them; "
            f"got {commit!r}."
        )
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    short = (gpu or "no-gpu").removeprefix("NVIDIA ").lower().replace(" ", "-")
    return {
        "machine": f"{short}-x1",
        "gpu": gpu,
        "driver": _driver(),
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "triton": _installed("triton"),
        "liger-kernel": _installed("liger-kernel"),
        "commit": commit,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.splitlines()[0].strip() if answer.stdout else None


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
