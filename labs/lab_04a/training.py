"""One training on several workers, as one rank runs it, and from outside.

Shape suffixes: B sequences of this rank, T tokens.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from labs.lab_04a.methods import MEET_EVERY, arm_of
from labs.lab_04a.plan import EVALUATE_EVERY, GPT_PLANS, MIXTURE, TIME_PLANS
from labs.lab_04a.redundancy import WatchedFusion
from labsupport.distributed.call import call_on_ranks
from labsupport.distributed.fusion import Fusion, LowRankFusion
from labsupport.nn import GPT, MixtureOfExperts
from labsupport.settings import Scale, seed_everything
from labsupport.tasks.corpus import Corpus
from labsupport.train import Plan, Recipe, mean_loss, training_steps
from labsupport.train.recipe import make_optimizer

Row = dict[str, Any]


def make_model(plan: Plan, architecture: str = "dense") -> GPT:
    """The GPT of a plan; "moe": with lab 02's experts in it."""
    if architecture == "moe":
        return GPT(plan.config, ffn=partial(MixtureOfExperts, **MIXTURE))
    return GPT(plan.config)


def language_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Mean cross-entropy, through DDP's own forward."""
    logits_BTV = model(batch[0]).float()
    return F.cross_entropy(logits_BTV.flatten(0, 1), batch[1].flatten())


class Worker:
    """One rank's model, optimizer and share of the data.

    Args:
        arm: one of ARMS.
        plan: model and recipe.
        dist: `torch.distributed`, with a process group.
        fusion: a hook of the caller's own in place of the arm's.
        optimizer: "adamw", or "sgd": with momentum, and no decay of weights.
        settings: a trial of the arm: `lr` and others; and `clip`, 1 unless given.
    """

    def __init__(
        self,
        arm: str,
        seed: int,
        plan: Plan,
        dist: Any,
        *,
        device: torch.device | str = "cpu",
        architecture: str = "dense",
        fusion: Fusion | None = None,
        lr: float | None = None,
        clip: float = 1.0,
        optimizer: str = "adamw",
        **settings: Any,
    ) -> None:
        self.plan, self.seed, self.dist = plan, seed, dist
        self.recipe = Recipe(plan.steps, lr or plan.lr, clip=clip)
        seed_everything(seed)
        self.model = make_model(plan, architecture).to(device)
        self.trained: nn.Module = self.model
        self.fusion, self.meeting = fusion, None
        kind = arm_of(arm)
        if kind.meet is not None and fusion is None:
            self.meeting = kind.meet(self.model, **settings)
        else:
            if self.fusion is None:
                assert kind.make is not None
                self.fusion = kind.make(**settings)
            # Buffers are tables that never change: they need not be sent.
            # An expert that no token visits has no gradient.
            self.trained = DistributedDataParallel(
                self.model,
                forward_sync_buffers=False,
                find_unused_parameters=architecture == "moe",
            )
            self.fusion.attach(self.trained)
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.SGD(
                self.model.parameters(), lr=self.recipe.lr, momentum=0.9
            )
            if optimizer == "sgd"
            else make_optimizer(self.model, self.recipe)
        )
        self.corpus = Corpus.load()

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        return self.corpus.batch(
            "train",
            step,
            batch_size=self.plan.batch_size,
            length=self.plan.length,
            seed=self.seed,
            rank=self.dist.get_rank(),
            world=self.dist.get_world_size(),
        )

    def steps(self) -> Any:
        """The training, a step at a time."""
        for result in training_steps(
            self.trained,
            self.optimizer,
            self.batch,
            self.recipe,
            loss_fn=language_loss,
        ):
            if self.meeting is not None:
                self.meeting.after_step()
            yield result

    def mean_over_ranks(self, values: list[float]) -> list[float]:
        """Of numbers that every rank has its own of."""
        device = next(self.model.parameters()).device
        held = torch.tensor(values, dtype=torch.float64, device=device)
        self.dist.all_reduce(held)
        return (held / self.dist.get_world_size()).tolist()

    def validation(self, count: int) -> float:
        """Loss on `count` fixed batches, shared out over the ranks.

        Workers that meet now and then have weights of their own between meetings:
        then it is the mean of their losses.
        """
        batches = self.corpus.validation_batches(
            count, batch_size=self.plan.batch_size, length=self.plan.length
        )
        W = self.dist.get_world_size()
        mine = batches[self.dist.get_rank() :: W]
        return self.mean_over_ranks([mean_loss(self.model, mine)])[0]

    def buckets(self) -> int:
        """Messages of DDP's in a step; 0 for arms that exchange weights."""
        if not isinstance(self.trained, DistributedDataParallel):
            return 0
        data = self.trained._get_ddp_logging_data()
        sizes = data.get("rebuilt_bucket_sizes") or data["bucket_sizes"]
        return len(str(sizes).split(","))

    def bytes_to_send(self) -> float:
        """Of this worker, in the step that comes."""
        sender: Any = self.fusion if self.meeting is None else self.meeting
        return sender.bytes_to_send()


