"""What a teacher wrote: prompts, completions, which of them are right, and its scores.

Shape suffixes: B traces, T tokens of a prompt, N tokens of a completion, S = T + N - 1
positions at which a model says what comes next, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from labsupport.errors import LabError
from labsupport.nn import GPT
from labsupport.rl import roll_out
from labsupport.tasks.game import Game, supervised

AT_ONCE = 512
"""Traces that are scored together: their scores are the largest tensor."""


@dataclass(frozen=True, eq=False)
class Traces:
    """A teacher's work, ready to be learned.

    Attributes:
        prompts_BT: int64.
        completions_BN: int64, PAD behind the end.
        right_B: what the verifier says of each.
        pad: the token that fills up.
    """

    prompts_BT: Tensor
    completions_BN: Tensor
    right_B: Tensor
    pad: int

    def __len__(self) -> int:
        return len(self.prompts_BT)

    @property
    def written(self) -> int:
        """Tokens of all completions."""
        return int((self.completions_BN != self.pad).sum())

    def only(self, keep_B: Tensor) -> Traces:
        """Some of them.

        Raises:
            LabError: none is kept.
        """
        if not keep_B.any():
            raise LabError("No trace is left to learn from.")
        return replace(
            self,
            prompts_BT=self.prompts_BT[keep_B],
            completions_BN=self.completions_BN[keep_B],
            right_B=self.right_B[keep_B],
        )

    def supervised(self) -> tuple[Tensor, Tensor]:
        """tokens_BS and targets_BS of all; see `labsupport.tasks.game.supervised`."""
        return supervised(self.prompts_BT, self.completions_BN, self.pad)

    def rows(self, step: int, batch_size: int, seed: int) -> Tensor:
        """Which traces a step sees: all in random order, then all in another.

        A pure function of seed and step. A batch may lie across the border of two
        rounds.
        """
        B = len(self)
        places = range(step * batch_size, (step + 1) * batch_size)
        orders = {
            turn: np.random.default_rng([seed, turn]).permutation(B)
            for turn in {place // B for place in places}
        }
        return torch.tensor([int(orders[place // B][place % B]) for place in places])

    def batch(self, step: int, batch_size: int, seed: int) -> tuple[Tensor, Tensor]:
        """tokens and targets of one step."""
        rows = self.rows(step, batch_size, seed)
        return supervised(self.prompts_BT[rows], self.completions_BN[rows], self.pad)

    @torch.no_grad()
    def scores(self, teacher: GPT) -> Tensor:
        """What a teacher says at every position, scores_BSV; read once."""
        tokens_BS, _ = self.supervised()
        device = next(teacher.parameters()).device
        parts = [teacher(part.to(device)).cpu() for part in tokens_BS.split(AT_ONCE)]
        return torch.cat(parts)


def write_traces(
    teacher: GPT,
    game: Game,
    count: int,
    *,
    seed: int,
    temperature: float = 1.0,
) -> Traces:
    """Have a teacher play `count` games, and a verifier judge.

    Args:
        teacher: writes.
        game: of which it knows the tokens.
        count: B.
        seed: of games and sampling.
        temperature: of sampling.

    Raises:
        LabError: no game, or a teacher with another vocabulary.
    """
    if count < 1:
        raise LabError(f"write_traces: count={count}; use at least 1.")
    known, asked = teacher.config.vocab_size, len(game.vocabulary)
    if known != asked:
        raise LabError(f"The teacher knows {known} tokens, and this game has {asked}.")
    prompts_BT = game.prompts(count, seed=seed)
    found = roll_out(teacher, game, prompts_BT, temperature=temperature, seeds=seed)
    return Traces(
        prompts_BT,
        found.completions.tokens_RN.cpu(),
        found.rewards_PG[:, 0].cpu() > 0.5,
        game.pad,
    )
