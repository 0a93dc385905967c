"""The recorded spread of a curve, to draw a reader's own run inside it."""

from __future__ import annotations

from pathlib import Path

from labsupport.claims.provenance import origin_words
from labsupport.claims.record import load_record
from labsupport.errors import LabError
from labsupport.paths import MEASUREMENTS
from labsupport.settings import Scale
from labsupport.train import Band


def recorded_band(
    lab: str, experiment: str, arm: str, scale: Scale, folder: Path = MEASUREMENTS
) -> Band | None:
    """Lowest and highest loss over the recorded seeds, step by step.

    Every row has to hold the lists `step` and `loss`.

    Returns:
        None if nothing has been recorded at this scale.
    """
    try:
        content = load_record(lab, experiment, scale, folder)
    except LabError:
        return None
    rows = [row for row in content["rows"] if row["arm"] == arm]
    losses = [row["loss"] for row in rows]
    return Band(
        steps=rows[0]["step"],
        low=[min(column) for column in zip(*losses, strict=True)],
        high=[max(column) for column in zip(*losses, strict=True)],
        # The middle of the first window tells how long a window is.
        window=round(2 * rows[0]["step"][0] - 1),
        recorded_on=origin_words(rows[0]["origin"]),
    )
