"""How much better a completion was than could be expected: its advantage.

The policy gradient of a reward R is E[(R - b) grad log pi] for any baseline b that does
not look at the completion itself; a good b makes it less noisy (Williams, 1992). What
these functions differ in is b, and whether the difference is divided by the spread.

All take rewards_PG and return advantages_PG, float32 at least, without gradient.

Shape suffixes: P prompts, G completions of each.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from labsupport.errors import LabError

SMALL = 1e-4
"""Added to a standard deviation, as TRL does."""


def no_baseline(rewards_PG: Tensor) -> Tensor:
    """A = R: plain REINFORCE (Williams, 1992). With R >= 0 nothing is punished."""
    return at_least_float32(rewards_PG)


def batch_baseline(rewards_PG: Tensor) -> Tensor:
    """A = R - the mean of all rewards. Easy prompts look good, hard ones bad."""
    rewards = at_least_float32(rewards_PG)
    return rewards - rewards.mean()


def leave_one_out(rewards_PG: Tensor) -> Tensor:
    """A_i = R_i - the mean of the others of its group (RLOO: Ahmadian et al., 2024,
    arXiv 2402.14740, section 3.2), which is R_i - mean, times G / (G - 1).

    Raises:
        LabError: groups of one.
    """
    rewards = require_groups("leave_one_out", rewards_PG)
    G = rewards.shape[1]
    return (rewards - rewards.mean(dim=1, keepdim=True)) * G / (G - 1)


def group_advantages(
    rewards_PG: Tensor, std: Literal["unbiased", "biased", "none"] = "unbiased"
) -> Tensor:
    """A_i = (R_i - mean of its group) / std of its group.

    Source: DeepSeekMath (Shao et al., 2024, arXiv 2402.03300, section 4.1.2). Without
    std: Dr. GRPO (Liu et al., 2025, arXiv 2503.20783, section 3.2).

    A group in which all rewards are equal has advantages of exactly 0: it teaches
    nothing.

    Args:
        rewards_PG: of any number dtype.
        std: divided by G - 1 inside the root, by G, or no division at all.

    Raises:
        LabError: groups of one, or an unknown std.
    """
    if std not in ("unbiased", "biased", "none"):
        raise LabError(f"std={std!r}: use 'unbiased', 'biased' or 'none'.")
    rewards = require_groups("group_advantages", rewards_PG)
    above = rewards - rewards.mean(dim=1, keepdim=True)
    # A mean of equal numbers may be rounded; divided by SMALL, that would be seen.
    above = above.masked_fill(equal_groups(rewards)[:, None], 0.0)
    if std == "none":
        return above
    spread = rewards.std(dim=1, keepdim=True, correction=int(std == "unbiased"))
    return above / (spread + SMALL)


def equal_groups(rewards_PG: Tensor) -> Tensor:
    """equal_P: whether all rewards of a group are the same."""
    return (rewards_PG == rewards_PG[:, :1]).all(dim=1)


def require_groups(name: str, rewards_PG: Tensor) -> Tensor:
    """The rewards in float32 at least.

    Raises:
        LabError: groups of one.
    """
    if rewards_PG.shape[1] < 2:
        raise LabError(
            f"{name}: a group of one completion has nothing to be compared with; use "
            "at least 2 completions of each prompt."
        )
    return at_least_float32(rewards_PG)


def at_least_float32(x: Tensor) -> Tensor:
    return x.detach().to(torch.promote_types(x.dtype, torch.float32))
