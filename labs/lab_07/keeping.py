"""The model that a reader trained, kept to teach in lab 08."""

from __future__ import annotations

from labsupport.errors import LabError
from labsupport.nn import GPT
from labsupport.settings import is_interactive
from labsupport.tasks.shell_game import ShellGame
from labsupport.train.stored_model import load_model, model_file, store_model

ENOUGH = 0.75
"""The share of games that a teacher has to win."""


def model_name(game: ShellGame) -> str:
    """What a model that plays this game is called."""
    return f"shell_game_{game.swaps}"


def keep_model(model: GPT, game: ShellGame, accuracy: float) -> str:
    """Keep a model for lab 08, unless an older one is better.

    Nothing is written headless: a run by papermill is nobody's.

    Args:
        model: plays the game.
        game: which one.
        accuracy: the share of games that it wins.

    Returns:
        one sentence on what was done.

    Raises:
        LabError: the disk is full or read-only.
    """
    if not is_interactive():
        return "Run in JupyterLab, this cell keeps your model for lab 08."
    if accuracy < ENOUGH:
        return (
            f"It wins {accuracy:.0%} of its games. Lab 08 wants a teacher who wins "
            f"{ENOUGH:.0%} and takes the course's own."
        )
    file = model_file(model_name(game))
    older = kept_accuracy(game)
    if older > accuracy:
        return f"An older model of yours wins {older:.1%} and stays lab 08's teacher."
    about = {
        "game": f"{game.cups} cups, {game.swaps} swaps",
        "made by": "you, in lab 07",
        "games won": f"{accuracy:.3f}",
    }
    store_model(file, model, about)
    return f"Kept as lab 08's teacher: {file.parent.name}/{file.name}."


def kept_accuracy(game: ShellGame) -> float:
    """How good the model is that was kept before; 0 if there is none to be read."""
    file = model_file(model_name(game))
    try:
        return float(load_model(file).about["games won"])
    except (LabError, KeyError, ValueError):
        return 0.0
