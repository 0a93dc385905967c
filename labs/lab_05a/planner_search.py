"""Every legal layout of a model on a cluster, judged by the planner."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from labs.lab_05a.planner import Layout, Plan, plan
from labs.lab_05a.planner_inputs import MIXED, Cluster, Model, Precision

SAMPLES = (1, 2, 4, 8)
"""Samples of a microbatch that are tried."""


def divisors(n: int) -> list[int]:
    """All of them, ascending."""
    small = [k for k in range(1, int(n**0.5) + 1) if n % k == 0]
    return small + [n // k for k in reversed(small) if k * k != n]


def axes(
    model: Model, gpus: int, per_node: int
) -> Iterator[tuple[int, int, int, int]]:
    """Every legal (data, tensor, pipeline, expert)."""
    experts = model.experts.count if model.experts else 1
    for t in divisors(per_node):
        for p in divisors(gpus):
            if model.heads % t or p > model.layers or gpus % (t * p):
                continue
            d = gpus // (t * p)
            for e in divisors(experts):
                if (d * t) % e == 0:
                    yield d, t, p, e


@cache
def every_layout(model: Model, gpus: int, per_node: int = 8) -> Layout:
    """All legal layouts as arrays, with 1F1B for the pipeline.

    With a pipeline ZeRO-3 is left out: it would gather all weights anew for every
    microbatch.
    """
    rows = [
        (*four, zero, samples, recompute)
        for four in axes(model, gpus, per_node)
        for zero in range(4)
        if not (zero == 3 and four[2] > 1)
        for samples in SAMPLES
        for recompute in (0, 1)
    ]
    *numbers, recompute = np.array(rows).T
    return Layout(*numbers, recompute=recompute > 0)


@dataclass(frozen=True)
class Search:
    """All layouts, judged.

    Attributes:
        layouts, plan: arrays.
        order: indices of the feasible ones, fastest first; where equal, those that
            need less memory.
    """

    layouts: Layout
    plan: Plan
    order: np.ndarray


def search(
    model: Model,
    cluster: Cluster,
    batch: int,
    schedule: str = "1F1B",
    precision: Precision = MIXED,
) -> Search:
    """Judge every legal layout."""
    layouts = every_layout(model, cluster.gpus, cluster.per_node)
    layouts = replace(layouts, schedule=schedule)
    judged = plan(model, cluster, layouts, batch, precision)
    good = np.flatnonzero(judged.why_not == 0)
    order = good[np.lexsort((judged.memory[good], judged.step[good]))]
    return Search(layouts, judged, order)
