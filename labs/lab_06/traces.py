"""Is a trace used? Change one state of it, and see what becomes of the answer.

    prompt       C AB CE DE ?
    trace        C E D            D is where the ball is: the answer stays D if the
                                  model does not care what it wrote
    edited       A|               it goes on from here: if it believes what stands
                                  there, it writes A, A and answers A

An edited trace ends with the state that was changed. What the model wrote behind it is
cut off: those states would show it the old way.

Shape suffixes: B games, T tokens of a prompt, M of a trace up to its change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from labs.lab_06.thinker import Thinker
from labs.lab_06.verifying import moved, where
from labsupport.errors import LabError
from labsupport.tasks.shell_game import ShellGame

Corrupt = Callable[[str, str, int, str], tuple[str, str]]
"""(prompt, trace, number of the state, cup) -> (what the model is given, the answer
that follows from it)"""


def corrupt(prompt: str, trace: str, number: int, cup: str) -> tuple[str, str]:
    """Change a state, cut off what stood behind it, and play on from there.

    Args:
        prompt: "C AB CE DE ?".
        trace: "C E D", a state after each swap.
        number: which state, from 1.
        cup: what it becomes.

    Returns:
        the prompt with the edited beginning of the trace, and the answer of somebody
        who believes it.
    """
    given = [*prompt.split(), *trace.split()[: number - 1], cup]
    swaps = prompt.split()[1:-1]
    return " ".join(given), moved(cup, swaps[number:])


@dataclass(frozen=True)
class Edit:
    """One change, and what came of it.

    Attributes:
        number: of the state that was changed, from 1.
        stays: the answer of whoever ignores the change: where the ball is.
        follows: the answer of whoever believes it.
        answered: what the model said; "" where it named no cup.
    """

    number: int
    stays: str
    follows: str
    answered: str


def edits(
    thinker: Thinker, count: int, *, seed: int = 0, corrupt: Corrupt = corrupt
) -> list[Edit]:
    """Change a random state of the right trace, to a random wrong cup.

    A right trace is given rather than the model's own: so all models are asked the
    same, and a slip of theirs is not mistaken for disbelief.

    Args:
        thinker: answers with the likeliest tokens.
        count: games.
        seed: of games and changes.
        corrupt: a reader's own.

    Raises:
        LabError: `corrupt` returned something else than two texts, or texts that the
            game does not know.
    """
    game, names = thinker.game, thinker.game.vocabulary
    numbers = np.random.default_rng([seed, 1])
    prompts_BT = game.prompts(count, seed=seed, split="validation")
    states_Bn = game.states(prompts_BT)
    at_B = numbers.integers(0, game.swaps, count)
    further_B = numbers.integers(1, game.cups, count)
    found: list[Edit] = []
    for i in range(game.swaps):
        asked, texts = [], []
        for b in np.flatnonzero(at_B == i):
            prompt = names.decode(prompts_BT[b])
            trace = names.decode(states_Bn[b])
            old = int(states_Bn[b, i])
            cup = names.decode([(old + int(further_B[b])) % game.cups])
            text, follows = checked(corrupt(prompt, trace, i + 1, cup))
            texts.append(names.encode(text))
            asked.append((where(prompt), follows))
        if texts:
            answers = answers_behind(thinker, texts)
            found += [
                Edit(i + 1, *pair, answer)
                for pair, answer in zip(asked, answers, strict=True)
            ]
    return found


def answers_behind(thinker: Thinker, texts: Sequence[list[int]]) -> list[str]:
    """How a model goes on behind prompts with the beginning of a trace.

    Raises:
        LabError: texts of different lengths.
    """
    lengths = {len(text) for text in texts}
    if len(lengths) > 1:
        raise LabError(
            f"Traces edited at the same place have {sorted(lengths)} tokens: an edited "
            "trace ends with the state that was changed."
        )
    rows = thinker.write(torch.tensor(texts)).rows()
    return [answer_of(thinker.game, row) for row in rows]


def answer_of(game: ShellGame, completion: Sequence[int]) -> str:
    """The name of the cup that a completion answers with, "" where it has no answer."""
    cup = game.answer(completion)
    return "" if cup is None else game.vocabulary.names[cup]


def checked(made: object) -> tuple[str, str]:
    """What a reader's function returned.

    Raises:
        LabError: it is no pair of texts.
    """
    if not (
        isinstance(made, tuple)
        and len(made) == 2
        and all(isinstance(part, str) for part in made)
    ):
        raise LabError(f"corrupt returned {made!r}: two texts are needed.")
    return made[0], made[1]


def right_states(thinker: Thinker, count: int, *, seed: int = 0) -> float:
    """The share of written states that are right, when it writes by itself.

    Args:
        thinker: answers with the likeliest tokens.
        count: games.
        seed: of the games.
    """
    game = thinker.game
    prompts_BT = game.prompts(count, seed=seed, split="validation")
    written_BN = thinker.write(prompts_BT).tokens_RN.cpu()
    right_Bn = written_BN[:, : game.swaps] == game.states(prompts_BT)
    return right_Bn.float().mean().item()


def shares(found: Sequence[Edit]) -> dict[str, float]:
    """How often the answer followed, stayed, or did neither.

    Changes after which both answers are the same cannot happen: swaps move two
    different cups to two different cups.
    """
    n = len(found)
    follows = sum(e.answered == e.follows for e in found)
    stays = sum(e.answered == e.stays for e in found)
    return {
        "follows": round(follows / n, 4),
        "stays": round(stays / n, 4),
        "neither": round(1 - (follows + stays) / n, 4),
    }
