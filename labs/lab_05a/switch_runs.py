"""A training that changes its layout when its sequences grow.

In the first half sequences are a quarter as long as in the second: what a rank
computes and keeps for the backward grows fourfold, and so do the sums of a cut block.
Weights and their gradients stay as they are. So which layout sends less may change.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from labs.lab_05a.layout_runs import batches, everyones, make_gpt
from labs.lab_05a.plan import LINKS, RANKS, SWITCH_ARMS, SWITCH_PLANS
from labsupport.distributed.call import call_on_ranks
from labsupport.distributed.parallel.engine import apply
from labsupport.distributed.parallel.mesh import build_mesh
from labsupport.distributed.parallel.optimizer import make_adamw, train_step
from labsupport.distributed.parallel.reshard import switch
from labsupport.settings import Scale
from labsupport.train import Recipe

Row = dict[str, Any]
GROWTH = 4
"""How many times as long sequences become."""
TIMES = ("ms_before", "ms_after", "switch_s", "total_s")
CLOCKS = tuple(f"{each}_{link}" for link in LINKS for each in TIMES)


@contextmanager
def folder_of_all(dist: Any) -> Iterator[Path]:
    """A folder that all ranks see, made and removed by rank 0."""
    mine = (
        tempfile.mkdtemp(prefix="labs-switch-") if dist.get_rank() == 0 else ""
    )
    folder = Path(everyones(mine, dist)[0])
    try:
        yield folder
    finally:
        if dist.get_rank() == 0:
            shutil.rmtree(folder, ignore_errors=True)


def switch_rank(
    arm: str,
    seed: int,
    scale: Scale,
    dist: Any,
    device: torch.device | str = "cpu",
) -> Row:
    """One training; its first half with one layout, its second with another.

    Where the two are the same, nothing is written and nothing is charged.

    Returns:
        loss: of every step. last: mean of the last quarter's.
        ms_before, ms_after: median milliseconds of a step in each half, the first
            steps of a layout and of a length left out.
        switch_s: seconds that the change of layouts took; 0 without one.
        total_s: seconds of all steps and the change.
        written: bytes of the checkpoint.
    """
    first, second = SWITCH_ARMS[arm]
    plan = SWITCH_PLANS[scale]
    recipe, half = Recipe(plan.steps, plan.lr), plan.steps // 2
    fresh = partial(make_gpt, plan, seed, device)
    mesh = build_mesh(first, torch.device(device).type)
    model = apply(fresh(), first, mesh)
    optimizer = make_adamw(model, recipe)
    short = batches(replace(plan, length=plan.length // GROWTH), seed)
    long = batches(plan, seed)
    losses, spent, switch_s, written = [], [], 0.0, 0
    with folder_of_all(dist) as folder:
        for step in range(plan.steps):
            if step == half and first != second:
                done = switch(
                    model,
                    optimizer,
                    second,
                    fresh=fresh,
                    recipe=recipe,
                    folder=folder,
                    step=step,
                )
                model, optimizer = done.model, done.optimizer
                switch_s, written = done.seconds, done.written
            batch = (short if step < half else long)(step)
            dist.barrier()
            began = time.perf_counter()
            losses.append(train_step(model, optimizer, recipe, step, batch))
            spent.append(time.perf_counter() - began)
    warm = min(3, half // 2)
    times = {
        "ms_before": 1e3 * statistics.median(spent[warm:half]),
        "ms_after": 1e3 * statistics.median(spent[half + warm :]),
        "switch_s": switch_s,
        "total_s": sum(spent) + switch_s,
    }
    of_ranks = everyones(times, dist)
    return {
        "loss": [round(loss, 6) for loss in losses],
        "last": round(statistics.fmean(losses[-(plan.steps // 4) :]), 6),
        **{
            name: round(statistics.fmean(each[name] for each in of_ranks), 4)
            for name in times
        },
        "written": written,
    }


def switch_row(arm: str, seed: int, scale: Scale) -> Row:
    """One training on four ranks, over each link."""
    row: Row = {}
    for name, link in LINKS.items():
        found = call_on_ranks(
            f"{__name__}:switch_rank",
            RANKS,
            link=link,
            arm=arm,
            seed=seed,
            scale=scale,
        )
        row |= {f"{each}_{name}": found.pop(each) for each in TIMES}
        row |= found
    return row
