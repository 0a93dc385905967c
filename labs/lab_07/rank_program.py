"""One rollout that four ranks share: each completes every prompt a few times.

Shape suffixes: W ranks, P prompts, G completions of each, g = G / W of them here, R =
P g rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from labs.lab_07.plan import WARM_STARTS
from labsupport.generate import row_seeds
from labsupport.nn import GPT
from labsupport.rl import Rollout, group_advantages, roll_out
from labsupport.rl.ranks import over_ranks, own_completions, own_seeds
from labsupport.settings import Scale

PROMPTS, GROUP = 6, 8


def share_rollout(
    dist: Any,
    weights: Mapping[str, Tensor],
    scale: Scale,
    seed: int,
    device: torch.device,
) -> tuple[Rollout, Tensor]:
    """The part of a rollout that this rank writes, and its advantages.

    Args:
        dist: `torch.distributed` with a process group.
        weights: of a warm start of this scale.
        seed: of prompts and random numbers.

    Returns:
        the rollout of P x g completions, and advantages_Pg from whole groups.
    """
    plan = WARM_STARTS["enough"][scale]
    model = GPT(plan.config).to(device)
    model.load_state_dict(dict(weights))
    own = own_completions(GROUP, dist)
    rollout = roll_out(
        model,
        plan.game,
        plan.game.prompts(PROMPTS, seed=seed),
        group=own.stop - own.start,
        seeds=own_seeds(row_seeds(seed, 0, PROMPTS * GROUP), GROUP, dist),
    )
    advantages_Pg = over_ranks(group_advantages, dist)(rollout.rewards_PG)
    return rollout, advantages_Pg
