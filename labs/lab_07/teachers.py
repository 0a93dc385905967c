"""What the models of lab 07 have learned from before rewards come: their warm start.

    hasty     = B EOS                 half of the time: a guess at once
              A C = E EOS             a fifth: the thought breaks off, and a guess
              A C D = D EOS           the rest: every state, each wrong in 4 % of cases
    hedging   = B = D EOS             as hasty, but often with more than one answer

A program wrote these examples, and its author knew how the game is played. So no step
of lab 07 shows a model that invents thinking.

Shape suffixes: B games, T tokens of a prompt, N of a completion.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from labsupport.tasks.game import Writer
from labsupport.tasks.shell_game import ShellGame, hasty

HEDGED = 0.2
"""How often `hedging` gives several answers."""
MOST = 3
"""Of them."""


def hedging(share: float = HEDGED) -> Writer:
    """As `hasty`; in a share of the examples, two or three guesses at once."""
    plain = hasty()

    def write(
        game: ShellGame, prompts_BT: Tensor, numbers: np.random.Generator
    ) -> Tensor:
        completions_BN = plain(game, prompts_BT, numbers)
        equals, room = game.vocabulary["="], game.longest
        hedges_B = numbers.random(len(prompts_BT)) < share
        for row in hedges_B.nonzero()[0].tolist():
            count = int(numbers.integers(2, MOST + 1))
            cups = numbers.choice(game.cups, count, replace=False).tolist()
            said = [token for cup in cups for token in (equals, cup)]
            said = [*said[: 2 * ((room - 1) // 2)], game.eos]
            completions_BN[row] = game.pad
            completions_BN[row, : len(said)] = torch.tensor(said)
        return completions_BN

    return write


TEACHERS: Mapping[str, Writer] = {
    "hasty": hasty(),
    "hedging": hedging(),
}
