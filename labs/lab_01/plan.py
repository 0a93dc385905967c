"""The trainings of lab 01 at each scale."""

from __future__ import annotations

from labsupport.nn import GPTConfig
from labsupport.settings import Scale
from labsupport.train import Plan

LANES = 4
"""n, as in the paper."""

# Deep and narrow: depth is what makes gains multiply. There are 2 n_layers branches.
PLANS: dict[Scale, Plan] = {
    "ci": Plan(
        GPTConfig(d_model=16, n_layers=3, n_heads=2, max_len=16),
        steps=12,
        batch_size=4,
        length=16,
        lr=1e-2,
    ),
    "cpu": Plan(
        GPTConfig(d_model=32, n_layers=12, n_heads=2, max_len=32),
        steps=150,
        batch_size=8,
        length=32,
        lr=1e-2,
    ),
    "gpu": Plan(
        GPTConfig(d_model=128, n_layers=24, n_heads=4, max_len=128),
        steps=500,
        batch_size=32,
        length=128,
        lr=1e-2,
    ),
}
