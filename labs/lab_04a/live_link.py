"""The model of a link against a measurement on the reader's own machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from labs.lab_04a.experiments import encode_row
from labs.lab_04a.link_model import Machine, step_time
from labs.lab_04a.plan import LINK_SIZES
from labs.lab_04a.record_tables import cost_of
from labs.lab_04a.training import all_reduce_rank, compute_rank, time_rank
from labsupport.distributed.link_fit import fit_link
from labsupport.settings import Scale

Row = dict[str, Any]
ARMS = ("ddp", "bf16", "agf_uniform", "top_k")


def measure(
    seed: int, scale: Scale, dist: Any, device: torch.device | str
) -> Row:
    """On each rank: all_reduces by size, a step's parts, and whole steps."""
    # The largest has to take much longer than a busy machine's hiccups.
    sizes = LINK_SIZES[:6] if scale == "ci" else LINK_SIZES
    return {
        "link": all_reduce_rank(seed, sizes, dist, device),
        "compute": compute_rank(seed, scale, dist, device=device),
        "steps": {
            arm: time_rank(arm, seed, scale, dist, device=device)
            for arm in ARMS
        },
    }


def predicted_rows(
    measured: Mapping[str, Any], link_name: str, seed: int, scale: Scale
) -> list[Row]:
    """Whole steps as the model predicts them from their parts; for `check_view`.

    Nothing is fitted to a whole step. Gradients travel after the backward, more or
    less: models as small as these have one or two buckets.
    """
    link = fit_link(
        measured["link"]["bytes"],
        [ms / 1e3 for ms in measured["link"]["ms"]],
        2,
    )
    encode = {arm: encode_row(arm, seed, scale)["ms"] / 1e3 for arm in ARMS}
    parts = {k: ms / 1e3 for k, ms in measured["compute"].items()}
    machine = Machine(
        sum(parts.values()) + encode["ddp"],
        parts["ms_backward"],
        0.0,
        link.bandwidth,
        link.latency,
        2,
    )
    rows = []
    for arm, row in measured["steps"].items():
        cost = cost_of(arm, row, encode[arm] - encode["ddp"])
        rows.append(
            {
                "method": cost.name,
                "link": link_name,
                "predicted_ms": 1e3 * step_time(cost, machine),
                "measured_ms": row["ms"],
            }
        )
    return rows