def train_rank(
    arm: str,
    seed: int,
    scale: Scale,
    dist: Any,
    log: Any = None,
    **options: Any,
) -> Row:
    """Train to the end; the same row on all ranks.

    Args:
        log: called with the step and its loss.
        options: those of `Worker`.

    Returns:
        validation: nats a byte at the end.
        curve: validation loss, on fewer batches, every EVALUATE_EVERY steps.
        sent: bytes that a worker sent, mean over steps and workers, by the formula.
        memory: bytes that a worker keeps for its method.
        clipped: share of the steps whose gradient was clipped.
    """
    plan, every = GPT_PLANS[scale], EVALUATE_EVERY[scale]
    worker = Worker(arm, seed, plan, dist, **options)
    W = dist.get_world_size()
    curve, sent, clipped = [], 0.0, 0
    for result in worker.steps():
        sent += worker.bytes_to_send()
        clipped += result.grad_norm > worker.recipe.clip
        if log is not None:
            log(result.step, loss=result.loss)
        if result.step % every == 0:
            curve.append(round(worker.validation(2 * W), 4))
    count = 2 * W if scale == "ci" else 16 * W
    kept: Any = worker.fusion if worker.meeting is None else worker.meeting
    means = worker.mean_over_ranks(
        [sent / plan.steps, float(kept.memory_bytes), clipped / plan.steps]
    )
    return {
        "validation": round(worker.validation(count), 5),
        "curve": curve,
        "sent": round(means[0]),
        "memory": round(means[1]),
        "clipped": round(means[2], 3),
    }


def time_rank(
    arm: str, seed: int, scale: Scale, dist: Any, **options: Any
) -> Row:
    """Milliseconds of a step: the median, after a few that are not counted.

    Workers that meet now and then: the mean, as most steps have no meeting in them.
    """
    plan = replace(TIME_PLANS[scale], steps=3 + TIME_PLANS[scale].steps)
    if arm in ("local_sgd", "diloco"):  # whole rounds, so that meetings count
        plan = replace(plan, steps=3 + MEET_EVERY)
    worker = Worker(arm, seed, plan, dist, **options)
    spent, began = [], time.perf_counter()
    for _ in worker.steps():
        now = time.perf_counter()
        spent.append(now - began)
        began = now
    counted = sorted(spent[3:])
    middle = counted[len(counted) // 2]
    if worker.meeting is not None:
        middle = sum(counted) / len(counted)
    (ms,) = worker.mean_over_ranks([1e3 * middle])
    return {
        "ms": round(ms, 2),
        "sent": round(worker.bytes_to_send()),
        "buckets": worker.buckets(),
    }


def compute_rank(seed: int, scale: Scale, dist: Any, **options: Any) -> Row:
    """Milliseconds of a step's parts while all ranks compute, and nothing is sent.

    Medians, of this model with as many sequences as a rank has in `time_rank`.
    """
    plan = TIME_PLANS[scale]
    worker = Worker("ddp", seed, plan, dist, **options)
    device = next(worker.model.parameters()).device
    spent: dict[str, list[float]] = {
        "forward": [],
        "backward": [],
        "update": [],
    }
    for step in range(3 + plan.steps):
        dist.barrier()
        began = time.perf_counter()
        tokens_BT, targets_BT = (x.to(device) for x in worker.batch(step))
        loss = language_loss(worker.model, (tokens_BT, targets_BT))
        after_forward = time.perf_counter()
        loss.backward()
        after_backward = time.perf_counter()
        torch.nn.utils.clip_grad_norm_(worker.model.parameters(), 1.0)
        worker.optimizer.step()
        worker.optimizer.zero_grad()
        spent["forward"].append(after_forward - began)
        spent["backward"].append(after_backward - after_forward)
        spent["update"].append(time.perf_counter() - after_backward)
    middles = [
        1e3 * sorted(times[3:])[len(times[3:]) // 2]
        for times in spent.values()
    ]
    means = worker.mean_over_ranks(middles)
    return {
        f"ms_{part}": round(ms, 2)
        for part, ms in zip(spent, means, strict=True)
    }


def budget_rank(
    allocation: str, r: int, seed: int, scale: Scale, dist: Any, **options: Any
) -> Row:
    """AGF with another budget: that of r directions for every matrix."""
    fusion = LowRankFusion(r, allocation=allocation)  # type: ignore[arg-type]
    row = train_rank(
        "agf_uniform", seed, scale, dist, fusion=fusion, lr=3e-3, **options
    )
    return row | {"directions": dict(fusion.r)}


def cosine_rank(seed: int, scale: Scale, dist: Any, **options: Any) -> Row:
    """The mean cosine between workers' gradients, in windows of equal length."""
    fusion = WatchedFusion()
    row = train_rank(
        "ddp", seed, scale, dist, fusion=fusion, lr=3e-3, **options
    )
    size = max(1, len(fusion.cosines) // 60)
    windows = [
        fusion.cosines[i : i + size]
        for i in range(0, len(fusion.cosines), size)
    ]
    means = [round(sum(w) / len(w), 4) for w in windows]
    return {
        "validation": row["validation"],
        "cosines": means,
        "window": size,
        "first": round(fusion.cosines[0], 4),
    }


def all_reduce_rank(
    seed: int, sizes: Sequence[int], dist: Any, device: torch.device | str
) -> Row:
    """Milliseconds of an all_reduce of each size: medians of seven."""
    torch.manual_seed(seed)
    found = []
    for size in sizes:
        x = torch.randn(size // 4, device=device)
        spent = []
        for _ in range(8):
            dist.barrier()
            began = time.perf_counter()
            dist.all_reduce(x)
            spent.append(1e3 * (time.perf_counter() - began))
        found.append(round(sorted(spent[1:])[3], 4))
    return {"bytes": list(sizes), "ms": found}


def on_ranks(
    function: str, workers: int, link: str | None = None, **arguments: Any
) -> Row:
    """What rank 0 finds out: a function of this module, on ranks of a torchrun cell.

    Args:
        function: one whose name ends in "_rank".
        workers: how many ranks.
        link: as in `--link`.
        arguments: of the function; what Python can write down.
    """
    row: Row = call_on_ranks(
        f"{__name__}:{function}", workers, link=link, **arguments
    )
    return row
