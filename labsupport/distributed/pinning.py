"""A core of its own for each rank, so that ranks do not take turns on one.

Where ranks are more than cores they share them all the same, and none of their times
is the time of its own work.
"""

from __future__ import annotations

import os

import torch


def pin_to_core(rank: int) -> int | None:
    """Keep this process on one core, and its tensors on one thread.

    Cores are those that it may use now, in turn; so rank W lands beside rank 0 on a
    machine with W cores.

    Returns:
        the core; None where the system cannot do that (macOS).
    """
    torch.set_num_threads(1)
    if not hasattr(os, "sched_setaffinity"):
        return None
    cores = sorted(os.sched_getaffinity(0))
    core = cores[rank % len(cores)]
    os.sched_setaffinity(0, {core})
    return core
