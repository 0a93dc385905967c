"""People say which of two completions is better; a model learns to say it, too.

    raters         two completions of a prompt -> which is better          (noisy)
    reward model   one completion -> a score; the better one has the higher
    training       the score is the reward

Raters are simulated here: they are shown a right and a wrong completion, and take the
wrong one in a share of the cases. That is kinder than life. Real raters also see pairs
in which both are wrong, and like some things that are not asked for.

Shape suffixes: B pairs, R rows, T tokens of a prompt, N tokens of a completion, S = T +
N, D width of the model.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from labs.lab_06.thinker import Thinker
from labsupport.errors import LabError
from labsupport.generate import Completions
from labsupport.nn import GPT
from labsupport.rl import roll_out
from labsupport.tasks.game import Game

SHOWN, ROLLOUTS = 256, 40
"""Prompts of a rollout from which pairs are taken, and after how many to give up."""


def preference_loss(better_B: Tensor, worse_B: Tensor) -> Tensor:
    """-log sigmoid(better - worse), the mean over pairs.

    Source: Bradley and Terry (1952); as a loss of rewards: Christiano et al., 2017
    (arXiv 1706.03741, section 2.2.3).
    """
    return nn.functional.softplus(worse_B - better_B).mean()


@dataclass(frozen=True)
class Ratings:
    """Pairs of completions, and which of each was called better.

    Attributes:
        prompts_BT: one for both.
        better_BN, worse_BN: tokens, as the raters said; PAD behind the end.
        flipped: the share of pairs in which the raters were wrong.
    """

    prompts_BT: Tensor
    better_BN: Tensor
    worse_BN: Tensor
    flipped: float


def rated(
    start: Thinker, count: int, flipped: float, seed: int, group: int = 8
) -> Ratings:
    """Have a model write, and simulated raters compare.

    Args:
        start: writes, at temperature 1.
        count: B, how many pairs.
        flipped: how likely a rater takes the wrong one.
        seed: of games, sampling and raters.
        group: completions of each prompt, of which a right and a wrong one are shown.

    Raises:
        LabError: a model that is always right, or never.
    """
    game, numbers = start.game, np.random.default_rng([seed, count])
    prompts, right, wrong = [], [], []
    for step in range(ROLLOUTS):
        prompts_PT = game.prompts(SHOWN, seed=seed, step=step)
        found = roll_out(
            start.model, game, prompts_PT, group=group, seeds=seed + step
        )
        tokens_PGN = found.completions.tokens_RN.cpu().view(SHOWN, group, -1)
        is_right_PG = found.rewards_PG.cpu() > 0.5
        mixed_P = is_right_PG.any(dim=1) & ~is_right_PG.all(dim=1)
        for p in mixed_P.nonzero()[:, 0].tolist():
            prompts.append(prompts_PT[p])
            right.append(tokens_PGN[p, int(is_right_PG[p].int().argmax())])
            wrong.append(tokens_PGN[p, int((~is_right_PG[p]).int().argmax())])
        if len(prompts) >= count:
            break
    else:
        raise LabError(
            "Raters need a right and a wrong completion to compare, and this model "
            "hardly ever writes both for the same prompt."
        )
    right_BN, wrong_BN = torch.stack(right[:count]), torch.stack(wrong[:count])
    errs_B1 = torch.from_numpy(numbers.random(count) < flipped)[:, None]
    return Ratings(
        torch.stack(prompts[:count]),
        torch.where(errs_B1, wrong_BN, right_BN),
        torch.where(errs_B1, right_BN, wrong_BN),
        flipped,
    )


class RewardModel(nn.Module):
    """A GPT that ends in one number instead of scores of tokens.

    Args:
        start: its weights are where this one begins, as is usual.
    """

    def __init__(self, start: GPT, game: Game) -> None:
        super().__init__()
        self.trunk, self.game = copy.deepcopy(start), game
        self.head = nn.Linear(start.config.d_model, 1)
        self.to(next(start.parameters()).device)

    def forward(self, prompts_RT: Tensor, tokens_RN: Tensor) -> Tensor:
        """score_R, read off at the last token that was written."""
        device = self.head.weight.device
        prompts_RT, tokens_RN = prompts_RT.to(device), tokens_RN.to(device)
        whole_RS = torch.cat([prompts_RT, tokens_RN], dim=1)
        x_RSD = self.trunk.hidden(self.trunk.embedding(whole_RS))
        written_R = (tokens_RN != self.game.pad).sum(dim=1)
        last_R = prompts_RT.shape[1] + written_R - 1
        rows_R = torch.arange(len(last_R), device=last_R.device)
        score_R1: Tensor = self.head(x_RSD[rows_R, last_R])
        return score_R1[:, 0]


def fit_reward_model(
    start: Thinker,
    ratings: Ratings,
    *,
    seed: int,
    epochs: int = 4,
    batch_size: int = 64,
    lr: float = 3e-3,
) -> RewardModel:
    """Learn to score as the raters chose."""
    torch.manual_seed(seed)
    model = RewardModel(start.model, start.game)
    optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=0.1)
    numbers = np.random.default_rng([seed, 1])
    for _ in range(epochs):
        order_B = torch.from_numpy(numbers.permutation(len(ratings.better_BN)))
        for rows in order_B.split(batch_size):
            # The better halves above, the worse ones below: one pass for both.
            twice = ratings.prompts_BT[rows].repeat(2, 1)
            pair = torch.cat([ratings.better_BN[rows], ratings.worse_BN[rows]])
            better_B, worse_B = model(twice, pair).chunk(2)
            optimizer.zero_grad()
            preference_loss(better_B, worse_B).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    return model.eval()


def agreement(model: RewardModel, ratings: Ratings) -> float:
    """The share of pairs in which the better one has the higher score."""
    with torch.no_grad():
        better_B = model(ratings.prompts_BT, ratings.better_BN)
        worse_B = model(ratings.prompts_BT, ratings.worse_BN)
    return (better_B > worse_B).float().mean().item()


@dataclass
class Proxy:
    """Rewards by a reward model; what the verifier would say is only written down.

    Attributes:
        model: gives the rewards.
        game: its verifier is asked, and nobody learns what it says.
        gold: its share of right completions, a number for each rollout.
    """

    model: RewardModel
    game: Game
    gold: list[float] = field(default_factory=list)

    def judge(self, prompts_RT: Tensor, completions: Completions) -> Tensor:
        """score_R; see `labsupport.rl.Judge`."""
        rows = zip(prompts_RT.tolist(), completions.rows(), strict=True)
        right = [self.game.verify(prompt, row) for prompt, row in rows]
        self.gold.append(sum(right) / len(right))
        with torch.no_grad():
            return self.model(prompts_RT, completions.tokens_RN)
