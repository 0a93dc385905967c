"""One rollout on several ranks, equal to that of one process.

Every rank completes all prompts, but each only g = G / W times. So a group lies on all
ranks, and what is usual in it can be known only where its rewards are together:

    each rank    rewards_Pg    of its own completions
    all_gather   rewards_PG    whole groups, on every rank
    each rank    advantages_PG, and of these its own columns, advantages_Pg

A reward is one number, where a completion has many tokens: tokens, log-probs and caches
stay on the rank that made them. Random numbers belong to rows (see
`labsupport.generate.draws`), so a completion is the same whoever writes it.

`dist` is `torch.distributed` with a process group.

Shape suffixes: W ranks, P prompts, G completions of each, g = G / W of them on this
rank, R = P G rows, r = P g rows of this rank, N tokens of a completion.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from labsupport.errors import LabError
from labsupport.generate.draws import Seeds
from labsupport.rl.experience import Advantage


def own_completions(group: int, dist: Any) -> slice:
    """Which of the G completions of each prompt this rank writes.

    Raises:
        LabError: ranks that do not divide the group.
    """
    W, rank = dist.get_world_size(), dist.get_rank()
    if group % W:
        raise LabError(
            f"group={group}: {W} ranks cannot share the completions of a prompt "
            f"evenly; use a multiple of {W}."
        )
    g = group // W
    return slice(rank * g, (rank + 1) * g)


def own_seeds(seeds_R: Seeds, group: int, dist: Any) -> Seeds:
    """seeds_r of the rows that this rank writes, out of those of the whole rollout.

    Raises:
        LabError: ranks that do not divide the group.
    """
    return seeds_R.reshape(-1, group)[:, own_completions(group, dist)].reshape(-1)


def gather_groups(values_Pg: Tensor, dist: Any) -> Tensor:
    """values_PG, on every rank: the columns of all ranks, in their order."""
    W, (P, g) = dist.get_world_size(), values_Pg.shape
    columns = values_Pg.new_empty(W * P, g)
    dist.all_gather_single(columns, values_Pg.contiguous())
    return columns.view(W, P, g).transpose(0, 1).reshape(P, W * g)


def over_ranks(advantage: Advantage, dist: Any) -> Advantage:
    """The same advantages as in one process, from the rewards of this rank's rows.

    Args:
        advantage: gets the rewards_PG of whole groups.
        dist: `torch.distributed`.

    Returns:
        A function of rewards_Pg that returns advantages_Pg. All ranks have to call it.
    """

    def advantages(rewards_Pg: Tensor) -> Tensor:
        rewards_PG = gather_groups(rewards_Pg, dist)
        own = own_completions(rewards_PG.shape[1], dist)
        return advantage(rewards_PG)[:, own]

    return advantages


def token_share(mask_rN: Tensor, dist: Any) -> float:
    """This rank's tokens over the mean of all ranks' tokens.

    Gradients that are *averaged* over ranks count each rank alike. That is right for a
    mean over rows, of which all ranks have as many. A mean over tokens has to be
    multiplied by this number first, or the tokens of a rank that wrote little would
    weigh more.
    """
    own = mask_rN.sum()
    total = own.clone()
    dist.all_reduce(total)
    share: Tensor = own * dist.get_world_size() / total.clamp(min=1)
    return share.item()
