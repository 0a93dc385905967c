"""What a training of lab 03 keeps in memory, counted in bytes."""

from __future__ import annotations

from typing import Any

import torch

from labs.lab_03 import language
from labs.lab_03.moments import BYTES
from labs.lab_03.plan import GPT_PLANS
from labsupport.settings import Scale
from labsupport.tasks.corpus import Corpus
from labsupport.train.kept import kept_for_backward


def memory_row(arm: str, seed: int, scale: Scale) -> dict[str, Any]:
    """Bytes of a training: what the forward keeps, and what stays all the time.

    Weights and gradients are float32 in every arm, as in V3. The optimizer's moments
    are float32 with "fp32", and bfloat16 with all others.
    """
    torch.manual_seed(seed)
    plan = GPT_PLANS[scale]
    model = language.make_gpt(arm, scale)
    batch = Corpus.load().batch(
        "train", 0, batch_size=plan.batch_size, length=plan.length, seed=seed
    )
    everything, linear = kept_for_backward(model, *batch)
    count = model.parameter_count()
    states = BYTES["fp32" if arm == "fp32" else "bf16"] * count
    return {
        "tokens": plan.batch_size * plan.length,
        "kept": everything,
        "kept_linear": linear,
        "weights": 4 * count,
        "gradients": 4 * count,
        "moments": int(states),
        "total": everything + 8 * count + int(states),
    }
