"""The training run of lab 00 at each scale."""

from __future__ import annotations

from labsupport.nn import GPTConfig
from labsupport.settings import Scale
from labsupport.train import Plan

PLANS: dict[Scale, Plan] = {
    "ci": Plan(
        GPTConfig(d_model=64, n_layers=2, n_heads=2, max_len=64),
        steps=100,
        batch_size=8,
        length=64,
        lr=6e-3,
    ),
    "cpu": Plan(
        GPTConfig(d_model=128, n_layers=2, n_heads=4, max_len=128),
        steps=1000,
        batch_size=8,
        length=128,
        lr=4e-3,
    ),
    "gpu": Plan(
        GPTConfig(d_model=512, n_layers=8, n_heads=8, max_len=512),
        steps=1000,
        batch_size=64,
        length=512,
        lr=1e-3,
    ),
}
