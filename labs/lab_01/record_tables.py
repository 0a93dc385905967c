"""Lab 01's records in words and pictures. They are recorded, not live."""

from __future__ import annotations

import math
import statistics
from typing import Any

import plotly.graph_objects as go

from labs.lab_01.arms import ARMS, NAMES
from labsupport.claims import ledger, load_record
from labsupport.claims.claim import load_claim
from labsupport.claims.provenance import origin_words
from labsupport.explore import View
from labsupport.explore.style import COLOURS

CLAIMS = ("mhc-stable", "mhc-theory", "mhc-fewer-failures", "mhc-time")
STREAMS = ("float32", "bfloat16", "float16")
Row = dict[str, Any]


def rows_of(experiment: str) -> list[Row]:
    rows: list[Row] = load_record("01", experiment)["rows"]
    return rows


def caption(experiment: str) -> str:
    """Where a record comes from."""
    return f"recorded on {origin_words(rows_of(experiment)[0]['origin'])}"


def pick(rows: list[Row], **wanted: Any) -> list[Row]:
    return [row for row in rows if wanted.items() <= row.items()]


def failure_lines(*streams: str) -> list[str]:
    """Failed trainings by residual and precision, over rates, tasks and seeds."""
    rows = rows_of("failures")
    lines = [f"{'ended in NaN':12}" + "".join(f"{s:>14}" for s in streams)]
    for arm in ("residual", "hc", "mhc", "identity"):
        cells = []
        for stream in streams:
            runs = pick(rows, arm=arm, stream=stream)
            cells.append(f"{sum(r['failed'] for r in runs)} of {len(runs)}")
        lines.append(
            f"{NAMES[arm]:12}" + "".join(f"{cell:>14}" for cell in cells)
        )
    return lines


def gain_lines() -> list[str]:
    """The larger of forward and backward gain, median over seeds, by rate."""
    rows = rows_of("gain")
    rates = sorted({row["lr"] for row in rows})
    lines = [f"{'gain at lr':12}" + "".join(f"{rate:>12g}" for rate in rates)]
    for arm in ARMS:
        cells = []
        for rate in rates:
            kept = pick(rows, arm=arm, lr=rate, failed=0)
            gains = [10 ** row["log10_gain"] for row in kept]
            cells.append(statistics.median(gains) if gains else math.nan)
        lines.append(
            f"{NAMES[arm]:12}" + "".join(f"{gain:>12.4g}" for gain in cells)
        )
    return lines


def hc_in_float32() -> tuple[int, int]:
    """How many HC trainings with a float32 stream failed, of how many."""
    rows = pick(rows_of("gain"), arm="hc") + pick(
        rows_of("failures"), arm="hc", stream="float32"
    )
    return sum(row["failed"] for row in rows), len(rows)


def loss_view(yours: dict[str, float] | None = None) -> View:
    """Last loss against learning rate, for each residual, and the reader's dots."""
    rows = rows_of("gain")
    rates = sorted({row["lr"] for row in rows})
    figure = go.Figure()
    table: dict[str, list[Any]] = {"learning rate": rates}
    for number, arm in enumerate(ARMS):
        losses = [
            [r["loss"] for r in pick(rows, arm=arm, lr=rate)] for rate in rates
        ]
        kept = [[v for v in values if v is not None] for values in losses]
        middle = [statistics.median(v) if v else math.nan for v in kept]
        figure.add_scatter(
            x=rates,
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
    figure.update_xaxes(type="log", title_text="highest learning rate")
    figure.update_yaxes(title_text="loss of the last steps (nats per byte)")
    figure.update_layout(
        title={
            "text": f"Five seeds, lowest to highest; {caption('gain')}",
            "font": {"size": 11},
        },
        margin={"t": 92},  # the legend may need two lines
    )
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


def verdict_lines() -> list[str]:
    """The four claims: the article's verdict and the source's."""
    claims = [load_claim(claim) for claim in CLAIMS]
    lines = []
    for row in ledger(claims):
        lines.append(f"{row['claim']}")
        lines.append(f"    article: {row['article']}")
        lines.append(f"    source:  {row['source']}")
    return lines
