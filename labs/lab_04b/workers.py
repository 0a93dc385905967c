"""Data-parallel training by hand, over workers that are not equally fast.

Each step: every rank computes the mean gradient of its own samples, all meet, the
gradients are averaged, and every rank makes the same update. A slow worker is really
slow: it computes each of its gradients several times. So it takes longer for a sample
by that factor, and what all compute stays the same.

Shape suffixes: P weights, W ranks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from labs.lab_04b.exercises_core import average_gradient
from labs.lab_04b.exercises_core import balance as our_balance
from labs.lab_04b.plan import RANK_PLANS
from labsupport.distributed.balance import CostFit, StepCost, equal_batches
from labsupport.errors import LabError
from labsupport.nn import GPT
from labsupport.settings import Scale
from labsupport.tasks.corpus import Corpus
from labsupport.train import Recipe, make_optimizer

Policy = Literal["equal", "balanced"]
Average = Callable[[Tensor, int, Any], Tensor]
Balance = Callable[[list[float], list[float], int], list[int]]


@dataclass
class Course:
    """What one rank did, step by step. Times are seconds since the first step.

    Attributes:
        batch: its samples.
        begin, ready, met, done: when it began to compute, had its gradient, had met
            all others, had made the update.
        loss: of the whole batch, the same on all ranks.
        fixed, per_sample: the costs that were fitted to its steps so far.
    """

    batch: list[int] = field(default_factory=list)
    begin: list[float] = field(default_factory=list)
    ready: list[float] = field(default_factory=list)
    met: list[float] = field(default_factory=list)
    done: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    fixed: list[float] = field(default_factory=list)
    per_sample: list[float] = field(default_factory=list)


def train_unequal(
    dist: Any,
    scale: Scale,
    seed: int = 0,
    *,
    repeats: Sequence[int],
    policy: Policy = "balanced",
    steps: int | None = None,
    until: int | None = None,
    turn: int | None = None,
    average: Average = average_gradient,
    balance: Balance = our_balance,
    device: torch.device | str = "cpu",
    watch: Callable[..., None] | None = None,
) -> Course:
    """Train the lab's GPT over all ranks; every rank calls this.

    Args:
        dist: `torch.distributed`, with a process group.
        scale: chooses the plan.
        seed: of weights and data, the same on all ranks.
        repeats: of each rank, how often it computes each gradient.
        policy: equal batches, or batches by the costs of the latest steps.
        steps: None for the plan's.
        until: a step from which all ranks compute each gradient once.
        turn: a step from which `repeats` is read from its end: another rank is slow.
        average: the gradient of all samples; see exercise 4.7.
        balance: batches by costs; see exercise 4.8.
        device: where the model lives.
        watch: called after each step with `step` and named numbers.

    Raises:
        LabError: repeats that do not fit the ranks, an unknown policy, batches
            that are no division of the whole, or a gradient that is no finite number
            (all ranks see the same one, so all end).
    """
    W, rank = dist.get_world_size(), dist.get_rank()
    if len(repeats) != W or min(repeats) < 1:
        raise LabError(
            f"repeats={list(repeats)} for {W} ranks: use one whole number of at least "
            "1 for each."
        )
    if policy not in ("equal", "balanced"):
        raise LabError(f"policy={policy!r}: use 'equal' or 'balanced'.")
    plan = RANK_PLANS[scale]
    steps = steps or plan.steps
    torch.manual_seed(seed)
    model = GPT(plan.config).to(device)
    recipe = Recipe(steps, plan.lr)
    optimizer = make_optimizer(model, recipe)
    data = partial(
        Corpus.load().batch,
        "train",
        batch_size=plan.batch_size,
        length=plan.length,
        seed=seed,
    )
    course, fits = Course(), [CostFit() for _ in range(W)]
    batches = equal_batches(W, plan.batch_size)
    gradient(
        model, *(x[:1].to(device) for x in data(0)), times=2
    )  # to warm up
    meet(dist, device)
    now = time.perf_counter()
    zero = everyones(now, dist, device)[0]  # rank 0's
    if abs(zero - now) > 1:  # ranks of another machine have another clock
        zero = now
    for step in range(steps):
        first = sum(batches[:rank])
        mine = slice(first, first + batches[rank])
        tokens_BT, targets_BT = (x[mine].to(device) for x in data(step))
        turned = turn is not None and step >= turn
        times = repeats[W - 1 - rank if turned else rank]
        if until is not None and step >= until:
            times = 1

        course.begin.append(time.perf_counter() - zero)
        loss_and_gradient = gradient(model, tokens_BT, targets_BT, times)
        course.ready.append(time.perf_counter() - zero)
        meet(dist, device)
        course.met.append(time.perf_counter() - zero)
        mean = average(loss_and_gradient, batches[rank], dist)
        update(model, optimizer, mean[1:], recipe, step)
        course.done.append(time.perf_counter() - zero)

        course.batch.append(batches[rank])
        course.loss.append(mean[0].item())
        seconds = course.ready[-1] - course.begin[-1]
        # Every rank fits everybody's costs: from the same numbers, the same batches.
        all_seconds = everyones(seconds, dist, device)
        if step > 0:  # the first step of a process is slower than any other
            for fit, b, spent in zip(fits, batches, all_seconds, strict=True):
                fit.add(b, spent)
            costs = [fit.cost for fit in fits]
            course.fixed.append(costs[rank].fixed)
            course.per_sample.append(costs[rank].per_sample)
            if policy == "balanced":
                batches = divided(balance, costs, plan.batch_size)
        if watch is not None:
            watch(step, samples=course.batch[-1], ms=1e3 * seconds)
    return course


def gradient(
    model: nn.Module, tokens_BT: Tensor, targets_BT: Tensor, times: int
) -> Tensor:
    """The loss and its gradient in one vector; computed so many times."""
    weights = list(model.parameters())
    for _ in range(times):
        loss = model.loss(tokens_BT, targets_BT)  # type: ignore[operator]
        grads = torch.autograd.grad(loss, weights)
    if (
        loss.is_cuda
    ):  # so that the time is the work's, not that of handing it over
        torch.cuda.synchronize()
    return torch.cat([loss.detach().view(1), parameters_to_vector(grads)])


def update(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    gradient_P: Tensor,
    recipe: Recipe,
    step: int,
) -> None:
    """One step of the optimizer with this gradient.

    Raises:
        LabError: a gradient that is NaN or infinite; the weights are left alone.
    """
    weights = list(model.parameters())
    sizes = [w.numel() for w in weights]
    for w, part in zip(weights, gradient_P.split(sizes), strict=True):
        w.grad = part.view_as(w).clone()
    norm = nn.utils.clip_grad_norm_(weights, recipe.clip)
    if not norm.isfinite():
        raise LabError(
            f"Step {step + 1}: the mean gradient is no finite number. One rank's is "
            "enough for that: look for it there."
        )
    for group in optimizer.param_groups:
        group["lr"] = recipe.learning_rate(step)
    optimizer.step()


def meet(dist: Any, device: torch.device | str) -> None:
    """Wait for all ranks."""
    token = torch.zeros(1, device=device)
    dist.all_reduce(token)
    token.item()


def everyones(
    seconds: float, dist: Any, device: torch.device | str
) -> list[float]:
    """Every rank's number, on every rank."""
    all_W = torch.zeros(
        dist.get_world_size(), dtype=torch.float64, device=device
    )
    all_W[dist.get_rank()] = seconds
    dist.all_reduce(all_W)
    found: list[float] = all_W.tolist()
    return found


def divided(
    balance: Balance, costs: Sequence[StepCost], samples: int
) -> list[int]:
    """Batches by these costs.

    Raises:
        LabError: they are no division of all samples.
    """
    batches = balance(
        [c.fixed for c in costs], [c.per_sample for c in costs], samples
    )
    whole = len(batches) == len(costs) and all(
        isinstance(b, int) and b >= 1 for b in batches
    )
    if not whole or sum(batches) != samples:
        raise LabError(
            f"Batches {batches}: use {len(costs)} whole numbers of at least 1 whose "
            f"sum is {samples}."
        )
    return list(batches)
