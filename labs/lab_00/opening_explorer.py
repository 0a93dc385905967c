"""The first picture of the course: the same loss, and a signal 1000 times as large.

It is drawn from lab 01's record, the gain of trained maps by learning rate. The
composite gain bounds how much all lanes' maps together can amplify a signal, or
its gradient on the way back: the larger of the two is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from statistics import median
from typing import Any

import plotly.graph_objects as go

from labsupport.claims.provenance import caption
from labsupport.claims.record import load_record
from labsupport.explore import Explorer, View, slide
from labsupport.explore.style import BLUE, VERMILION

NAMES = {
    "residual": "residual",
    "hc": "HC (4 lanes)",
    "mhc": "mHC (projected)",
}
LOOK = {
    "residual": ("#9aa1ac", "solid", 9),
    "hc": (VERMILION, "solid", 3),
    "mhc": (BLUE, "dash", 3),
}
"""Colour, dash and width; the residual's line is wide, mHC's lies upon it."""

Record = Mapping[str, Any]


def opening_explorer(record: Record | None = None) -> Explorer:
    """Gain after every branch, by learning rate.

    Args:
        record: of the experiment 01/gain; None for the committed one.

    Raises:
        LabError: nothing has been recorded.
    """
    record = load_record("01", "gain") if record is None else record
    rates = sorted({row["lr"] for row in record["rows"]})
    return Explorer(
        partial(draw, record),
        # Where nothing moves, on GitHub, this is the only view.
        rate=slide("highest learning rate", rates, start=rates[-2]),
    )


def draw(record: Record, rate: float) -> View:
    """The median over seeds of the gain after every branch, one line an arm."""
    figure = go.Figure()
    words, table = [], {}
    for arm, (colour, dash, width) in LOOK.items():
        rows = [
            row
            for row in record["rows"]
            if row["arm"] == arm and row["lr"] == rate and not row["failed"]
        ]
        if not rows:
            words.append(f"{NAMES[arm]}: every training failed")
            continue
        gains = median_gains(rows)
        loss = median(row["loss"] for row in rows)
        figure.add_scatter(
            x=list(range(1, len(gains) + 1)),
            y=gains,
            name=NAMES[arm],
            line={"color": colour, "dash": dash, "width": width},
        )
        words.append(f"{NAMES[arm]}: loss {loss:.2f}, gain {gains[-1]:,.4g}")
        table[NAMES[arm]] = gains
    depth = max((len(gains) for gains in table.values()), default=0)
    figure.update_xaxes(title_text="branches passed")
    figure.update_yaxes(
        title_text="largest amplification", type="log", range=[-0.5, 6]
    )
    figure.update_layout(title={"text": caption(record["rows"][-1]["origin"])})
    figure.update_layout(title_font_size=11)
    return View(
        figure,
        f"Trained at {rate:g}. {'; '.join(words)}.",
        {"branches": list(range(1, depth + 1)), **table},
    )


def median_gains(rows: list[dict[str, Any]]) -> list[float]:
    """After every branch, the larger of both gains; the median over the rows."""
    worst = [
        [
            max(pair)
            for pair in zip(row["forward"], row["backward"], strict=True)
        ]
        for row in rows
    ]
    return [median(at_depth) for at_depth in zip(*worst, strict=True)]
