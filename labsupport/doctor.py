"""What this machine can do, and what each part of the course will use."""

from __future__ import annotations

import platform
import shutil
from dataclasses import dataclass
from importlib.metadata import version

import psutil
import torch

import kernels
from labsupport.claims.provenance import usable_cores
from labsupport.distributed.network import what_prevents_shaping
from labsupport.paths import ROOT, my_labs


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was looked at, what was found, what follows.

    Attributes:
        name: "memory".
        found: "23 GB".
        follows: what the labs do because of it.
        good: False where something is missing that a lab needs.
    """

    name: str
    found: str
    follows: str
    good: bool = True


def examine() -> list[Finding]:
    """Look at this machine; changes nothing."""
    cores = usable_cores()
    memory = psutil.virtual_memory().total / 2**30
    free = shutil.disk_usage(ROOT).free / 2**30
    return [
        Finding("system", f"{platform.system()} {platform.machine()}", _system()),
        Finding("Python", platform.python_version(), "3.11 to 3.13 are supported"),
        Finding("torch", version("torch"), "pinned in constraints.txt"),
        Finding(
            "cores",
            str(cores),
            f"torchrun cells with up to {cores} ranks run at full speed",
            cores >= 2,
        ),
        Finding("memory", f"{memory:.0f} GB", "every lab fits in 4 GB", memory >= 3.5),
        Finding("disk", f"{free:.0f} GB free", "1 GB is plenty", free >= 1),
        _gpu(),
        _triton(),
        _links(),
        _folder(),
    ]


def scale_here() -> str:
    """The scale that suits this machine."""
    return "gpu" if torch.cuda.is_available() else "cpu"


def _system() -> str:
    if platform.system() == "Darwin":
        return "every lab runs; Triton cells show recorded output"
    if platform.system() == "Windows":
        return "use WSL2: Triton and torchrun need Linux"
    return "every lab runs whole"


def _gpu() -> Finding:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        follows = "kernels run interpreted, ranks use gloo; GPU figures are recorded"
        return Finding("GPU", "none", follows)
    name = torch.cuda.get_device_name(0)
    follows = f"kernels compile; torchrun cells with up to {count} ranks use NCCL"
    return Finding("GPU", f"{count} x {name}", follows)


def _triton() -> Finding:
    if not kernels.HAS_TRITON:
        return Finding("Triton", "none", "no wheel for this system: labs say so")
    state = "interpreted" if kernels.INTERPRETED else "compiled"
    return Finding("Triton", version("triton"), f"kernels run {state}")


def _links() -> Finding:
    reason = what_prevents_shaping()
    if reason is None:
        return Finding("links", "shaped", "--link gives ranks real slow links")
    return Finding("links", "emulated", f"--link delays the ranks' calls: {reason}")


def _folder() -> Finding:
    folder = my_labs()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        why = error.strerror or "no access"
        return Finding("my_labs", why, "your work could not be saved", False)
    return Finding("my_labs", "writable", "your copies and progress live there")
