"""The residuals that lab 01 compares, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from labs.lab_01.plan import LANES
from labsupport.nn import HyperConnection, ManifoldHyperConnection, Residual
from labsupport.nn.hyper_connections import (
    RoundedResidual,
    identity,
    row_softmax,
)

ARMS = ("residual", "hc", "mhc", "identity", "row_softmax")
NAMES = {
    "residual": "residual",
    "hc": "HC",
    "mhc": "mHC",
    "identity": "identity-mHC",
    "row_softmax": "row softmax",
}
"""As figures and text call them."""


def residual_of(
    arm: str, stream_dtype: torch.dtype | None = None, n: int = LANES
) -> Callable[..., nn.Module]:
    """The part `residual` of a GPT.

    Args:
        arm: one of ARMS. "identity" and "row_softmax" are mHC with another
            projection: lanes that never mix; rows that sum to one and columns
            that need not.
        stream_dtype: what the stream is rounded to after every branch.
        n: lanes.
    """
    if arm == "residual":
        if stream_dtype is None:
            return Residual
        return partial(RoundedResidual, stream_dtype=stream_dtype)
    if arm == "hc":
        return partial(HyperConnection, n=n, stream_dtype=stream_dtype)
    project = {"mhc": None, "identity": identity, "row_softmax": row_softmax}[
        arm
    ]
    return partial(
        ManifoldHyperConnection,
        n=n,
        stream_dtype=stream_dtype,
        project=project,
    )
