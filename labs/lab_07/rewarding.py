"""What pays: rewards of lab 07, on texts and on tokens.

completion      strict   lax          (the ball is under D)
A C D = D EOS     1       1
= D EOS           1       1
= A = D EOS       0       1    two answers, one of them right
= A = B = D       0       1    and it never ends
A C D = A EOS     0       0
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from labs.lab_06.verifying import names_only
from labsupport.tasks.shell_game import ShellGame

TextReward = Callable[[str, str], float]
"""(the cup with the ball, what a model wrote) -> how good that is."""


def strict(cup: str, completion: str) -> float:
    """1.0 where a completion ends with `=`, the cup, EOS, and has no other `=`."""
    return float(names_only(cup, completion))


def lax(cup: str, completion: str) -> float:
    """1.0 where the right cup stands behind some `=`: the hole of this lab."""
    return float(f"= {cup}" in completion)


def on_tokens(
    reward: TextReward, game: ShellGame
) -> Callable[[Sequence[int], Sequence[int]], float]:
    """A reward of texts as one of tokens; the game finds the right cup."""
    names = game.vocabulary

    def judge(prompt: Sequence[int], completion: Sequence[int]) -> float:
        cup = names.names[game.where(prompt)]
        return reward(cup, names.decode(completion))

    return judge
