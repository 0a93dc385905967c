"""The trainings of lab 04b at each scale."""

from __future__ import annotations

from labsupport.nn import GPTConfig
from labsupport.settings import Scale
from labsupport.train import Plan

# `steps` counts gradients: SAM, which needs two for a step, makes half as many steps.
GPT_PLANS: dict[Scale, Plan] = {
    "ci": Plan(
        GPTConfig(d_model=16, n_layers=1, n_heads=2, d_ff=32, max_len=16),
        steps=16,
        batch_size=4,
        length=16,
        lr=4e-3,
    ),
    "cpu": Plan(
        GPTConfig(d_model=64, n_layers=2, n_heads=4, d_ff=160, max_len=64),
        steps=240,
        batch_size=8,
        length=64,
        lr=4e-3,
    ),
    "gpu": Plan(
        GPTConfig(d_model=512, n_layers=6, n_heads=8, d_ff=1536, max_len=256),
        steps=2000,
        batch_size=64,
        length=256,
        lr=2e-3,
    ),
}
SHORT_TEXT: dict[Scale, int] = {"ci": 500, "cpu": 16_000, "gpu": 4_000_000}
"""Bytes of the changed task's training text, which is read about eight times."""
CHECKS = 8
"""Validations along a training, at equal numbers of gradients."""

RANK_PLANS: dict[Scale, Plan] = {
    "ci": Plan(
        GPTConfig(d_model=16, n_layers=1, n_heads=2, d_ff=32, max_len=16),
        steps=12,
        batch_size=24,
        length=16,
        lr=4e-3,
    ),
    "cpu": Plan(
        GPTConfig(d_model=64, n_layers=2, n_heads=4, d_ff=160, max_len=64),
        steps=60,
        batch_size=48,
        length=64,
        lr=4e-3,
    ),
    "gpu": Plan(
        GPTConfig(d_model=512, n_layers=6, n_heads=8, d_ff=1536, max_len=256),
        steps=200,
        batch_size=96,
        length=256,
        lr=2e-3,
    ),
}
"""Of the trainings over unequal ranks; batch_size is B, of all ranks together."""
SLOW = 3
"""How often the slow worker computes each of its gradients."""
