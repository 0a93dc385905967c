"""The record's planes: the loss around trained weights, and the way there."""

from __future__ import annotations

from typing import Any

from labs.lab_04b.exploring import Explored, Trial, train_gpt, validation
from labs.lab_04b.landscape import losses_on, path_plane, random_plane, rise
from labsupport.settings import Scale

PLANES = ("random", "path")
POINTS = 16
"""Of the path."""
ARMS = ("plain", "sam", "lawa")


def explored(arm: str, seed: int, scale: Scale, trial: Trial) -> Explored:
    """A training that keeps points of its path."""
    return train_gpt(arm, seed, scale, trial, keep=POINTS)


def slice_row(
    arm: str, seed: int, scale: Scale, trial: Trial, plane: str
) -> dict[str, Any]:
    """The loss on a plane through the end of a training.

    Returns:
        x, y: of the grid. grid: losses, a list for each y.
        path: where the training went, [x, y] for each point; it ends at 0, 0.
        share: of the path's squared length, what the plane shows.
        rise: see `landscape.rise`.
    """
    found = explored(arm, seed, scale, trial)
    batches = validation(scale, 2)[:2]
    model, path = found.model, found.path
    chosen = (
        path_plane(model, path)
        if plane == "path"
        else random_plane(model, path, seed)
    )
    return {
        # "+ 0.0", so that no -0.0 is written.
        "x": [round(x, 4) + 0.0 for x in chosen.x],
        "y": [round(y, 4) + 0.0 for y in chosen.y],
        "grid": losses_on(chosen, model, batches),
        "path": [[round(v, 4) for v in p] for p in chosen.path_K2.tolist()],
        "share": round(chosen.share, 6),
        "rise": round(rise(model, batches), 4),
    }
