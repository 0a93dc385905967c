"""The ranks' side of test_throttle.py.

python throttle_ranks.py FOLDER    writes FOLDER/RANKS-RANK.json
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe
from torch.nn.parallel import DistributedDataParallel

from labsupport.distributed.link_speed import LinkSpeed, parse_link
from labsupport.distributed.throttle import throttle
from labsupport.distributed.tracebacks import is_lost_peer
from labsupport.distributed.traffic import count_traffic
from labsupport.errors import LabError
from tests.labsupport.forked_ranks import run_on_ranks

LINK = parse_link("100mbit")
LATE = parse_link("50ms")
BYTES = 2_500_000  # at 100 mbit: 0.2 s


def timed(link: LinkSpeed | None, do: Callable[[], Any]) -> float:
    """Seconds that `do` takes on this rank; all ranks begin together."""
    dist.barrier()
    start = time.monotonic()
    if link is None:
        do()
        return time.monotonic() - start
    with throttle(link):
        do()
        return time.monotonic() - start


def tensor(size: int) -> torch.Tensor:
    return torch.ones(size, dtype=torch.uint8)


def times() -> dict[str, Any]:
    """How long collectives take, in seconds."""
    rank, W = dist.get_rank(), dist.get_world_size()
    handed_in = BYTES * W // (2 * (W - 1))  # so that a ring sends BYTES
    x = tensor(handed_in)
    found: dict[str, Any] = {}
    dist.all_reduce(x)
    found["free"] = timed(None, lambda: dist.all_reduce(x))
    found["all_reduce"] = timed(LINK, lambda: dist.all_reduce(x))
    found["latency"] = timed(LATE, lambda: dist.all_reduce(tensor(1)))
    found["monitored"] = timed(LATE, dist.monitored_barrier)
    one_slow = parse_link("50mbit" if rank == 0 else "5gbit")
    found["one slow"] = timed(one_slow, lambda: dist.all_reduce(x))

    def two_at_once() -> None:
        works = [dist.all_reduce(x, async_op=True) for _ in range(2)]
        found["called"] = time.monotonic() - start
        for work in works:
            work.wait()

    start = time.monotonic()
    found["two"] = timed(LINK, two_at_once)

    def send() -> None:
        if rank == 0:
            dist.send(tensor(BYTES), 1)
        elif rank == 1:
            dist.recv(tensor(BYTES), 0)

    found["send"] = timed(LINK, send)

    def compute_meanwhile() -> None:
        work = dist.all_reduce(x, async_op=True)
        y = torch.eye(64)
        while time.monotonic() < start + 0.35:
            y = y @ y
        computed = time.monotonic()
        work.wait()
        found["left to wait"] = time.monotonic() - computed

    dist.barrier()
    start = time.monotonic()
    timed(LINK, compute_meanwhile)

    def count() -> None:
        with count_traffic() as step:
            dist.all_reduce(x, async_op=True)
        found["counted when called"] = step["all_reduce"].calls

    timed(LINK, count)

    def fail() -> None:
        work.append(dist.all_reduce(tensor(BYTES), async_op=True))
        raise ValueError

    work: list[dist.Work] = []
    start = time.monotonic()
    with contextlib.suppress(ValueError):
        timed(parse_link("100kbit"), fail)
    work[0].wait()
    found["failed"] = time.monotonic() - start
    return found


def results() -> list[torch.Tensor]:
    """What many kinds of collectives give; the same with a link as without."""
    rank, W = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(rank)
    x = torch.randn(W * 10)
    out: list[torch.Tensor] = []

    def empty(n: int = W * 10) -> torch.Tensor:
        out.append(torch.zeros(n))
        return out[-1]

    def copy() -> torch.Tensor:
        out.append(x.clone())
        return out[-1]

    for _ in range(20):
        dist.all_reduce(copy())
    dist.all_gather_single(empty(W * W * 10), x)
    dist.all_gather([empty() for _ in range(W)], x)
    dist.reduce_scatter_single(empty(10), x)
    dist.reduce_scatter(empty(10), list(x.chunk(W)))
    dist.all_to_all_single(empty(), x)
    dist.broadcast(copy(), 1)
    dist.scatter(empty(10), list(x.chunk(W)) if rank == 0 else None)
    dist.gather(x, [empty() for _ in range(W)] if rank == 0 else None)
    objects: list[Any] = [None] * W
    dist.all_gather_object(objects, x)
    out.extend(objects)
    ring = [
        dist.P2POp(dist.isend, x, (rank + 1) % W),
        dist.P2POp(dist.irecv, empty(), (rank - 1) % W),
    ]
    for work in dist.batch_isend_irecv(ring):
        work.wait()
    out.append(
        functional.wait_tensor(functional.all_reduce(x, "sum", dist.group.WORLD))
    )
    with torch.inference_mode():
        dist.all_reduce(copy())
    with torch.no_grad():
        out.extend(grads(hook=None))
        out.extend(grads(hook=fp16_compress_hook))
        out.extend(sharded_grads())
    if W == 2:
        out.append(pipeline())
    return [t.detach().clone() for t in out]


def mlp() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(*[torch.nn.Linear(64, 64) for _ in range(6)])


@torch.enable_grad()
def grads(hook: Any) -> list[torch.Tensor]:
    """Of two DDP steps with several buckets."""
    ddp = DistributedDataParallel(mlp(), bucket_cap_mb=0.02)
    if hook is not None:
        ddp.register_comm_hook(None, hook)
    for _ in range(2):
        ddp(torch.randn(4, 64)).square().mean().backward()
    return [p.grad for p in ddp.parameters()]


@torch.enable_grad()
def sharded_grads() -> list[torch.Tensor]:
    """Of two FSDP2 steps."""
    model = mlp()
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in (*model, model):
        fully_shard(layer, mesh=mesh)
    for _ in range(2):
        model(torch.randn(4, 64)).square().mean().backward()
    return [p.grad.to_local() for p in model.parameters()]


@torch.enable_grad()
def pipeline() -> torch.Tensor:
    rank = dist.get_rank()
    part = mlp()[rank]
    schedule = ScheduleGPipe(
        PipelineStage(part, rank, 2, "cpu"), 2, loss_fn=torch.nn.functional.mse_loss
    )
    batch = torch.ones(4, 64)
    schedule.step(*([] if rank else [batch]), **({"target": batch} if rank else {}))
    return part.weight.grad


def refusals() -> list[str]:
    """What is said of a collective that gloo refuses, and of a second link."""
    said = []
    x = torch.ones(2)
    with throttle(LINK):
        try:
            dist.group.WORLD.allgather([[x]], [x]).wait()
        except RuntimeError as error:
            said.append(str(error))
        try:
            with throttle(LINK):
                pass
        except LabError as error:
            said.append(str(error))
        dist.all_reduce(x)
    return [*said, str(x.tolist())]


def lost_peer() -> None:
    """Rank 1 leaves: every way to wait must tell rank 0, and soon."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    with throttle(parse_link("1gbit,1ms")):
        ddp = DistributedDataParallel(mlp(), bucket_cap_mb=0.02)
        loss = ddp(torch.randn(4, 64)).square().mean()
        x = torch.ones(10)
        dist.barrier()
        if dist.get_rank() == 1:
            os._exit(0)
        ways = {
            "ddp": loss.backward,
            "all_reduce": lambda: dist.all_reduce(x),
            "send": lambda: dist.send(x, 1),
            "reduce_scatter": lambda: dist.reduce_scatter_single(torch.ones(5), x),
            "functional": lambda: functional.wait_tensor(
                functional.all_reduce(x, "sum", dist.group.WORLD)
            ),
        }
        found = {}
        for name, do in ways.items():
            try:
                do()
                found[name] = "nothing"
            except RuntimeError as error:
                found[name] = "lost peer" if is_lost_peer(error) else repr(error)
    Path(sys.argv[1], "lost.json").write_text(json.dumps(found))
    os._exit(0)


def body() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    W, rank = dist.get_world_size(), dist.get_rank()
    found: dict[str, Any] = {"times": times()}
    free = results()
    with throttle(parse_link("1gbit,1ms")):
        slow = results()
    found["compared"] = len(free)
    found["different"] = [
        i for i, (a, b) in enumerate(zip(free, slow, strict=True)) if not a.equal(b)
    ]
    found["refusals"] = refusals()
    Path(sys.argv[1], f"{W}-{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    for ranks in (2, 4):
        run_on_ranks(body, ranks)
    run_on_ranks(lost_peer, 2)
