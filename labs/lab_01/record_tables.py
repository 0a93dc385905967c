"""Lab 01's records in words and pictures. They are recorded, not live."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import plotly.graph_objects as go

from labs.lab_01.arms import ARMS, NAMES
from labsupport.claims.ledger import verdict_lines as ledger_lines
from labsupport.claims.rows import Row, pick, record_rows, recorded_on
from labsupport.explore import View, small_print
from labsupport.explore.style import COLOURS

CLAIMS = ("mhc-stable", "mhc-theory", "mhc-fewer-failures", "mhc-time")
STREAMS = ("float32", "bfloat16", "float16")
rows_of = partial(record_rows, "01")
verdict_lines = partial(ledger_lines, CLAIMS)


def caption(experiment: str) -> str:
    """Where a record comes from."""
    return recorded_on(rows_of(experiment))


def failure_lines(*streams: str) -> list[str]:
    """Failed trainings by residual and precision, over rates, tasks and seeds."""
    rows = rows_of("failures")
    return _failures(
        [(s, pick(rows, stream=s)) for s in streams],
    )


def failure_lines_by_rate(stream: str) -> list[str]:
    """Failed trainings by residual, learning rate and task, over seeds."""
    rows = pick(rows_of("failures"), stream=stream)
    cases = sorted(
        {(row["task"], row["lr"]) for row in rows},
        key=lambda case: (case[0] != "python", case),
    )
    return _failures(
        [
            (f"{task} {rate:g}", pick(rows, task=task, lr=rate))
            for task, rate in cases
        ],
    )


def _failures(columns: list[tuple[str, list[Row]]]) -> list[str]:
    heads = "".join(f"{name:>14}" for name, _ in columns)
    lines = [f"{'ended in NaN':12}{heads}"]
    for arm in ("residual", "hc", "mhc", "identity"):
        cells = []
        for _, rows in columns:
            runs = pick(rows, arm=arm)
            cells.append(f"{sum(r['failed'] for r in runs)} of {len(runs)}")
        lines.append(
            f"{NAMES[arm]:12}" + "".join(f"{cell:>14}" for cell in cells)
        )
    return lines


def gain_lines() -> list[str]:
    """The larger of forward and backward gain, median over seeds, by rate."""
    return [
        "larger of forward and backward gain, median of five seeds",
        *_medians(lambda row: 10 ** row["log10_gain"], "{:>12.4g}"),
    ]


def least_lines() -> list[str]:
    """The smallest column sum after all branches, median over seeds, by rate."""
    return [
        "smallest column sum, median of five seeds",
        *_medians(lambda row: row["least"][-1], "{:>12.4g}"),
    ]


def loss_lines() -> list[str]:
    """The last loss by rate, and in how many seeds HC ends below mHC."""
    rows = rows_of("gain")
    lines = [
        "loss of the last steps, median of five seeds",
        *_medians(lambda row: row["loss"], "{:>12.3f}"),
    ]
    for arm, other in (("hc", "mhc"), ("mhc", "residual")):
        cells = []
        for rate in rates_of(rows):
            mine, theirs = (
                {
                    row["seed"]: row["loss"]
                    for row in pick(rows, arm=a, lr=rate)
                }
                for a in (arm, other)
            )
            below = sum(mine[seed] < theirs[seed] for seed in mine)
            cells.append(f"{below} of {len(mine)}")
        lines.append(
            f"{NAMES[arm]} < {NAMES[other]}".ljust(18)
            + f"{cells[0]:>6}"
            + "".join(f"{cell:>12}" for cell in cells[1:])
        )
    return lines


def rates_of(rows: list[Row]) -> list[float]:
    return sorted({row["lr"] for row in rows})


def _medians(value: Callable[[Row], float], form: str) -> list[str]:
    """A line for each residual, a column for each learning rate."""
    rows = rows_of("gain")
    rates = rates_of(rows)
    lines = [f"{'at lr':12}" + "".join(f"{rate:>12g}" for rate in rates)]
    for arm in ARMS:
        cells = []
        for rate in rates:
            found = [
                value(row) for row in pick(rows, arm=arm, lr=rate, failed=0)
            ]
            cells.append(statistics.median(found) if found else math.nan)
        lines.append(
            f"{NAMES[arm]:12}" + "".join(form.format(cell) for cell in cells)
        )
    return lines


def hc_in_float32() -> tuple[int, int]:
    """How many HC trainings with a float32 stream failed, of how many."""
    rows = pick(rows_of("failures"), arm="hc", stream="float32")
    return sum(row["failed"] for row in rows), len(rows)


def loss_view(yours: dict[str, float] | None = None) -> View:
    """Last loss against learning rate, for each residual, and the reader's dots."""
    rows = rows_of("gain")
    rates = rates_of(rows)
    figure = go.Figure()
    table: dict[str, list[Any]] = {"learning rate": rates}
    for number, arm in enumerate(ARMS):
        losses = [
            [r["loss"] for r in pick(rows, arm=arm, lr=rate)] for rate in rates
        ]
        kept = [[v for v in values if v is not None] for values in losses]
        middle = [statistics.median(v) if v else math.nan for v in kept]
        # A little aside, or five whiskers lie on one another.
        aside = 1.045 ** (number - len(ARMS) // 2)
        figure.add_scatter(
            x=[rate * aside for rate in rates],
            y=middle,
            name=NAMES[arm],
            line={"color": COLOURS[number]},
            error_y={
                "array": [
                    max(v) - m if v else 0
                    for v, m in zip(kept, middle, strict=True)
                ],
                "arrayminus": [
                    m - min(v) if v else 0
                    for v, m in zip(kept, middle, strict=True)
                ],
            },
        )
        table[NAMES[arm]] = middle
    for arm, loss in (yours or {}).items():
        figure.add_scatter(
            x=[1e-2], y=[loss], name=f"yours, {NAMES[arm]}", mode="markers",
            marker={"size": 12, "symbol": "star", "color": COLOURS[ARMS.index(arm)]},
        )  # fmt: skip
    figure.update_xaxes(
        type="log",
        title_text="highest learning rate",
        tickvals=rates,
        ticktext=[f"{rate:g}" for rate in rates],
    )
    figure.update_yaxes(title_text="loss of the last steps (nats per token)")
    best = min(ARMS, key=lambda arm: min(table[NAMES[arm]]))
    figure.update_layout(
        title=f"Lowest median loss: {NAMES[best]}. (Five seeds, lowest to highest)",
        height=400,
        margin={"t": 92},  # the legend may need two lines
    )
    small_print(figure, caption("gain"))
    spread = "; ".join(
        f"{NAMES[arm]} {table[NAMES[arm]][rates.index(1e-2)]:.3f}"
        for arm in ARMS
    )
    return View(figure, f"Median loss at learning rate 0.01: {spread}.", table)


def overhead() -> tuple[float, float, float]:
    """Time of an mHC step over that of a plain one: least, median and most."""
    rows = rows_of("time")
    ratios = sorted(
        m["ms"] / b["ms"]
        for m in pick(rows, arm="mhc")
        for b in pick(rows, arm="residual", seed=m["seed"])
    )
    return ratios[0], statistics.median(ratios), ratios[-1]
