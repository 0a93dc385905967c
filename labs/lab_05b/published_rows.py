"""The published table as rows: what the headline's two models come to.

Nothing is trained here. A seed leaves one of the 24 trainings of Stack-V2-Python out of
the fit, so that the spread over seeds shows how much the result hangs on single points.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from labs.lab_05b.arithmetic import (
    STREAMS,
    training_bytes,
    training_flops,
)
from labs.lab_05b.published import LARGE, SMALL, points
from labs.lab_05b.refit import Fit, fit_law
from labsupport.settings import Scale

ARMS = {"small": (SMALL, 1), "small_8": (SMALL, STREAMS), "large": (LARGE, 1)}
"""The 1.6B model plain and with eight streams, and the plain 4.4B model."""


@cache
def fit_without(left_out: int) -> Fit:
    """The law of code, of 23 trainings; all arms of a seed share it."""
    every = list(points("Stack"))
    return fit_law(every[:left_out] + every[left_out + 1 :])


def published_row(arm: str, seed: int, scale: Scale) -> dict[str, Any]:
    """One model of the headline.

    Args:
        seed: the training that is left out of the fit, from 0 to 23.

    Returns:
        effective: the plain model of equal loss, in billions, by the law.
        k: of this fit.
        flops: to train on one token.
        bytes: of weights, gradients and Adam's moments.
    """
    shape, P = ARMS[arm]
    fit = fit_without(seed)
    return {
        "effective": round(fit.effective(shape.parameters(P) / 1e9, P), 4),
        "k": round(fit.k, 5),
        "flops": training_flops(shape, P),
        "bytes": training_bytes(shape, P),
    }
