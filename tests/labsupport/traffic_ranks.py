"""The ranks' side of test_traffic.py: every way to issue a collective, counted.

python traffic_ranks.py FOLDER    writes FOLDER/RANKS-RANK.json and .traffic
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
import torch.distributed.checkpoint as checkpoint
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel

from labsupport.distributed import traffic
from labsupport.distributed.traffic import count_traffic
from tests.labsupport.forked_ranks import run_on_ranks

N = 2**20  # elements of 4 bytes


def loopback_bytes() -> int:
    """All bytes over this network namespace's loopback interface, headers too."""
    lines = Path("/proc/self/net/dev").read_text().splitlines()
    (line,) = [line for line in lines if line.strip().startswith("lo:")]
    return int(line.split()[1])


class Recorder:
    """The traffic of each named step, and what the loopback interface says."""

    def __init__(self) -> None:
        self.steps: dict[str, Any] = {}

    def step(self, name: str, do: Callable[[], Any]) -> Any:
        dist.barrier()
        dist.barrier()
        before = loopback_bytes()
        dist.barrier()
        with count_traffic() as counted:
            result = do()
        dist.barrier()
        dist.barrier()
        record = {**asdict(counted), "loopback": loopback_bytes() - before}
        record["collectives"] = {k: asdict(c) for k, c in counted.collectives.items()}
        record |= {"sent": counted.sent, "received": counted.received}
        self.steps[name] = record
        dist.barrier()
        return result


def tell(name: str, content: Any) -> None:
    place = Path(sys.argv[1]) / f"{os.environ['WORLD_SIZE']}-{os.environ['RANK']}"
    place.with_suffix(f".{name}").write_text(json.dumps(content))


def mlp(width: int = 256) -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(width, width, bias=False),
        torch.nn.ReLU(),
        torch.nn.Linear(width, width, bias=False),
    )


def train_step(model: torch.nn.Module, width: int = 256) -> None:
    torch.manual_seed(dist.get_rank())
    model(torch.randn(8, width)).square().mean().backward()


def plain(recorder: Recorder) -> None:
    """Each collective of torch.distributed, by its plain function."""
    rank, W = dist.get_rank(), dist.get_world_size()
    step, root = recorder.step, rank == 0
    x = torch.full((N,), float(rank))
    step("all_reduce", lambda: dist.all_reduce(x))
    assert x[0] == W * (W - 1) / 2
    out = torch.empty(W * N)
    step("all_gather_single", lambda: dist.all_gather_single(out, x))
    part = torch.empty(N // W)
    step("reduce_scatter_single", lambda: dist.reduce_scatter_single(part, x))
    splits = [N // 2 // (W - 1)] * W
    splits[rank] = N // 2  # an uneven exchange: a rank keeps half
    send, receive = torch.empty(2, sum(splits))
    step(
        "all_to_all_single",
        lambda: dist.all_to_all_single(receive, send, splits, splits),
    )
    step("broadcast", lambda: dist.broadcast(x, 0))
    parts = list(torch.empty(W, N)) if root else None
    step("gather", lambda: dist.gather(x, parts))
    step("scatter", lambda: dist.scatter(x, parts))
    step("reduce", lambda: dist.reduce(x, 0))
    step("barrier", dist.barrier)
    step("send", lambda: dist.send(x, 1) if root else rank == 1 and dist.recv(x, 0))


def otherwise(recorder: Recorder) -> None:
    """Collectives that no line of the program names, on two ranks."""
    rank, W = dist.get_rank(), dist.get_world_size()
    step = recorder.step
    x = torch.ones(N)

    def in_flight() -> None:
        works = [dist.all_reduce(x, async_op=True) for _ in range(3)]
        for work in works:
            work.wait()

    step("async", in_flight)
    step("object", lambda: dist.all_gather_object([None] * W, {"rank": rank}))

    def batched() -> None:
        ops = [
            dist.P2POp(dist.isend, x, 1 - rank),
            dist.P2POp(dist.irecv, torch.empty(N), 1 - rank),
        ]
        for work in dist.batch_isend_irecv(ops):
            work.wait()

    step("batched", batched)
    group = dist.group.WORLD

    def functionally() -> None:
        y = functional.all_reduce(x, "sum", group)
        functional.wait_tensor(y)

    step("functional", functionally)
    with torch.inference_mode():
        step("inference", lambda: dist.all_reduce(torch.ones(N)))

    ddp = DistributedDataParallel(mlp(), bucket_cap_mb=0.25)
    train_step(ddp)  # DDP sorts its buckets anew after the first step
    ddp.zero_grad()
    train_step(ddp)
    ddp.zero_grad()
    step("ddp", lambda: train_step(ddp))
    expected = [p.grad.clone() for p in ddp.parameters()]

    ddp = DistributedDataParallel(mlp())
    ddp.register_comm_hook(None, fp16_compress_hook)
    step("ddp fp16 hook", lambda: train_step(ddp))

    mesh = init_device_mesh("cpu", (W,))
    fsdp = mlp()
    for layer in (fsdp[0], fsdp[2], fsdp):
        fully_shard(layer, mesh=mesh)
    step("fsdp2", lambda: train_step(fsdp))
    for p, g in zip(fsdp.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad.full_tensor(), g)

    tp = parallelize_module(
        mlp(), mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()}
    )
    step("tensor parallel", lambda: tp(torch.ones(8, 256)).sum().item())

    whole = mlp(64)
    stage = PipelineStage(whole[0] if rank == 0 else whole[2], rank, W, "cpu")
    schedule = ScheduleGPipe(stage, 2, loss_fn=torch.nn.functional.mse_loss)
    batch = torch.ones(8, 64)
    given = {"target": batch} if rank else {}
    schedule.step(*([] if rank else [batch]), **given)  # sends shapes as well
    step("pipeline", lambda: schedule.step(*([] if rank else [batch]), **given))

    place = Path(sys.argv[1]) / "checkpoint"
    state = {"model": fsdp.state_dict()}
    step("checkpoint", lambda: checkpoint.save(state, checkpoint_id=place))

    with count_traffic() as refused:
        try:
            group.allgather([[x]], [x])  # two ranks give two parts
        except RuntimeError as error:
            tell("refused", str(error))
        dist.barrier()
    tell("issued", list(refused.collectives))


def body() -> None:
    torch.set_num_threads(1)
    traffic.start()
    rank, W = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo")
    dist.all_reduce(torch.ones(N))
    # Kept ranks run a second cell, with the groups of the first.
    traffic.stop_and_write(Path(sys.argv[1]) / f"{W}-{rank}.first")
    traffic.start()
    recorder = Recorder()
    plain(recorder)
    if W == 2:
        otherwise(recorder)
    tell("json", recorder.steps)
    subgroup = dist.new_group([0, 1])
    if rank < 2:
        dist.all_reduce(torch.ones(N), group=subgroup)
    dist.barrier()
    dist.destroy_process_group()
    # The last rank writes long after the others have closed their ends.
    done = Path(sys.argv[1]) / f"{W}-done"
    while rank == W - 1 and not done.exists():
        time.sleep(0.01)
    traffic.stop_and_write(Path(sys.argv[1]) / f"{W}-{rank}.traffic")
    if rank == 0:
        done.touch()


if __name__ == "__main__":
    for ranks in (2, 4):
        run_on_ranks(body, ranks)
