"""The trainings of lab 04a at each scale, and all that was decided before them."""

from __future__ import annotations

from labsupport.nn import GPTConfig
from labsupport.settings import Scale
from labsupport.train import Plan

WORKERS: dict[Scale, int] = {"ci": 2, "cpu": 2, "gpu": 8}
"""W of the trainings, and of the times: on two cores more ranks would take turns."""

GPT_PLANS: dict[Scale, Plan] = {
    "ci": Plan(
        GPTConfig(d_model=16, n_layers=1, n_heads=2, d_ff=32, max_len=16),
        steps=8,
        batch_size=4,
        length=16,
        lr=3e-3,
    ),
    "cpu": Plan(
        GPTConfig(d_model=64, n_layers=3, n_heads=4, d_ff=192, max_len=64),
        steps=200,
        batch_size=16,
        length=64,
        lr=3e-3,
    ),
    "gpu": Plan(
        GPTConfig(d_model=512, n_layers=6, n_heads=8, d_ff=1536, max_len=256),
        steps=2000,
        batch_size=128,
        length=256,
        lr=1e-3,
    ),
}
LIVE_STEPS: dict[Scale, int] = {"ci": 8, "cpu": 120, "gpu": 1000}
"""How long the trainings in the notebook last."""
EVALUATE_EVERY: dict[Scale, int] = {"ci": 4, "cpu": 25, "gpu": 100}
"""Steps between two looks at the validation text."""
MIXTURE = {"experts": 8, "top_k": 2, "shared": 1, "d_expert": 64}
"""The second architecture: lab 02's mixture in place of each feed-forward layer."""

TIME_PLANS: dict[Scale, Plan] = {
    "ci": GPT_PLANS["ci"],
    "cpu": Plan(
        GPTConfig(d_model=192, n_layers=4, n_heads=4, d_ff=576, max_len=64),
        steps=12,
        batch_size=8,
        length=64,
        lr=3e-3,
    ),
    "gpu": GPT_PLANS["gpu"],
}
"""Larger, so that a step computes and sends as much as links can be told apart by."""
LINKS = {
    "unshaped": None,
    "1gbit": "1gbit",
    "200mbit": "200mbit",
    "50mbit": "50mbit",
}
LINK_SIZES = tuple(2**power for power in range(10, 24, 2))
"""Bytes of the all_reduces that the cost model is fitted to: 1 kB to 4 MB."""
ONE_SLOW = "1gbit --link-rank 1=50mbit"
"""Of two workers, one has the slower link."""
HELD_OUT = "100mbit"
"""The link of the confirmation; nothing was chosen by it."""

TUNING, REPORTING = (0, 1, 2), (10, 11, 12, 13, 14)
"""Seeds. The pilots had 90. Four trials of each arm are run on three."""
FRESH = (20, 21, 22, 23, 24)
"""Of the comparison. 48 of its 65 trainings had been run with seeds 10 to 13 when it
showed that nobody had said what counts if a training does not reach the target. That
was mended, and all are run on seeds that nobody had seen."""
