"""Runs what test_parallel.py and test_reshard.py look at, each part on its ranks.

python parallel_parts.py FOLDER PART [PART ...]    writes FOLDER/PART-RANK.pt

One program for all parts: its imports take longer than most of them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.labsupport import parallel_ranks, reshard_ranks
from tests.labsupport.forked_ranks import run_on_ranks

# Of each part: how many ranks, and what each of them does.
PARTS: dict[str, tuple[int, Callable[[Path], Any]]] = {
    **{f"layouts-{W}": (W, lambda _: parallel_ranks.compare_all()) for W in (1, 2, 4)},
    "wire": (4, lambda _: parallel_ranks.wire_all()),
    "switch": (4, lambda folder: reshard_ranks.switch_all(folder / "switch")),
    "refused": (4, lambda folder: reshard_ranks.refusals(folder / "refused")),
    "lost": (2, lambda folder: reshard_ranks.lost_in_the_middle(folder / "lost")),
    "after": (1, lambda folder: reshard_ranks.after_the_loss(folder / "lost")),
}
SLOW = {"layouts-8": (8, lambda _: parallel_ranks.compare_all())}


def body(folder: Path, name: str, do: Callable[[Path], Any]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.save(do(folder), folder / f"{name}-{rank}.pt")
    if name != "lost":
        dist.barrier()
        dist.destroy_process_group()


def main(folder: Path, names: list[str]) -> None:
    for name in names:
        ranks, do = (PARTS | SLOW)[name]
        try:
            run_on_ranks(partial(body, folder, name, do), ranks)
        except SystemExit as failed:
            if name != "lost":
                raise
            (folder / "lost.txt").write_text(str(failed))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
