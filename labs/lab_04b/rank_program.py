"""Run `train_unequal` on ranks that torchrun starts, and collect what they say.

    runs = courses(2, scale="cpu", seed=0, repeats=[1, 3], policy="balanced")

As a program it is one rank: torchrun calls it with a folder that holds options.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from labs.lab_04b.workers import Course, train_unequal
from labsupport.errors import LabError
from labsupport.paths import ROOT


def courses(ranks: int, **options: Any) -> list[Course]:
    """What every rank did; each is pinned to a core of its own.

    Args:
        ranks: how many processes.
        options: of `train_unequal`, what JSON can carry.

    Raises:
        LabError: a rank failed; the message ends with the last lines of its error.
    """
    with tempfile.TemporaryDirectory(prefix="lab-04b-") as name:
        folder = Path(name)
        (folder / "options.json").write_text(json.dumps(options))
        run = subprocess.run(
            [
                *(sys.executable, "-m", "torch.distributed.run"),
                *("--standalone", "--nproc-per-node", str(ranks)),
                *("-m", "labs.lab_04b.rank_program", name),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        if run.returncode:
            raise LabError(f"A rank failed: {run.stderr.strip()[-2000:]}")
        return [
            Course(**json.loads((folder / f"rank{rank}.json").read_text()))
            for rank in range(ranks)
        ]


def main(folder: Path) -> None:
    """One rank: read the options, train, write the course."""
    import torch.distributed as dist

    from labsupport.distributed.pinning import pin_to_core
    from labsupport.distributed.rank_api import backend, device

    dist.init_process_group(backend())
    pin_to_core(dist.get_rank())
    options = json.loads((folder / "options.json").read_text())
    course = train_unequal(dist, device=device(), **options)
    (folder / f"rank{dist.get_rank()}.json").write_text(
        json.dumps(asdict(course))
    )
    dist.barrier()  # a rank that leaves early breaks the connections of others
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
