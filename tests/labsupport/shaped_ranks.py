"""Ranks on shaped links, without the rest of a torchrun cell.

    python shaped_ranks.py '[{"links": ["100mbit", "100mbit"], "bytes": 1000000}]'

For each experiment one process plays the agent: it builds the network and forks
the ranks, which time an all_reduce. Prints one line of JSON for each.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from labsupport.distributed.link_speed import parse_link
from labsupport.distributed.network import Network, build_network, enter_network

REPEATS = 3
PORT = "29500"  # in a network of its own every port is free
Experiment = dict[str, Any]


def main() -> None:
    torch.set_num_threads(1)
    for experiment in json.loads(sys.argv[1]):
        wait_for([fork(act_as_agent, experiment)])


def fork(job: Callable[..., None], *arguments: Any) -> int:
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        job(*arguments)
        code = 0
    finally:
        sys.stdout.flush()
        os._exit(code)


def wait_for(pids: list[int]) -> None:
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    if any(codes):
        sys.exit(f"exit codes {codes}")


def act_as_agent(experiment: Experiment) -> None:
    links = [parse_link(text) for text in experiment["links"]]
    start = time.perf_counter()
    network = build_network(links)
    took = time.perf_counter() - start
    os.environ.update(network.environment())
    os.environ.update(
        MASTER_ADDR=network.store_addresses[0],
        MASTER_PORT=PORT,
        WORLD_SIZE=str(len(links)),
    )
    ranks = range(len(links))
    wait_for([fork(act_as_rank, rank, network, took, experiment) for rank in ranks])


def act_as_rank(
    rank: int, network: Network, took: float, experiment: Experiment
) -> None:
    enter_network(rank)
    os.environ["RANK"] = str(rank)
    dist.init_process_group("gloo")
    world = dist.get_world_size()
    x = torch.full((experiment["bytes"] // 4,), float(rank + 1))
    dist.all_reduce(torch.ones(1))  # connects
    seconds, sent = [], []
    for _ in range(REPEATS):
        dist.barrier()
        before, start = sent_on("eth0"), time.perf_counter()
        dist.all_reduce(x)
        seconds.append(time.perf_counter() - start)
        dist.barrier()
        sent.append(sent_on("eth0") - before)
    gathered_in = time_gather(x[: len(x) // 4])
    slowest = torch.tensor(seconds)
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
    counted: list[Any] = [None] * world
    dist.all_gather_object(counted, sent)
    if rank == 1:
        wait = store_wait(torch.zeros_like(x))
    else:
        dist.all_reduce(torch.zeros_like(x))
    if rank == 1:
        measured = {
            "seconds": slowest.tolist(),
            "sent": counted,
            "gathered_in": gathered_in,
            "sum": x[0].item() / world ** (REPEATS - 1),
            "store_wait": wait,
            "built_in": took,
            "note": network.note(),
        }
        print(json.dumps(measured))
    dist.barrier()
    dist.destroy_process_group()


def time_gather(x: torch.Tensor) -> float:
    """Seconds until rank 0 has every rank's x: the best of the repeats.

    From the first rank's start, on the clock that all processes share: a rank that
    leaves the barrier late would measure a part only.
    """
    mine = dist.get_rank() == 0
    into = [torch.empty_like(x) for _ in range(dist.get_world_size())] if mine else None
    seconds = []
    for _ in range(REPEATS):
        dist.barrier()
        start = time.perf_counter()
        dist.gather(x, into)
        dist.barrier()
        end = torch.tensor(time.perf_counter(), dtype=torch.float64)
        first = torch.tensor(start, dtype=torch.float64)
        dist.all_reduce(first, op=dist.ReduceOp.MIN)
        seconds.append((end - first).item())
    return min(seconds)


def store_wait(x: torch.Tensor) -> float:
    """Seconds for a word from rank 0's store while the link is full: the median."""
    store = dist.distributed_c10d._get_default_store()
    store.set("word", "here")
    work = dist.all_reduce(x, async_op=True)
    waits = []
    while not work.is_completed():
        start = time.perf_counter()
        store.get("word")
        waits.append(time.perf_counter() - start)
    work.wait()
    return statistics.median(waits)


def sent_on(device: str) -> int:
    """Bytes that left a device of this namespace, headers included."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == device:
            return int(numbers.split()[8])
    raise LookupError(device)


if __name__ == "__main__":
    main()
