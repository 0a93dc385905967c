"""Make the virtual environment, or bring it up to date.

Run by `make` with the system's Python, before anything is installed, so it
uses the standard library only:

    python3 labsupport/install.py .venv

It does nothing, quickly, while the pins have not changed since the last run.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PIN_FILES = ("constraints.txt", "pyproject.toml", "labsupport/install.py")
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"
TORCH = next(
    line
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line.startswith("torch==")
)


def fingerprint() -> str:
    """Changes whenever a pin changes, or the interpreter does."""
    digest = hashlib.sha256(sys.version.encode())
    for name in PIN_FILES:
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def has_nvidia_gpu() -> bool:
    """Whether the NVIDIA driver answers with at least one GPU."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return False
    answer = subprocess.run([tool, "-L"], capture_output=True, text=True)
    return answer.returncode == 0 and "GPU 0" in answer.stdout


def plain_pip_gives_cuda(pip: list[str]) -> bool:
    """Whether `pip install torch` would fetch a CUDA build on this machine.

    Asks pip for its plan and downloads nothing: a CUDA build is one that
    needs NVIDIA's or Triton's packages.
    """
    if platform.system() != "Linux":
        return False
    command = [*pip, "install", "--dry-run", "--no-deps", "--ignore-installed"]
    plan = subprocess.run(
        [*command, "--quiet", "--report", "-", TORCH],
        capture_output=True,
        text=True,
    )
    if plan.returncode != 0:
        return False
    needs = json.loads(plan.stdout)["install"][0]["metadata"].get("requires_dist", [])
    return any(need.startswith(("nvidia-", "cuda-", "triton")) for need in needs)


def install(folder: Path) -> None:
    """Create `folder` if needed and install the course and its pins into it."""
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"Making the virtual environment {folder.name} ...", flush=True)
        venv.create(folder, with_pip=True)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    torch_source: list[str] = []
    if not has_nvidia_gpu() and plain_pip_gives_cuda(pip):
        torch_source = ["--index-url", CPU_WHEELS]
    print("Installing the pinned packages (a minute or two) ...", flush=True)
    quiet = ["--quiet", "--no-warn-script-location"]
    get = [*pip, "install", *quiet]
    subprocess.run([*get, "--no-deps", *torch_source, TORCH], check=True)
    project = ["-c", "constraints.txt", "-e", ".[dev]"]
    subprocess.run([*get, *project], check=True, cwd=ROOT)


def main() -> int:
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        found = platform.python_version()
        print(f"Python 3.11, 3.12 or 3.13 is needed; this is {found}.")
        print("Name another one: make PYTHON=python3.11 lab")
        return 1
    folder = ROOT / (sys.argv[1] if len(sys.argv) > 1 else ".venv")
    stamp = folder / "pins.sha256"
    wanted = fingerprint()
    if stamp.exists() and stamp.read_text() == wanted:
        return 0
    try:
        install(folder)
    except subprocess.CalledProcessError as error:
        print(f"Installing failed: {' '.join(error.cmd[3:])} (see pip's words above).")
        return 1
    stamp.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
