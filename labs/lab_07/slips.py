"""Where a trace goes wrong first, and whether it is always at the same step.

Shape suffixes: P prompts, N tokens of a completion, n swaps.
"""

from __future__ import annotations

from collections import Counter

from labs.lab_06.plan import GAMES
from labsupport.nn import GPT
from labsupport.rl import roll_out
from labsupport.settings import Scale
from labsupport.tasks.shell_game import ShellGame


def first_slips(
    model: GPT, game: ShellGame, scale: Scale, seed: int = 1
) -> Counter[str]:
    """How many games go wrong first at each step, "A AC -> A".

    Args:
        model: writes at temperature 1, the games of `runs.examined`.
        game: plays along. A completion that answers before all states are written has
            no slip beyond its last state.
    """
    prompts_PT = game.prompts(GAMES[scale], seed=seed, split="validation")
    found = roll_out(model, game, prompts_PT, seeds=seed)
    names, slips = game.vocabulary.names, Counter[str]()
    rows = zip(prompts_PT.tolist(), found.completions.rows(), strict=True)
    for (cup, *swaps, _), written in rows:
        for swap, state in zip(swaps, written, strict=False):
            if state >= game.cups:  # no state any more
                break
            if state != int(game.after_SK[swap - game.cups, cup]):
                slips[f"{names[cup]} {names[swap]} -> {names[state]}"] += 1
                break
            cup = state
    return slips


def slips_row(model: GPT, game: ShellGame, scale: Scale) -> dict[str, object]:
    """For a record: games with a slip, the commonest step of all, and its share."""
    slips = first_slips(model, game, scale)
    if not slips:
        return {"slips": 0, "commonest": "none", "commonest_share": 0.0}
    ((step, count),) = slips.most_common(1)
    total = sum(slips.values())
    return {
        "slips": total,
        "commonest": step,
        "commonest_share": round(count / total, 4),
    }
