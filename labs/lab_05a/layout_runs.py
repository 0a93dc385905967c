"""Layouts, schedules and sums of gradients on ranks: times, bytes, collectives.

A function whose name ends in `_rank` runs on every rank; the row is the same on all.
Shape suffixes: B sequences, T tokens.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from labs.lab_05a.plan import (
    ARMS,
    LAYOUT_PLANS,
    LINK_SIZES,
    LINKS,
    MIXTURE,
    RANKS,
    SCHEDULE_PLANS,
)
from labsupport.distributed.balance import StepCost, line
from labsupport.distributed.call import call_on_ranks
from labsupport.distributed.link_fit import fit_link
from labsupport.distributed.parallel.engine import ParallelGPT, apply
from labsupport.distributed.parallel.expected import expected_messages
from labsupport.distributed.parallel.layout import Layout, layouts
from labsupport.distributed.parallel.memory import expected_bytes, held_bytes
from labsupport.distributed.parallel.mesh import build_mesh
from labsupport.distributed.parallel.optimizer import make_adamw, train_step
from labsupport.distributed.parallel.predict import (
    Costs,
    predict,
    rank_correlation,
)
from labsupport.distributed.parallel.schedules import pause_share
from labsupport.distributed.parallel.synchronise import Copies
from labsupport.distributed.traffic import count_traffic
from labsupport.nn import GPT, MixtureOfExperts
from labsupport.settings import Scale, seed_everything
from labsupport.tasks.corpus import Corpus
from labsupport.train import Plan, Recipe

Row = dict[str, Any]
WARM = 2
"""Steps that are not timed: in the first of all, buffers and connections are made."""
COLLECTIVES = {
    "all_reduce": "all_reduce",
    "all_gather": "all_gather_single",
    "reduce_scatter": "reduce_scatter_single",
    "all_to_all": "all_to_all_single",
    "send": "send",
}


def make_gpt(
    plan: Plan, seed: int, device: torch.device | str, experts: bool = False
) -> GPT:
    """The whole model of a plan, the same on all ranks."""
    seed_everything(seed)
    ffn = partial(MixtureOfExperts, **MIXTURE)
    model = GPT(plan.config, ffn=ffn) if experts else GPT(plan.config)
    return model.to(device)


def batches(plan: Plan, seed: int) -> Callable[[int], tuple[Tensor, Tensor]]:
    """The whole batch of each step."""
    return partial(
        Corpus.load().batch,
        "train",
        batch_size=plan.batch_size,
        length=plan.length,
        seed=seed,
    )


def step_ms(
    step: Callable[[int], Any],
    steps: int,
    dist: Any,
    of: Callable[[list[float]], float] = statistics.median,
) -> tuple[float, Any]:
    """Milliseconds of a step, and what the last one gave.

    Args:
        step: called with 0, 1, ..., on all ranks at once.
        steps: how many count, after some that do not.
        of: what is taken of their times; then the mean over ranks.
    """
    spent: list[float] = []
    found = None
    for number in range(WARM + steps):
        dist.barrier()
        began = time.perf_counter()
        found = step(number)
        spent.append(1e3 * (time.perf_counter() - began))
    mine = of(spent[WARM:])
    return statistics.fmean(everyones(mine, dist)), found


def everyones(value: Any, dist: Any) -> list[Any]:
    """Every rank's value, on every rank."""
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


# --- layouts --------------------------------------------------


def timed_layout(
    layout: Layout,
    plan: Plan,
    seed: int,
    dist: Any,
    device: torch.device | str,
    experts: bool = False,
) -> tuple[float, float, ParallelGPT, torch.optim.AdamW]:
    """Milliseconds of a step, the last loss, and the model after these steps."""
    recipe = Recipe(WARM + plan.steps, plan.lr)
    whole = make_gpt(plan, seed, device, experts=experts)
    mesh = build_mesh(layout, torch.device(device).type)
    model = apply(whole, layout, mesh)
    optimizer = make_adamw(model, recipe)
    batch = batches(plan, seed)

    def step(number: int) -> float:
        return train_step(model, optimizer, recipe, number, batch(number))

    ms, loss = step_ms(step, plan.steps, dist)
    return ms, loss, model, optimizer


