"""How long does a reader wait for a torchrun cell?

    python -m tests.labsupport.bench_torchrun [PAIRS] [FOLDER]

Three ways to run the same few lines (a process group, one all_reduce, one AdamW
step) on several processes, taking turns so that all suffer from the same
neighbours on the machine:

    torchrun        plain torchrun, the lines in a file
    cell            %%torchrun in a Jupyter kernel: the first cell, then further ones
    nbdistributed   %%distributed, further cells only, if FOLDER is a site-packages
                    folder that has it (pip install --no-deps nbdistributed==0.1.0)

Time is wall-clock from the request to a kernel, or the start of the command, to
its end. "First line" is when rank 0 gets past the lines. nbdistributed keeps
its workers and their process group between cells, so its further cells leave
out what a fresh process must do; `--keep` is the like of it.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from jupyter_client.manager import start_new_kernel

LINES = """
import time
import torch
import torch.distributed as dist
if not dist.is_initialized():
    dist.init_process_group("gloo")
dist.all_reduce(torch.ones(1000))
parameter = torch.nn.Parameter(torch.ones(10))
parameter.sum().backward()
torch.optim.AdamW([parameter]).step()
if dist.get_rank() == 0:
    open("first line", "w").write(str(time.time()))
"""
END = "dist.destroy_process_group()\n"
FURTHER = 5  # cells after the first
LISTENING_S = 15.0


class Kernel:
    """A Jupyter kernel in which cells are timed."""

    def __init__(self, python_path: str = "") -> None:
        path = os.pathsep.join(filter(None, [python_path, *sys.path]))
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
        # nbdistributed starts whatever is called python.
        env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])
        self.manager, self.client = start_new_kernel(env=env)

    def run(self, source: str) -> tuple[float, float]:
        """Seconds to the first line, where one was written, and to the end."""
        mark = Path("first line")
        mark.unlink(missing_ok=True)
        start = time.time()
        reply = self.client.execute_interactive(source, output_hook=lambda _: None)
        end = time.time() - start
        assert reply["content"]["status"] == "ok", reply["content"]
        first = float(mark.read_text()) - start if mark.exists() else float("nan")
        return first, end

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@contextlib.contextmanager
def kernel(python_path: str = "") -> Iterator[Kernel]:
    opened = Kernel(python_path)
    try:
        yield opened
    finally:
        opened.close()


def plain(ranks: int) -> tuple[float, float]:
    Path("lines.py").write_text(LINES + END)
    Path("first line").unlink(missing_ok=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(ranks), "lines.py"]
    start = time.time()
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, capture_output=True, env=env)
    end = time.time() - start
    return float(Path("first line").read_text()) - start, end


def cells(ranks: int, options: str = "") -> list[tuple[float, float]]:
    """The first cell, then the further ones."""
    with kernel() as k:
        k.run("%load_ext labsupport.distributed")
        line = f"%%torchrun --nproc {ranks} {options}"
        return [k.run(f"{line}\n{LINES}") for _ in range(1 + FURTHER)]


def others_cells(ranks: int, folder: str) -> list[float]:
    """First lines of nbdistributed's further cells.

    %dist_init says that the workers are there before they listen: a cell that
    comes too early waits for 30 s and fails. So its start is not timed. And
    %dist_shutdown ends by name whatever looks like a worker, so it is not used.
    """
    with kernel(folder) as k:
        k.run("%load_ext nbdistributed")
        k.run(f"%dist_init -n {ranks}")
        workers = psutil.Process(k.manager.provisioner.pid).children(recursive=True)
        try:
            time.sleep(LISTENING_S)
            k.run(f"%%distributed\n{LINES}")
            return [k.run(f"%%distributed\n{LINES}")[0] for _ in range(FURTHER)]
        finally:
            for worker in workers:
                with contextlib.suppress(psutil.Error):
                    worker.kill()


def show(name: str, values: list[float], beside: list[float] | None = None) -> None:
    middle = statistics.median(values)
    text = f"  {name:42} {middle:6.2f} s  [{min(values):.2f}, {max(values):.2f}]"
    if beside:
        ratios = [a / b for a, b in zip(values, beside, strict=True)]
        spread = f"[{min(ratios):.2f}, {max(ratios):.2f}]"
        text += f"   ratio {statistics.median(ratios):.2f} {spread}"
    print(text, flush=True)


def compare(ranks: int, pairs: int, other: str | None) -> None:
    print(f"{ranks} ranks, {pairs} pairs; median [least, most]", flush=True)
    torchrun, ours, kept, theirs = [], [], [], []
    for pair in range(pairs):
        turns = [
            lambda: torchrun.append(plain(ranks)),
            lambda: ours.append(cells(ranks)),
        ]
        for turn in turns if pair % 2 else reversed(turns):
            turn()
        kept.append(cells(ranks, "--keep"))
        if other is not None:
            theirs += others_cells(ranks, other)
    first, end = zip(*torchrun, strict=True)
    show("torchrun, first line", list(first))
    show("first cell, first line", [run[0][0] for run in ours], list(first))
    show("torchrun, whole", list(end))
    show("first cell, whole", [run[0][1] for run in ours], list(end))
    show("further cells, first line", [f for run in ours for f, _ in run[1:]])
    show("further cells, whole", [e for run in ours for _, e in run[1:]])
    show("further --keep cells, first line", [f for run in kept for f, _ in run[1:]])
    if theirs:
        show("nbdistributed, further cells, first line", theirs)


def main() -> None:
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    other = sys.argv[2] if len(sys.argv) > 2 else None
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LABS_HOME"] = folder
        os.chdir(folder)
        for ranks in (2, 4):
            compare(ranks, pairs, other)


if __name__ == "__main__":
    main()
