"""The ranks' side of test_rl_ranks.py.

python rollout_ranks.py FOLDER RANKS    writes FOLDER/RANKS-RANK.pt: what came out
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from labsupport import rl
from labsupport.distributed.stream_parallel import average_gradients
from labsupport.distributed.traffic import count_traffic
from labsupport.generate import row_seeds
from labsupport.nn import GPT, GPTConfig
from labsupport.rl.experience import Experience
from labsupport.rl.policy import completion_logits, log_probs
from labsupport.rl.ranks import over_ranks, own_completions, own_seeds, token_share
from labsupport.tasks.shell_game import ShellGame
from tests.labsupport.forked_ranks import run_on_ranks

GAME = ShellGame(cups=3, swaps=2)
P, G = 6, 8
LOSSES = {"grpo": rl.GRPO, "dr_grpo": rl.DR_GRPO, "dapo": rl.DAPO}


def many_cups(prompt: list[int], completion: list[int]) -> float:
    return sum(token < GAME.cups for token in completion) / GAME.longest


def train(loss: rl.PolicyLoss, dist: Any = None, steps: int = 3) -> dict[str, Any]:
    """Some steps of plain gradient descent, alone or with all ranks of `dist`."""
    torch.manual_seed(0)
    words = len(GAME.vocabulary)
    model = GPT(
        GPTConfig(
            vocab_size=words, d_model=16, n_layers=1, n_heads=2, max_len=GAME.max_len
        )
    )
    found: dict[str, Any] = {"tokens": [], "lengths": [], "advantages": []}
    for step in range(steps):
        group, seeds = G, row_seeds(0, step, P * G)
        advantage: Any = rl.group_advantages
        if dist is not None:
            own = own_completions(G, dist)
            group, seeds = own.stop - own.start, own_seeds(seeds, G, dist)
            advantage = over_ranks(advantage, dist)
        rollout = rl.roll_out(
            model,
            GAME,
            GAME.prompts(P, seed=0, step=step),
            many_cups,
            group=group,
            seeds=seeds,
        )
        seen = Experience.of(rollout, advantage)
        logits = completion_logits(model, seen.prompts_RT, seen.tokens_RN)
        value = loss(
            log_probs(logits, seen.tokens_RN),
            seen.old_RN,
            seen.advantages_R,
            seen.mask_RN,
            longest=GAME.longest,
        )
        model.zero_grad()
        if dist is None:
            value.backward()
        else:
            weight = token_share(seen.mask_RN, dist) if loss is rl.DAPO else 1.0
            (weight * value).backward()
            average_gradients(model, dist)
        with torch.no_grad():
            for p in model.parameters():
                assert p.grad is not None
                p -= 0.5 * p.grad
        found["tokens"].append(rollout.completions.tokens_RN.view(P, group, -1))
        found["lengths"].append(rollout.completions.lengths_R.view(P, group))
        found["advantages"].append(seen.advantages_R.view(P, group))
    found["weights"] = [p.detach().clone() for p in model.parameters()]
    return found


def body() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found: dict[str, Any] = {name: train(loss, dist) for name, loss in LOSSES.items()}
    with count_traffic() as moved:
        over_ranks(rl.group_advantages, dist)(torch.rand(P, G // dist.get_world_size()))
    found["sent"] = moved.ideal_sent
    folder, ranks = Path(sys.argv[1]), dist.get_world_size()
    torch.save(found, folder / f"{ranks}-{dist.get_rank()}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    for ranks in sys.argv[2:]:
        run_on_ranks(body, ranks=int(ranks))