def layout_rank(
    arm: str,
    seed: int,
    scale: Scale,
    dist: Any,
    device: torch.device | str = "cpu",
) -> Row:
    """A layout's step: time, collectives, bytes.

    Returns:
        ms: of a step, the update included. loss: of the last step.
        all_reduce ... send: calls in a forward and backward, on rank 0.
        sent, sent_formula, sent_gloo: bytes of a forward and backward, mean over
            ranks: by the textbook's algorithms as counted, by this course's formula,
            and by the formula with gloo's reduce_scatter.
        sockets: bytes that really left, mean over ranks.
        weights, gradients, optimizer: bytes on the rank that holds most.
        held_formula: the same, all together, by formula. Formulas are None for the
            mixture, as its messages depend on where its tokens go.
    """
    (layout, experts), plan = ARMS[arm], LAYOUT_PLANS[scale]
    ms, loss, model, optimizer = timed_layout(
        layout, plan, seed, dist, device, experts
    )
    model.zero_grad()
    dist.barrier()
    with count_traffic() as traffic:
        model.backward(*batches(plan, seed)(0))
        dist.barrier()  # so that what is under way has arrived
    held = held_bytes(model, optimizer)
    place = model.mesh.get_local_rank("pipeline")
    mine = {
        "sent": traffic.ideal_sent,
        "sockets": traffic.sent,
        "weights": held.weights,
        "gradients": held.gradients,
        "optimizer": held.optimizer,
    }
    if not experts:
        messages = expected_messages(
            layout, plan.config, plan.batch_size, plan.length, pipeline=place
        )
        mine |= {
            "sent_formula": sum(each.sent for each in messages),
            "sent_gloo": sum(each.sent_by_gloo for each in messages),
            "held_formula": expected_bytes(layout, plan.config, place).total,
        }
    ranks = everyones(mine, dist)
    row: Row = {"ms": round(ms, 2), "loss": round(loss, 5)}
    for name, collective in COLLECTIVES.items():
        row[name] = traffic[collective].calls
    for name in ("sent", "sockets", "sent_formula", "sent_gloo"):
        row[name] = over_ranks(statistics.fmean, ranks, name)
    for name in ("weights", "gradients", "optimizer", "held_formula"):
        row[name] = over_ranks(max, ranks, name)
    return row


def over_ranks(
    how: Callable[[list[float]], float], ranks: list[Row], name: str
) -> int | None:
    """Mean or most of a number; None where a rank has none."""
    values = [rank.get(name) for rank in ranks]
    return None if None in values else round(how(values))  # type: ignore[arg-type]


def layout_row(arm: str, seed: int, scale: Scale) -> Row:
    """One layout on four ranks."""
    row: Row = call_on_ranks(
        f"{__name__}:layout_rank", RANKS, arm=arm, seed=seed, scale=scale
    )
    return row


# --- predicted and measured --------------------------------------------------


