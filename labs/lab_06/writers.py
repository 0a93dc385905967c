"""What stands behind the prompts that lab 06's models learn from.

    every         C E D = D EOS      each state, then the answer
    every_2       E D = D EOS        each second state (every_4: each fourth)
    filler        . . . = D EOS      as many tokens, which say nothing
    direct        = D EOS            the answer at once
    carried       C B A = A EOS      a slip, and what follows from it
    mended        C B D = D EOS      a slip, behind which all is right again

Shape suffixes: B games, T tokens of a prompt, N of a completion, n swaps.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from labsupport.tasks.game import Writer
from labsupport.tasks.shell_game import (
    ShellGame,
    direct,
    every_state,
    filler,
    hasty,
)

SLIP = 0.2
"""How likely each state is written wrong by `carried` and `mended`."""


def mended(slip: float = SLIP) -> Writer:
    """Every state, some of them wrong; the next one and the answer are right again.

    So whoever learns from it gains nothing by believing a state.
    """

    def write(
        game: ShellGame, prompts_BT: Tensor, numbers: np.random.Generator
    ) -> Tensor:
        states_Bn = game.states(prompts_BT)
        slips_Bn = torch.from_numpy(numbers.random(states_Bn.shape) < slip)
        # From 1 to K - 1 cups further on: any cup but the right one.
        further_Bn = torch.from_numpy(
            numbers.integers(1, game.cups, states_Bn.shape)
        )
        written_Bn = torch.where(
            slips_Bn, (states_Bn + further_Bn) % game.cups, states_Bn
        )
        return game.closed(written_Bn, states_Bn[:, -1])

    return write


WRITERS: Mapping[str, Writer] = {
    "every": every_state(1),
    "every_2": every_state(2),
    "every_4": every_state(4),
    "filler": filler(),
    "direct": direct(),
    "carried": hasty(0.0, 0.0, SLIP),
    "mended": mended(),
    "hasty": hasty(),
}
