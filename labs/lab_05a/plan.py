"""The runs of lab 05a at each scale."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from labsupport.distributed.parallel.layout import Layout, layouts
from labsupport.distributed.parallel.schedules import SCHEDULES
from labsupport.nn import GPTConfig
from labsupport.settings import Scale
from labsupport.train import Plan

RANKS = 4
"""Of the layouts and of the switch."""
MICROBATCHES = 4
"""Of the layouts that have a pipeline."""
MIXTURE = {"experts": 8, "top_k": 2, "shared": 1}
"""Lab 02's mixture in place of each feed-forward layer, for the expert axis."""

SMALLEST = GPTConfig(d_model=16, n_layers=4, n_heads=4, d_ff=32, max_len=16)
LAYOUT_PLANS: dict[Scale, Plan] = {
    "ci": Plan(SMALLEST, steps=2, batch_size=16, length=16, lr=3e-3),
    "cpu": Plan(
        GPTConfig(d_model=192, n_layers=4, n_heads=4, d_ff=512, max_len=64),
        steps=8,
        batch_size=8,
        length=64,
        lr=3e-3,
    ),
    "gpu": Plan(
        GPTConfig(
            d_model=1024, n_layers=8, n_heads=16, d_ff=2816, max_len=512
        ),
        steps=30,
        batch_size=64,
        length=512,
        lr=3e-4,
    ),
}
"""batch_size is B, of all ranks together."""

_fitting = partial(
    layouts,
    RANKS,
    LAYOUT_PLANS["cpu"].config,
    LAYOUT_PLANS["cpu"].batch_size,
    microbatches=MICROBATCHES,
)
ARMS: dict[str, tuple[Layout, bool]] = {
    # Plain copies first: what all others are held against.
    **{
        str(layout): (layout, False)
        for layout in sorted(_fitting(), key=lambda x: -x.replicate)
    },
    "mixture: replicate 4": (Layout(replicate=4), True),
    **{
        f"mixture: {layout}": (layout, True)
        for layout in _fitting(experts=MIXTURE["experts"])
        if layout.expert > 1
    },
}
"""Every layout of the ranks, and whether it trains the mixture of experts."""

SCHEDULE_PLANS: dict[Scale, Plan] = {
    "ci": replace(LAYOUT_PLANS["ci"], steps=1),
    "cpu": Plan(
        GPTConfig(d_model=128, n_layers=8, n_heads=4, d_ff=352, max_len=64),
        steps=6,
        batch_size=16,
        length=64,
        lr=3e-3,
    ),
    "gpu": LAYOUT_PLANS["gpu"],
}
SCHEDULE_ARMS = ("one_process", *SCHEDULES)
PIECES = (4, 8, 16)
"""Microbatches that the schedules are run with."""

LINKS = {"unshaped": None, "200mbit": "200mbit"}
LINK_SIZES: dict[Scale, tuple[int, ...]] = {
    "ci": (2**12, 2**17, 2**22),
    "cpu": tuple(2**power for power in range(10, 24, 2)),
    "gpu": tuple(2**power for power in range(14, 28, 2)),
}
"""Bytes of the all_reduces that the model of a step is fitted to."""

SWITCH_PLANS: dict[Scale, Plan] = {
    "ci": Plan(SMALLEST, steps=8, batch_size=8, length=16, lr=3e-3),
    "cpu": Plan(
        GPTConfig(d_model=192, n_layers=2, n_heads=4, d_ff=512, max_len=128),
        steps=48,
        batch_size=8,
        length=128,
        lr=3e-3,
    ),
    "gpu": Plan(
        GPTConfig(
            d_model=1024, n_layers=8, n_heads=16, d_ff=2816, max_len=2048
        ),
        steps=200,
        batch_size=16,
        length=2048,
        lr=3e-4,
    ),
}
"""length is that of the second half; sequences of the first are a quarter as long."""
COPIES, HYBRID, CUT = (
    Layout(replicate=4),
    Layout(replicate=2, tensor=2),
    Layout(tensor=4),
)
SWITCH_ARMS: dict[str, tuple[Layout, Layout]] = {
    "copies": (COPIES, COPIES),
    "hybrid": (HYBRID, HYBRID),
    "cut": (CUT, CUT),
    "copies_to_hybrid": (COPIES, HYBRID),
    "cut_to_copies": (CUT, COPIES),
}
"""Layouts of the first and of the second half.

By the formulas a rank of the cpu plan sends 5.9 MB a step as a copy, whatever the
sequences; cut into four it sends 2.4 MB while they are short and 9.4 MB when they are
long. So on a slow link a cut model should be the faster one first, and copies later.
"""

SHARE_PLANS: dict[Scale, Plan] = {
    "ci": Plan(SMALLEST, steps=8, batch_size=8, length=16, lr=4e-3),
    "cpu": Plan(
        GPTConfig(d_model=64, n_layers=2, n_heads=4, d_ff=160, max_len=64),
        steps=150,
        batch_size=16,
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
SHARE_RATES = (2e-3, 4e-3, 8e-3)
SHARE_ARMS: dict[str, tuple[bool, Layout]] = {
    "untied": (False, Layout(replicate=2)),
    "tied": (True, Layout(replicate=2)),
    "untied_sharded": (False, Layout(shard=2)),
    "tied_sharded": (True, Layout(shard=2)),
}
"""Whether embedding and output layer are one matrix, and the layout of two ranks."""

BALANCE_ARMS: dict[str, tuple[str, bool]] = {
    "equal": ("equal", False),
    "balanced": ("balanced", False),
    "turn_equal": ("equal", True),
    "turn_balanced": ("balanced", True),
}
"""Policy of lab 04b, and whether the other rank becomes the slow one on the way."""
BATCH_RATES = (2e-3, 4e-3, 8e-3)
"""Those of lab 04b."""

REPORTING = (10, 11, 12)
"""Seeds; pilots had 90."""
FRESH = (20, 21, 22, 23, 24)
"""Seeds of what lab 04b has measured with others before."""
