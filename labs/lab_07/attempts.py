"""What a model does in Boxes: whether it gives up, and reads what is there."""

from __future__ import annotations

from collections.abc import Sequence

from labs.lab_06.plan import GAMES
from labsupport.nn import GPT
from labsupport.rl import roll_out
from labsupport.settings import Scale
from labsupport.tasks.boxes import Boxes

SHOWN = 4
"""Attempts of the longest example that the warm start has read."""
FEWEST = 20
"""Cases of which a share says anything."""


def attempts_row(
    model: GPT, game: Boxes, scale: Scale, seed: int = 1
) -> dict[str, float | None]:
    """For a record: shares of what is written, over fresh games at temperature 1.

    Returns:
        quits: completions that say QUIT. misread, misread_late: attempts whose letter
        is not the one in the box, among the first SHOWN and behind them (None where
        hardly anybody gets so far). again: attempts at a box that was opened before.
    """
    prompts_PT = game.prompts(GAMES[scale], seed=seed, split="validation")
    found = roll_out(model, game, prompts_PT, seeds=seed)
    early, late, again, quits = [], [], [], []
    rows = zip(prompts_PT.tolist(), found.completions.rows(), strict=True)
    for prompt, written in rows:
        quits.append(game.vocabulary["QUIT"] in written)
        opened: set[int] = set()
        for number, (box, letter) in enumerate(looks(game, written)):
            wrong = letter != prompt[box]
            (early if number < SHOWN else late).append(wrong)
            again.append(box in opened)
            opened.add(box)
    return {
        "quits": share(quits),
        "misread": share(early),
        "misread_late": share(late),
        "again": share(again),
    }


def looks(game: Boxes, written: Sequence[int]) -> list[tuple[int, int]]:
    """Boxes and the letters said to be in them, as far as the form is kept."""
    found = []
    for i in range(0, len(written) - 1, 3):
        box, letter = written[i], written[i + 1]
        if not box < game.boxes <= letter < 2 * game.boxes:
            break
        found.append((box, letter))
    return found


def share(cases: Sequence[bool]) -> float | None:
    """Of them, those that hold; None for fewer than FEWEST cases."""
    return round(sum(cases) / len(cases), 4) if len(cases) >= FEWEST else None
