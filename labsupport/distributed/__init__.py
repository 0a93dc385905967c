"""The torchrun cell: run the body of a notebook cell on several processes.

    %%torchrun --nproc 4 --timeout 120 --name dp --push step,batch
    import torch.distributed as dist
    dist.init_process_group(backend())
    ...
    share("loss", loss)

The body runs as `__main__` on every rank under torch's own torchrun, and
`dp[0].loss` is what rank 0 shared.

    notebook kernel                    agent                   ranks 0 .. N-1
    ---------------                    -----                   --------------
    options.py   the first line
    magic.py     pushed names,
                 report
    launch.py    start, watch, -----> agent.py  ----------->  worker.py
                 stop                 torchrun's own           the cell's body
    pool.py      agents kept          parse_args and run       as __main__
                 between cells             |                       ^
         |                                 v                       |
         |                            fork server -----------------+
         |                            preload.py: has imported
         |                            torch; forked.py: ranks are
         |                            copies of it
         |                                                         |
         |    stdin: a pipe that only the kernel holds open        |
         |-------------------------------------------------------->|
         |    when the kernel ends, however it ends, the pipe      |
         |    closes, and the agent and every rank end too         |
         |                                                         |
         |    my_labs/runs/dp-1/    (folders.py)                   |
         |      cell.py             the body, same line numbers -->|
         |      pushed.*            functions.py, values.py ------>|
         |<---- rank0.log           everything a rank prints       |
         |<---- rank0.values/       what it shared (values.py)     |
         |<---- rank0.metrics.jsonl what it logged (metrics.py)    |
         |<---- rank0.end.json      how it ended (tracebacks.py)   |
         |<---- rank0.stacks        where it was, on a timeout     |

Values cross as JSON and safetensors, never as pickle. Functions cross as
source code (functions.py). output.py and panels.py show the logs, failures.py
finds the rank to blame, processes.py ends what a cell started and nothing else,
kept.py remembers ranks that --keep holds, script.py writes the body as a plain
script for a cluster.

A rank imports this package before its cell runs, so nothing heavy is imported
here: the names below are looked up on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labsupport.distributed.magic import load
    from labsupport.distributed.rank_api import (
        backend,
        count_traffic,
        device,
        log,
        share,
    )
    from labsupport.distributed.ranks import Ranks, RanksFailed

_HOME = {
    "Ranks": "ranks",
    "RanksFailed": "ranks",
    "backend": "rank_api",
    "count_traffic": "rank_api",
    "device": "rank_api",
    "load": "magic",
    "log": "rank_api",
    "share": "rank_api",
}

__all__ = [
    "Ranks",
    "RanksFailed",
    "backend",
    "count_traffic",
    "device",
    "load",
    "log",
    "share",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def load_ipython_extension(ipython: Any) -> None:
    """`%load_ext labsupport.distributed` outside a lab."""
    from labsupport.distributed.magic import load

    load(ipython)
