"""Writing completions on several ranks.

Shape suffixes: P prompts, W ranks and completions of each prompt, R = P W rows, N
tokens of a completion.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from labs.lab_06.plan import LIVE
from labsupport.generate import Completions, generate, row_seeds
from labsupport.nn import GPT
from labsupport.rl.ranks import gather_groups, own_seeds
from labsupport.settings import Scale

PROMPTS = 8


def write_part(
    dist: Any,
    weights: Mapping[str, Tensor],
    scale: Scale,
    seed: int,
    device: torch.device,
) -> tuple[Completions, Tensor]:
    """One completion of every prompt, at temperature 1.

    Args:
        dist: `torch.distributed` with a process group.
        weights: of the model of this scale.
        seed: of prompts and random numbers.

    Returns:
        what this rank wrote, and tokens_RN of all ranks.
    """
    plan, W = LIVE[scale], dist.get_world_size()
    game = plan.game
    model = GPT(plan.config).to(device)
    model.load_state_dict(dict(weights))
    mine = generate(
        model,
        game.prompts(PROMPTS, seed=seed, split="validation"),
        longest=game.longest,
        eos=game.eos,
        pad=game.pad,
        seeds=own_seeds(row_seeds(seed, 0, PROMPTS * W), W, dist),
    )
    columns = [
        gather_groups(token_P[:, None], dist) for token_P in mine.tokens_RN.T
    ]
    return mine, torch.stack(columns, dim=-1).flatten(0, 1)
