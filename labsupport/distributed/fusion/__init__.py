"""Gradient fusion: what data-parallel workers send each other instead of gradients.

    fusion = LowRankFusion(r=4)
    fusion.attach(DistributedDataParallel(model))

hook.py        the communication hook that all methods share: weights for unequal
               batches, residuals by parameter, what happens at NaN, checkpoints
dense.py       everything, in float32 or bfloat16
low_rank.py    two thin factors for each matrix (PowerSGD), with the energy and the
               coherence of each of its directions
budget.py      how many directions each matrix gets: all alike, by energy, at random
sparse.py      the largest numbers, those above a threshold, or random ones
periodic.py    weights instead of gradients, every H steps: local SGD, DiLoCo
message.py     several tensors in one message
"""

from labsupport.distributed.fusion.budget import BudgetController
from labsupport.distributed.fusion.dense import DenseFusion
from labsupport.distributed.fusion.hook import Fusion
from labsupport.distributed.fusion.low_rank import LowRankFusion
from labsupport.distributed.fusion.periodic import DiLoCo, LocalSGD
from labsupport.distributed.fusion.sparse import (
    RandomFusion,
    ThresholdFusion,
    TopKFusion,
)

__all__ = [
    "BudgetController",
    "DenseFusion",
    "DiLoCo",
    "Fusion",
    "LocalSGD",
    "LowRankFusion",
    "RandomFusion",
    "ThresholdFusion",
    "TopKFusion",
]
