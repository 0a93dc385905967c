"""The ranks' side of test_fusion.py.

python fusion_ranks.py FOLDER    writes FOLDER/RANKS-RANK.pt: a dict of findings
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from labsupport.distributed.fusion import (
    DenseFusion,
    DiLoCo,
    Fusion,
    LocalSGD,
    LowRankFusion,
    RandomFusion,
    ThresholdFusion,
    TopKFusion,
)
from labsupport.distributed.traffic import count_traffic
from labsupport.errors import LabError
from labsupport.nn import GPT, GPTConfig
from tests.labsupport.forked_ranks import run_on_ranks

STEPS = 4
CONFIG = GPTConfig(d_model=32, n_layers=2, n_heads=2, max_len=8)
LARGER = GPTConfig(d_model=256, n_layers=2, n_heads=2, max_len=8)
COUNTED: dict[str, Callable[[], Fusion]] = {
    "dense_bf16": lambda: DenseFusion(torch.bfloat16),
    "low_rank_bf16": lambda: LowRankFusion(8),
    "signal": lambda: LowRankFusion(8, allocation="signal", every=2),
    "top_k": lambda: TopKFusion(0.05),
    "threshold": lambda: ThresholdFusion(1e-3),
    "random": lambda: RandomFusion(0.1),
}
METHODS: dict[str, Callable[[], Fusion]] = {
    "dense": DenseFusion,
    "dense_bf16": lambda: DenseFusion(torch.bfloat16),
    "low_rank": lambda: LowRankFusion(2, torch.float32),
    "low_rank_bf16": lambda: LowRankFusion(2),
    "power_sgd": lambda: LowRankFusion(2, torch.float32, residual="fused"),
    "signal": lambda: LowRankFusion(4, allocation="signal", every=2),
    "random_r": lambda: LowRankFusion(4, allocation="random", every=2),
    "top_k": lambda: TopKFusion(0.05),
    "top_k_fp32": lambda: TopKFusion(0.05, torch.float32),
    "threshold": lambda: ThresholdFusion(0.2),
    "random": lambda: RandomFusion(0.05),
}


class Small(nn.Module):
    """A matrix, a stack of matrices, a vector, a tied matrix, and an idle one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(12, 24)
        self.experts = nn.Parameter(torch.randn(3, 24, 10) / 5)
        self.again = nn.Linear(12, 24)
        self.again.weight = self.first.weight
        self.idle = nn.Linear(5, 5)

    def forward(self, x_BD: Tensor) -> Tensor:
        h = torch.tanh(self.first(x_BD)) + torch.tanh(self.again(x_BD))
        return torch.einsum("bh,ehd->bd", h, self.experts)


def small() -> Small:
    torch.manual_seed(0)
    return Small()


def wrapped(model: nn.Module, fusion: Fusion | None, **options: Any) -> Any:
    ddp = DistributedDataParallel(model, **options)
    if fusion is not None:
        fusion.attach(ddp)
    return ddp


def batch(step: int, rank: int, size: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 * step + rank)
    x_BD = torch.randn(size, 12, generator=generator)
    return x_BD, torch.randn(size, 10, generator=generator)


