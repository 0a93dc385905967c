"""The trainings of lab 05b at each scale, and all that was decided before them."""

from __future__ import annotations

from labsupport.nn import GPTConfig
from labsupport.settings import Scale
from labsupport.train import Plan

GPT_PLANS: dict[Scale, Plan] = {
    "ci": Plan(
        GPTConfig(d_model=16, n_layers=1, n_heads=2, d_ff=32, max_len=16),
        steps=12,
        batch_size=4,
        length=16,
        lr=8e-3,
    ),
    "cpu": Plan(
        GPTConfig(d_model=32, n_layers=2, n_heads=4, d_ff=96, max_len=64),
        steps=600,
        batch_size=8,
        length=64,
        lr=8e-3,
    ),
    "gpu": Plan(
        GPTConfig(d_model=384, n_layers=8, n_heads=6, d_ff=1024, max_len=256),
        steps=5000,
        batch_size=64,
        length=256,
        lr=2e-3,
    ),
}
"""Of the plain model with one stream; every other arm is derived from it."""
PREFIX: dict[Scale, int] = {"ci": 4, "cpu": 8, "gpu": 16}
"""M, positions of a prefix (the paper: 48 for texts of 2048)."""
STREAMS = (1, 2, 4, 8)
RATES: dict[Scale, tuple[float, ...]] = {
    "ci": (4e-3, 8e-3, 1.6e-2, 2e-3, 3.2e-2),
    "cpu": (4e-3, 8e-3, 1.6e-2, 2e-3, 3.2e-2),
    "gpu": (1e-3, 2e-3, 4e-3, 5e-4, 8e-3),
}
"""Learning rates that every arm may choose from. The last two came later: with three,
most arms chose the highest and one the lowest."""
LIVE_STEPS: dict[Scale, int] = {"ci": 12, "cpu": 300, "gpu": 2000}
"""How long the training in the notebook lasts."""
RANK_STEPS: dict[Scale, int] = {"ci": 4, "cpu": 20, "gpu": 20}
"""Of the training over ranks: long enough to be compared with one process."""

TIME_CONFIGS: dict[Scale, GPTConfig] = {
    "ci": GPTConfig(d_model=16, n_layers=1, n_heads=2, d_ff=32, max_len=16),
    "cpu": GPTConfig(d_model=128, n_layers=4, n_heads=4, d_ff=352, max_len=64),
    "gpu": GPTConfig(d_model=1024, n_layers=12, n_heads=16, d_ff=2816),
}
"""Larger, so that a training step is arithmetic and not the calling of functions."""
TIME_REPEATS: dict[Scale, int] = {"ci": 3, "cpu": 12, "gpu": 30}

WRITE_CONFIGS: dict[Scale, GPTConfig] = {
    "ci": GPTConfig(d_model=32, n_layers=2, n_heads=2, d_ff=64, max_len=32),
    "cpu": GPTConfig(
        d_model=512, n_layers=8, n_heads=8, d_ff=1376, max_len=64
    ),
    "gpu": GPTConfig(d_model=2048, n_layers=16, n_heads=16, d_ff=5504),
}
"""Of the models that write. At cpu 25 million weights, 101 MB: more than caches of the
processor hold, so that one token costs a reading of all weights, as on a GPU."""
TEXTS = (1, 8, 64)
"""How many texts are written at a time."""
WRITE_REPEATS: dict[Scale, int] = {"ci": 3, "cpu": 8, "gpu": 30}

TUNING, REPORTING = (0, 1, 2), (10, 11, 12, 13, 14)
"""Seeds. The pilots had 90 to 95."""