def measured_costs(
    plan: Plan, seed: int, scale: Scale, dist: Any, device: torch.device | str
) -> Costs:
    """What the model of a step is fitted to, while all ranks are at work."""
    W = dist.get_world_size()
    seconds = []
    for size in LINK_SIZES[scale]:
        x = torch.zeros(size // 4, device=device)
        # The fastest: of the link, and not of whoever else uses the cores.
        ms, _ = step_ms(lambda _, x=x: dist.all_reduce(x), 7, dist, of=min)  # type: ignore[misc]
        seconds.append(ms / 1e3)
    model = make_gpt(plan, seed, device)
    tokens_BT, targets_BT = (x.to(device) for x in batches(plan, seed)(0))
    points = []
    for b in (1, plan.batch_size // W):

        def both(_: int, b: int = b) -> None:
            model.loss(tokens_BT[:b], targets_BT[:b]).backward()

        points.append((float(b), step_ms(both, plan.steps, dist)[0] / 1e3))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    update, _ = step_ms(lambda _: optimizer.step(), plan.steps, dist)
    return Costs(
        fit_link(LINK_SIZES[scale], seconds, W),
        row_cost(points),
        update / 1e3,
        gloo=dist.get_backend() == "gloo",
    )


def row_cost(points: list[tuple[float, float]]) -> StepCost:
    """What a step takes for itself and for each row, through (rows, seconds).

    Where noise leaves a row no time, or the step less than none, all is the rows'.
    """
    fixed, per_row = line(points)
    if fixed < 0 or per_row <= 0:
        rows, seconds = points[-1]
        return StepCost(0.0, seconds / rows)
    return StepCost(fixed, per_row)


def predict_rank(
    seed: int, scale: Scale, dist: Any, device: torch.device | str = "cpu"
) -> Row:
    """Every dense layout of these ranks, predicted first and then measured.

    Returns:
        layouts: in words. predicted_ms, measured_ms: of each.
        alpha_us, beta, fixed_ms, row_ms, update_ms: what was fitted: microseconds,
            bytes a second, milliseconds.
        order: Spearman's correlation of the two orders.
        regret: how much longer the best of the three that were predicted to be
            fastest takes than the fastest of all; 0 if it is among them.
    """
    plan, W = LAYOUT_PLANS[scale], dist.get_world_size()
    costs = everyones(measured_costs(plan, seed, scale, dist, device), dist)[0]
    every = layouts(
        W, plan.config, plan.batch_size, microbatches=2 if W == 2 else 4
    )
    predicted = [
        1e3
        * predict(x, plan.config, plan.batch_size, plan.length, costs).total
        for x in every
    ]
    measured = [timed_layout(x, plan, seed, dist, device)[0] for x in every]
    first = sorted(range(len(every)), key=predicted.__getitem__)[:3]
    best = min(measured[i] for i in first)
    return {
        "layouts": [str(layout) for layout in every],
        "predicted_ms": [round(ms, 2) for ms in predicted],
        "measured_ms": [round(ms, 2) for ms in measured],
        "alpha_us": round(1e6 * costs.link.latency, 2),
        "beta": round(costs.link.bandwidth),
        "fixed_ms": round(1e3 * costs.rows.fixed, 3),
        "row_ms": round(1e3 * costs.rows.per_sample, 3),
        "update_ms": round(1e3 * costs.update, 3),
        "order": round(rank_correlation(predicted, measured), 3),
        "regret": round(best / min(measured) - 1, 3),
    }


def predict_row(arm: str, seed: int, scale: Scale) -> Row:
    """All layouts of two or of four ranks, on the same ranks one after the other."""
    row: Row = call_on_ranks(
        f"{__name__}:predict_rank",
        {"two_ranks": 2, "four_ranks": 4}[arm],
        seed=seed,
        scale=scale,
    )
    return row


# --- sums of gradients --------------------------------------------------


def sync_rank(
    way: str,
    seed: int,
    scale: Scale,
    dist: Any,
    device: torch.device | str = "cpu",
) -> Row:
    """A step's backward and sum of gradients, the update left out.

    Returns:
        ms: of a step. messages, sent: collectives of a step, and bytes of rank 0.
    """
    plan, W = LAYOUT_PLANS[scale], dist.get_world_size()
    cap = 1.0 if scale != "ci" else 0.01
    copies = Copies(make_gpt(plan, seed, device), way, bucket_cap_mb=cap)
    batch = batches(plan, seed)

    def step(number: int) -> None:
        mine = (x.chunk(W)[dist.get_rank()] for x in batch(number))
        copies.backward(*(x.to(device) for x in mine))
        for p in copies.weights:
            p.grad = None

    ms, _ = step_ms(step, plan.steps, dist)
    with count_traffic() as traffic:
        step(0)
    return {
        "ms": round(ms, 2),
        "messages": traffic.total.calls,
        "sent": traffic.ideal_sent,
    }


def sync_row(arm: str, seed: int, scale: Scale) -> Row:
    """One way to sum gradients over two copies, over each link."""
    row: Row = {}
    for name, link in LINKS.items():
        found = call_on_ranks(
            f"{__name__}:sync_rank",
            2,
            link=link,
            way=arm,
            seed=seed,
            scale=scale,
        )
        row |= {f"ms_{name}": found.pop("ms"), **found}
    return row


# --- schedules --------------------------------------------------


def schedule_rank(
    arm: str,
    seed: int,
    scale: Scale,
    microbatches: int,
    dist: Any,
    device: torch.device | str = "cpu",
) -> Row:
    """A pipeline's step by schedule and microbatches.

    Returns:
        ms: of a step. loss: of the last step. sends: messages of rank 0.
        pause: the share of a step in which a rank waits, by the schedule's formula.
    """
    plan, W = SCHEDULE_PLANS[scale], dist.get_world_size()
    layout = Layout()
    if arm != "one_process":
        layout = Layout(pipeline=W, schedule=arm, microbatches=microbatches)
    ms, loss, model, _ = timed_layout(layout, plan, seed, dist, device)
    model.zero_grad()
    with count_traffic() as traffic:
        model.backward(*batches(plan, seed)(0))
    pause = pause_share(arm, W, microbatches) if W > 1 else 0.0
    return {
        "ms": round(ms, 2),
        "loss": round(loss, 5),
        "sends": traffic["send"].calls,
        "pause": round(pause, 4),
    }


def schedule_row(
    arm: str, seed: int, scale: Scale, *, microbatches: int
) -> Row:
    """One schedule on two ranks; "one_process" is the same training on one."""
    row: Row = call_on_ranks(
        f"{__name__}:schedule_rank",
        1 if arm == "one_process" else 2,
        arm=arm,
        seed=seed,
        scale=scale,
        microbatches=microbatches,
    )
    return row
