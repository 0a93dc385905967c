"""The trainings of lab 03 at each scale."""

from __future__ import annotations

from labsupport.nn import GPTConfig
from labsupport.settings import Scale
from labsupport.train import Plan

SIDE: dict[Scale, int] = {"ci": 8, "cpu": 32, "gpu": 128}
"""T, the side of a tile. V3 has 128; in a model 128 wide that would be one tile, so
where models are small, tiles are too."""

# At cpu, 2e-3 was the best of 1e-3, 2e-3 and 5e-3 for float32 (pilots, seed 0). At 5e-3
# float32 and bfloat16 ended 1.4 % apart by chance, too much to see FP8's share.
GPT_PLANS: dict[Scale, Plan] = {
    "ci": Plan(
        GPTConfig(d_model=16, n_layers=1, n_heads=2, d_ff=32, max_len=16),
        steps=10,
        batch_size=4,
        length=16,
        lr=5e-3,
    ),
    "cpu": Plan(
        GPTConfig(d_model=128, n_layers=2, n_heads=4, d_ff=256, max_len=64),
        steps=400,
        batch_size=8,
        length=64,
        lr=2e-3,
    ),
    "gpu": Plan(
        GPTConfig(d_model=512, n_layers=6, n_heads=8, d_ff=1536, max_len=256),
        steps=2000,
        batch_size=64,
        length=256,
        lr=2e-3,
    ),
}
LIVE_STEPS: dict[Scale, int] = {"ci": 10, "cpu": 150, "gpu": 1000}
"""How long the trainings in the notebook last."""
OUTLIER = 1e5
"""How much larger the outlier channels are in the record."""
OUTLIER_CHANNELS = 2
"""How many there are in the input of each layer, all in the first tile."""
