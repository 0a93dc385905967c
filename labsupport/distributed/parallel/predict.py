"""A step's time for every layout, by a model with few measured numbers.

    t = compute + pauses + communication + update

    compute        m (a s + c b w)    b rows a microbatch, w the rank's share of the
                                      model's multiplications, s of its blocks
    pauses         (p - 1) pause compute / m      the schedule's bubble
    communication  steps x alpha + bytes / beta   of the messages in expected.py, and
                                      of two single numbers: the loss, and the length of
                                      the gradient
    update         u x the rank's share of the numbers

a and c are fitted to times of the whole model on few and on many rows, while all ranks
compute and nobody sends; alpha and beta to all_reduces of several sizes; u is measured.
The slowest rank of a pipeline decides.

Left out: that messages can travel beside a computation, that small matrices are
multiplied at a lower rate, and what Python does for each call of a cut layer.
"""

from __future__ import annotations

import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from labsupport.distributed.balance import StepCost
from labsupport.distributed.link_fit import Link
from labsupport.distributed.parallel.expected import Message, expected_messages
from labsupport.distributed.parallel.layout import Layout
from labsupport.distributed.parallel.memory import (
    block_numbers,
    blocks_of_rank,
    numbers_on_rank,
)
from labsupport.distributed.parallel.schedules import SCHEDULES
from labsupport.errors import LabError
from labsupport.nn import GPTConfig


@dataclass(frozen=True)
class Costs:
    """What was measured on the ranks, in seconds.

    Attributes:
        link: alpha and beta between them.
        rows: a and c: forward and backward of the whole model, and of each row.
        update: u, AdamW over the whole model.
        gloo: whether reduce_scatter sends twice what it needs.
    """

    link: Link
    rows: StepCost
    update: float
    gloo: bool = True


@dataclass(frozen=True)
class Predicted:
    """Seconds of a step, by what they are spent on."""

    compute: float
    pauses: float
    communication: float
    update: float

    @property
    def total(self) -> float:
        return self.compute + self.pauses + self.communication + self.update


def predict(
    layout: Layout, config: GPTConfig, rows: int, length: int, costs: Costs
) -> Predicted:
    """A step's time, of the rank that takes longest.

    Args:
        layout: of the training.
        config: of a dense GPT.
        rows: B, of the whole batch.
        length: T.
        costs: measured with sequences of that length.
    """
    of_ranks = (
        _predict_rank(layout, config, rows, length, costs, place)
        for place in range(layout.pipeline)
    )
    return max(of_ranks, key=lambda each: each.total)


def _predict_rank(
    layout: Layout,
    config: GPTConfig,
    rows: int,
    length: int,
    costs: Costs,
    place: int,
) -> Predicted:
    m = layout.microbatches
    b = rows / layout.data / m
    stages = blocks_of_rank(layout, config, place)
    blocks = sum(len(stage) for stage in stages) / config.n_layers
    work = _work(layout, config, stages)
    piece = costs.rows.fixed * blocks + costs.rows.per_sample * b * work
    pause = 0.0
    if layout.pipeline > 1:
        pause = (layout.pipeline - 1) * SCHEDULES[layout.schedule].pause
    messages = expected_messages(layout, config, rows, length, pipeline=place)
    if layout.world > 1:
        messages.append(Message("all_reduce", 4, layout.world, calls=2))
    sent = sum(each.sent_by_gloo if costs.gloo else each.sent for each in messages)
    numbers = numbers_on_rank(layout, config, place) / numbers_on_rank(Layout(), config)
    return Predicted(
        compute=m * piece,
        pauses=pause * piece,
        communication=sum(each.steps for each in messages) * costs.link.latency
        + sent / costs.link.bandwidth,
        update=costs.update * numbers,
    )


def _work(layout: Layout, config: GPTConfig, stages: Sequence[range]) -> float:
    """The share of the whole model's multiplications; looking up tokens is none."""

    def numbers(tensor: int, every: Sequence[range]) -> int:
        found = 0
        for blocks in every:
            found += len(blocks) * block_numbers(config, tensor)
            if blocks.stop == config.n_layers:
                found += config.vocab_size * config.d_model
        return found

    return numbers(layout.tensor, stages) / numbers(1, [range(config.n_layers)])


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's: 1 if two lists have the same order, -1 if the opposite one.

    Equal numbers share the mean of their places.

    Raises:
        LabError: lists of different lengths, or of fewer than two, or all equal.
    """
    if len(a) != len(b) or len(a) < 2:
        raise LabError(f"{len(a)} and {len(b)} numbers: give two lists of 2 or more.")
    if len(set(a)) == 1 or len(set(b)) == 1:
        raise LabError("All numbers of a list are equal: they have no order.")
    return statistics.correlation(_places(a), _places(b))


def _places(values: Sequence[float]) -> list[float]:
    """Half the numbers that are smaller or equal, half those that are smaller."""
    order = sorted(values)
    return [(bisect_left(order, v) + bisect_right(order, v)) / 2 for v in values]