def backward(ddp: nn.Module, data: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """The gradients after DDP's backward, by name."""
    ddp.zero_grad()
    F.mse_loss(ddp(data[0]), data[1]).backward()
    return {
        name: p.grad.clone()
        for name, p in ddp.module.named_parameters()  # type: ignore[union-attr]
        if p.grad is not None
    }


def descend(model: nn.Module, lr: float = 0.05) -> None:
    with torch.no_grad():
        for p in model.parameters():
            if p.grad is not None:
                p -= lr * p.grad


def steps_of(
    fusion: Fusion | None, steps: int = STEPS, **options: Any
) -> list[dict[str, Tensor]]:
    """The fused gradients of some steps of the small model."""
    ddp = wrapped(small(), fusion, find_unused_parameters=True, **options)
    found = []
    for step in range(steps):
        found.append(backward(ddp, batch(step, dist.get_rank())))
        descend(ddp)
    return found


# --- what is found out ---------------------------------------------------------------


def everything() -> dict[str, Any]:
    return {
        "fused": {name: steps_of(make()) for name, make in METHODS.items()},
        "ddp": steps_of(None),
        "full_rank": full_rank(),
        "conservation": {name: conserved(make()) for name, make in METHODS.items()},
        "unequal": unequal(),
        "traffic": {name: moved(make()) for name, make in COUNTED.items()},
        "buckets": buckets(),
        "resumed": resumed(),
        "not_finite": {name: not_finite(make()) for name, make in METHODS.items()},
        "after_nan": after_nan(),
        "torch": beside_torch(),
        "refused": refused(),
        "local": periodic(),
        "statistics": statistics(),
        "start": steps_of(LowRankFusion(1, start=2)),
        "no_feedback": no_feedback(),
        "ranks": moving_ranks(),
        "drift": {residual: drift(residual) for residual in ("own", "fused")},
    }


def full_rank() -> list[dict[str, Tensor]]:
    """As many directions as a matrix has: nothing is left out."""
    fusion = LowRankFusion(1, torch.float32)
    fusion.r = {"first.weight": 12, "experts": 10, "idle.weight": 5}
    return steps_of(fusion)


def conserved(fusion: Fusion) -> list[dict[str, Tensor]]:
    """For some steps: u_i, what was fused, and the new residual."""
    model = small()
    fusion.know(model)
    found = []
    for step in range(STEPS):
        x_BD, y_BD = batch(step, dist.get_rank())
        model.zero_grad()
        F.mse_loss(model(x_BD), y_BD).backward()
        named = {
            n: torch.zeros_like(p) if p.grad is None else p.grad
            for n, p in model.named_parameters()
        }
        before = {n: fusion.residual(n) for n in named}
        u = {n: g + (0 if before[n] is None else before[n]) for n, g in named.items()}
        fusion.fuse_named(named)
        fusion.end_step()
        row = {}
        for n in named:
            residual = fusion.residual(n)
            kept = torch.zeros_like(u[n]) if residual is None else residual
            row[n] = torch.stack([u[n], named[n], kept])
        found.append(row)
        descend(model)
    return found


def unequal() -> dict[str, Any]:
    """Batches of other sizes on each rank, and one process with all of them."""
    W, rank = dist.get_world_size(), dist.get_rank()
    sizes = [1 + 3 * r for r in range(W)]
    found = {}
    for name in ("dense", "full_rank"):
        fusion: Fusion = DenseFusion()
        if name == "full_rank":
            fusion = LowRankFusion(1, torch.float32)
            fusion.r = {"first.weight": 12, "experts": 10, "idle.weight": 5}
        fusion.weight = W * sizes[rank] / sum(sizes)
        ddp = wrapped(small(), fusion, find_unused_parameters=True)
        found[name] = backward(ddp, batch(0, rank, sizes[rank]))
    parts = [batch(0, r, sizes[r]) for r in range(W)]
    x_BD, y_BD = (torch.cat(part) for part in zip(*parts, strict=True))
    model = small()
    F.mse_loss(model(x_BD), y_BD).backward()
    found["one"] = {
        n: p.grad for n, p in model.named_parameters() if p.grad is not None
    }
    return found


def moved(fusion: Fusion) -> list[float]:
    """Bytes a step: by the method's formula, by the collectives, through sockets."""
    torch.manual_seed(0)
    options = {"bucket_cap_mb": 100, "forward_sync_buffers": False}
    ddp = wrapped(GPT(LARGER), fusion, **options)
    tokens_BT = torch.randint(0, 256, (1, 8))

    def step() -> None:
        logits = ddp(tokens_BT)
        F.cross_entropy(logits.flatten(0, 1), tokens_BT.flatten()).backward()

    step()
    step()  # DDP's own first messages are over: it has built its buckets anew
    dist.barrier()
    with count_traffic() as counted:
        step()
    formula = fusion.bytes_to_send()
    assert counted.sent is not None
    return [formula, counted.ideal_sent, counted.sent]


def buckets() -> dict[str, Any]:
    """One bucket, and buckets of single parameters, rebuilt after the first step."""
    return {
        "one": steps_of(LowRankFusion(2, torch.float32), bucket_cap_mb=100),
        "many": steps_of(LowRankFusion(2, torch.float32), bucket_cap_mb=1e-5),
    }


def resumed() -> dict[str, Any]:
    """Steps in one go, and the same with another hook from the middle on."""
    found: dict[str, Any] = {}
    for name in ("low_rank_bf16", "signal", "top_k", "random"):
        straight = steps_of(METHODS[name](), 6)
        first = METHODS[name]()
        ddp = wrapped(small(), first, find_unused_parameters=True)
        for step in range(3):
            backward(ddp, batch(step, dist.get_rank()))
            descend(ddp)
        second = METHODS[name]()
        weights = {k: v.clone() for k, v in ddp.module.state_dict().items()}
        model = small()
        model.load_state_dict(weights)
        again = wrapped(model, second, find_unused_parameters=True)
        second.load_state_dict(first.state_dict())
        rest = []
        for step in range(3, 6):
            rest.append(backward(again, batch(step, dist.get_rank())))
            descend(again)
        found[name] = {"straight": straight[3:], "rest": rest}
    return found


def not_finite(fusion: Fusion) -> dict[str, Any]:
    """Two good steps, then one in which rank 1 has a gradient of NaN."""
    ddp = wrapped(small(), fusion, find_unused_parameters=True)
    for step in range(2):
        backward(ddp, batch(step, dist.get_rank()))
    before = {k: v.clone() for k, v in fusion.state_dict().items() if "resid" in k}
    x_BD, y_BD = batch(2, dist.get_rank())
    if dist.get_rank() == 1:
        x_BD = x_BD * torch.nan
    gradients = backward(ddp, (x_BD, y_BD))
    after = {k: v.clone() for k, v in fusion.state_dict().items() if "resid" in k}
    return {
        "nan": {n: bool(g.isnan().all()) for n, g in gradients.items()},
        "same": before.keys() == after.keys()
        and all(torch.equal(before[k], after[k]) for k in before),
    }


def after_nan() -> bool:
    """The step after one that was not finite is an ordinary one."""
    ddp = wrapped(small(), LowRankFusion(2), find_unused_parameters=True)
    x_BD, y_BD = batch(0, dist.get_rank())
    backward(ddp, (x_BD * torch.nan, y_BD))
    gradients = backward(ddp, (x_BD, y_BD))
    return all(bool(g.isfinite().all()) for g in gradients.values())


def beside_torch() -> dict[str, Any]:
    """Torch's PowerSGD in one bucket, and ours from the same state on."""
    state = powerSGD_hook.PowerSGDState(
        process_group=None,
        matrix_approximation_rank=2,
        start_powerSGD_iter=2,
        min_compression_rate=1.1,  # vectors travel whole
    )
    model = GPT(CONFIG)
    tokens_SBT = torch.randint(
        0, 256, (5, 2, 8), generator=torch.Generator().manual_seed(dist.get_rank())
    )
    torch.manual_seed(3)
    model = GPT(CONFIG)
    theirs = DistributedDataParallel(model, bucket_cap_mb=100)
    names = {id(p): n for n, p in model.named_parameters()}
    order: list[tuple[str, Tensor]] = []

    def watched(state, bucket):  # type: ignore[no-untyped-def]
        order[:] = [(names[id(p)], p) for p in bucket.parameters()]
        return powerSGD_hook.powerSGD_hook(state, bucket)

    theirs.register_comm_hook(state, watched)

    def gradients(ddp: Any, step: int) -> dict[str, Tensor]:
        ddp.zero_grad()
        tokens_BT = tokens_SBT[step]
        logits = ddp(tokens_BT)
        F.cross_entropy(logits.flatten(0, 1), tokens_BT.flatten()).backward()
        return {n: p.grad.clone() for n, p in ddp.module.named_parameters()}

    for step in range(3):  # the last of these is compressed
        gradients(theirs, step)
    # Their memory: one flat error of the bucket, and Q by shape.
    fusion = LowRankFusion(2, torch.float32)
    ours = wrapped(GPT(CONFIG), fusion, bucket_cap_mb=100)
    ours.module.load_state_dict(theirs.module.state_dict())
    (error,) = state.error_dict.values()
    qs = their_directions(state, order)
    offset = 0
    for name, parameter in order:
        size = parameter.numel()
        part = error[offset : offset + size].view_as(parameter).clone()
        offset += size
        fusion.memory[name] = {"residual": part}
        if parameter.dim() > 1:
            fusion.memory[name]["q"] = qs[name][None]
            fusion.r[name] = 2
    return {
        "theirs": [gradients(theirs, step) for step in (3, 4)],
        "ours": [gradients(ours, step) for step in (3, 4)],
    }


def their_directions(state: Any, order: Any) -> dict[str, Tensor]:
    """Torch keeps all Q in one tensor, grouped by shape, in the bucket's order."""
    (flat,) = state.q_memory_dict.values()
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, parameter in order:
        if parameter.dim() > 1:
            groups.setdefault(tuple(parameter.shape), []).append(name)
    found, offset = {}, 0
    for shape, members in groups.items():
        for name in members:
            size = shape[1] * 2
            found[name] = flat[offset : offset + size].view(shape[1], 2).clone()
            offset += size
    return found


def refused() -> dict[str, str]:
    """What is said to a wrong use."""
    said = {}

    def sentence(name: str, do: Callable[[], Any], kind: Any = LabError) -> None:
        try:
            do()
        except kind as error:
            said[name] = str(error)

    sentence("not_ddp", lambda: DenseFusion().attach(small()))  # type: ignore[arg-type]
    sparse = nn.Sequential(nn.Embedding(5, 3, sparse=True))
    sentence("sparse", lambda: wrapped(sparse, LowRankFusion()))
    fusion = LowRankFusion()
    fusion.know(small())
    other = small()

    def changed() -> None:
        fusion.named_gradients([other.first.weight], [other.first.weight])

    sentence("changed", changed)
    ddp = wrapped(small(), fusion, find_unused_parameters=True)
    fusion.names.data.clear()
    sentence("in_backward", lambda: backward(ddp, batch(0, 0)), Exception)
    return said


def periodic() -> dict[str, Any]:
    """Weights before and after a meeting."""
    found: dict[str, Any] = {}
    for name, make in (
        ("local", lambda model: LocalSGD(model, 3)),
        ("diloco", lambda model: DiLoCo(model, 3, outer_lr=0.5, momentum=0.9)),
    ):
        model = small()
        meeting = make(model)
        weights, met = [], []
        for step in range(6):
            x_BD, y_BD = batch(step, dist.get_rank())
            model.zero_grad()
            F.mse_loss(model(x_BD), y_BD).backward()
            descend(model)
            before = model.first.weight.detach().clone()
            met.append(meeting.after_step())
            weights.append(torch.stack([before, model.first.weight.detach()]))
        found[name] = {"weights": weights, "met": met}
    return found


def statistics() -> dict[str, Any]:
    """A matrix whose workers share a part of known energy, beside noise."""
    model = nn.Linear(16, 24, bias=False)
    fusion = LowRankFusion(2, torch.float32)
    fusion.know(model)
    generator = torch.Generator().manual_seed(7)
    left, right = (
        torch.randn(24, generator=generator),
        torch.randn(16, generator=generator),
    )
    shared_MN = 4 * torch.outer(left / left.norm(), right / right.norm())
    mine = torch.Generator().manual_seed(100 + dist.get_rank())
    coherences = []
    for step in range(40):
        noise_MN = torch.randn(24, 16, generator=mine)
        fusion.memory.get("weight", {}).pop("residual", None)
        fusion.coherence.clear()
        fusion.fuse_named({"weight": shared_MN + noise_MN})
        if step >= 10:  # the directions have turned to what is shared
            coherences.append(fusion.coherence["weight"].clone())
    alone = LowRankFusion(2, torch.float32)
    alone.know(model)
    alone.fuse_named({"weight": shared_MN + torch.randn(24, 16, generator=generator)})
    return {
        "coherence": torch.stack(coherences).mean(0),
        "all_the_same": alone.coherence["weight"],
    }


def no_feedback() -> dict[str, Any]:
    fusion = TopKFusion(0.05, error_feedback=False)
    steps_of(fusion)
    return {"memory": fusion.memory_bytes}


def moving_ranks() -> dict[str, Any]:
    """Directions by parameter after some steps, and the bytes of each step."""
    found = {}
    for name in ("signal", "random_r"):
        fusion: Any = METHODS[name]()
        model = wrapped(GPT(CONFIG), fusion)
        tokens_BT = torch.randint(0, 256, (2, 8))
        before = None
        for _ in range(5):
            logits = model(tokens_BT)
            F.cross_entropy(logits.flatten(0, 1), tokens_BT.flatten()).backward()
            before = before or fusion.bytes_to_send()
        found[name] = {
            "r": dict(fusion.r),
            "bytes": [before, fusion.bytes_to_send()],
        }
    return found


def drift(residual: str) -> float:
    """How the size of a residual grows in steps of nothing but noise."""
    model = nn.Linear(16, 24, bias=False)
    fusion = LowRankFusion(4, torch.float32, residual=residual)  # type: ignore[arg-type]
    fusion.know(model)
    mine = torch.Generator().manual_seed(dist.get_rank())
    sizes = []
    for _ in range(120):
        fusion.fuse_named({"weight": torch.randn(24, 16, generator=mine)})
        kept = fusion.residual("weight")
        assert kept is not None
        sizes.append(float(kept.norm()))
    return sum(sizes[-20:]) / sum(sizes[20:40])


def body(folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found = everything()
    W, rank = dist.get_world_size(), dist.get_rank()
    torch.save(found, folder / f"{W}-{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    for ranks in (2, 4):
        run_on_ranks(lambda: body(Path(sys.argv[1])), ranks=ranks)
