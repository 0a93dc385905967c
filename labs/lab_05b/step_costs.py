"""What one training step costs: seconds, FLOPs and bytes, against a plain model's.

Two models take turns, step by step, so that whatever else the machine does falls on
both. A time is given as a ratio to the plain model's with the small configuration.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from labs.lab_05b.arms import Arm, arm_of
from labs.lab_05b.plan import GPT_PLANS, PREFIX, TIME_CONFIGS, TIME_REPEATS
from labs.lab_05b.published import LARGE, SMALL
from labs.lab_05b.sizes import block_weights, resized
from labsupport.nn import GPT, GPTConfig
from labsupport.settings import Scale, choose_settings, seed_everything
from labsupport.tasks.corpus import Corpus
from labsupport.train import Plan, Recipe, make_optimizer
from labsupport.train.kept import kept_for_backward

Row = dict[str, Any]

HEADLINE_ARMS = ("plain", "p8", "large")
"""The 1.6B model of the headline in small, the same with eight streams, and the plain
one that eight streams are said to match, larger by the same factor."""


def headline_arm(name: str, scale: Scale) -> Arm:
    """One of HEADLINE_ARMS."""
    config, M = TIME_CONFIGS[scale], PREFIX[scale]
    if name == "large":
        factor = LARGE.parameters() / SMALL.parameters()
        config = resized(config, block_weights, factor * block_weights(config))
    return Arm(config, 8, M, 0) if name == "p8" else Arm(config, 1, 0, 0)


def batch_of(
    config: GPTConfig, scale: Scale, seed: int
) -> tuple[Tensor, Tensor]:
    """One batch of the plan's size, on the device."""
    device = choose_settings(scale, seed).device
    tokens_BT, targets_BT = Corpus.load().batch(
        "train",
        0,
        batch_size=GPT_PLANS[scale].batch_size,
        length=config.max_len,
        seed=seed,
    )
    return tokens_BT.to(device), targets_BT.to(device)


def stepper(
    model: GPT, batch: tuple[Tensor, Tensor], lr: float
) -> Callable[[], None]:
    """Forward, backward and update, on the same batch each time."""
    optimizer = make_optimizer(model, Recipe(1, lr))

    def step() -> None:
        optimizer.zero_grad()
        model.loss(*batch).backward()
        optimizer.step()
        if batch[0].is_cuda:
            torch.cuda.synchronize()

    return step


def seconds(work: Callable[[], Any]) -> float:
    """Of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def in_turns(
    first: Callable[[], Any], second: Callable[[], Any], repeats: int
) -> tuple[float, float]:
    """Median seconds of the second, and the median of its ratio to the first.

    Every second pair runs in the other order; one pair before them does not count.
    """
    first(), second()
    times, ratios = [], []
    for turn in range(repeats):
        if turn % 2:
            theirs, mine = seconds(second), seconds(first)
        else:
            mine, theirs = seconds(first), seconds(second)
        times.append(theirs)
        ratios.append(theirs / mine)
    return statistics.median(times), statistics.median(ratios)


def made(arm: Arm, scale: Scale, seed: int) -> GPT:
    """A new model on its device."""
    seed_everything(seed)
    return arm.make().to(choose_settings(scale, seed).device)


def headline_row(arm: str, seed: int, scale: Scale) -> Row:
    """One training step in the headline's proportions.

    Returns:
        ms, times: how long it takes; over the plain model's.
        flops: of training on one token.
        parameters: all of them.
        states: bytes of weights, gradients and Adam's moments, float32.
        kept: bytes that the forward keeps for the backward, of this batch.
        bytes: both together.
    """
    tested, plain = headline_arm(arm, scale), headline_arm("plain", scale)
    batch = batch_of(tested.config, scale, seed)
    model = made(tested, scale, seed)
    lr = GPT_PLANS[scale].lr
    spent, ratio = in_turns(
        stepper(made(plain, scale, seed), batch, lr),
        stepper(model, batch, lr),
        TIME_REPEATS[scale],
    )
    count = model.parameter_count()
    kept, _ = kept_for_backward(model, *batch)
    return {
        "ms": round(1e3 * spent, 2),
        "times": round(ratio, 4),
        "flops": tested.flops_a_token,
        "parameters": count,
        "states": 16 * count,
        "kept": kept,
        "bytes": 16 * count + kept,
    }


def pace_row(arm: str, seed: int, scale: Scale) -> Row:
    """A step of the trainings that are compared, over the plain model's.

    Returns:
        ms, times: how long it takes; over the plain model's.
    """
    plan: Plan = GPT_PLANS[scale]
    batch = batch_of(plan.config, scale, seed)
    spent, ratio = in_turns(
        stepper(made(arm_of("plain", scale), scale, seed), batch, plan.lr),
        stepper(made(arm_of(arm, scale), scale, seed), batch, plan.lr),
        3 * TIME_REPEATS[scale],
    )
    return {"ms": round(1e3 * spent, 3), "times": round(ratio, 4)}
