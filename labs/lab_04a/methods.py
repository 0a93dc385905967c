"""The arms of lab 04a: who sends what, and the four trials that each arm gets.

Low-rank arms send bfloat16, PowerSGD too. The three arms of AGF send the bytes of four
directions for every matrix; top-k and the threshold are set to come near that, local
SGD and DiLoCo meet every 20 steps, which sends a twentieth of float32 gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from labs.lab_04a.adasum import AdaSumFusion
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
from labsupport.errors import LabError

RATES = (1.5e-3, 3e-3, 6e-3, 1.2e-2)
MEET_EVERY = 20
SHARE = 0.03
"""Of the numbers that top-k sends: 6 bytes each with their places, so with two workers
0.18 n bytes of a gradient of n numbers, as four directions do in the model here."""


@dataclass(frozen=True)
class Arm:
    """One way to train on several workers.

    Attributes:
        title: as figures and text call it.
        make: the hook; None for arms that exchange weights.
        meet: for arms that exchange weights: from the model, what meets.
        trials: four settings to choose from: `lr`, and what `make` or `meet` takes.
    """

    title: str
    make: Callable[..., Fusion] | None = None
    meet: Callable[..., DiLoCo] | None = None
    trials: tuple[dict[str, Any], ...] = field(
        default=tuple({"lr": lr} for lr in RATES)
    )


def _power_sgd(r: int) -> Callable[..., Fusion]:
    return lambda **options: LowRankFusion(r, residual="fused", **options)


def _agf(allocation: Any) -> Callable[..., Fusion]:
    return lambda **options: LowRankFusion(4, allocation=allocation, **options)


def _local(model: nn.Module, **options: Any) -> DiLoCo:
    return LocalSGD(model, MEET_EVERY, **options)


def _diloco(model: nn.Module, **options: Any) -> DiLoCo:
    return DiLoCo(model, MEET_EVERY, **options)


ARMS: dict[str, Arm] = {
    "ddp": Arm("gradients, float32", DenseFusion),
    "bf16": Arm(
        "gradients, bfloat16",
        lambda **options: DenseFusion(torch.bfloat16, **options),
    ),
    "power_sgd_1": Arm("PowerSGD, 1 direction", _power_sgd(1)),
    "power_sgd_2": Arm("PowerSGD, 2 directions", _power_sgd(2)),
    "power_sgd_4": Arm("PowerSGD, 4 directions", _power_sgd(4)),
    "agf_uniform": Arm("AGF, all matrices alike", _agf("uniform")),
    "agf_signal": Arm("AGF, by signal", _agf("signal")),
    "agf_random": Arm("AGF, at random", _agf("random")),
    "top_k": Arm(
        "top-k",
        lambda share=SHARE, **options: TopKFusion(share, **options),
    ),
    "random_k": Arm(
        "random numbers",
        lambda share=3 * SHARE, **options: RandomFusion(share, **options),
    ),
    "threshold": Arm(
        "threshold",
        lambda threshold, **options: ThresholdFusion(threshold, **options),
        trials=tuple(
            {"lr": lr, "threshold": threshold}
            for lr in (3e-3, 6e-3)
            for threshold in (0.01, 0.03)
        ),
    ),
    "local_sgd": Arm("local SGD", meet=_local),
    "diloco": Arm(
        "DiLoCo",
        meet=_diloco,
        trials=tuple(
            {"lr": lr, "momentum": momentum}
            for lr in (3e-3, 6e-3)
            for momentum in (0.5, 0.9)
        ),
    ),
    "adasum": Arm("AdaSum", AdaSumFusion),
}
COMPARED = tuple(name for name in ARMS if name != "adasum")
"""The arms of the comparison; AdaSum has a table of its own."""


def arm_of(name: str) -> Arm:
    """One of ARMS.

    Raises:
        LabError: an unknown name.
    """
    if name not in ARMS:
        raise LabError(f"arm={name!r}: choose one of {', '.join(ARMS)}.")
    return ARMS[name]
