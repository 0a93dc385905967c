"""Lab 03's records in words and pictures. They are recorded, not live."""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any

import plotly.graph_objects as go

from labs.lab_03 import language, moments
from labsupport.claims.ledger import verdict_lines as ledger_lines
from labsupport.claims.rows import Row, pick, record_rows, recorded_on
from labsupport.claims.verdict import confidence
from labsupport.explore import View, small_print
from labsupport.explore.style import COLOURS

CLAIMS = ("fp8-close", "fp8-compute", "fp8-memory")
rows_of = partial(record_rows, "03")
verdict_lines = partial(ledger_lines, CLAIMS)


def caption(experiment: str) -> str:
    """Where a record comes from."""
    return recorded_on(rows_of(experiment))


def words(rows: list[Row], metric: str) -> str:
    """ "2.089 (2.083 - 2.095)": median, lowest and highest."""
    values = [row[metric] for row in rows]
    return f"{statistics.median(values):.3f} ({min(values):.3f} - {max(values):.3f})"


def gaps(rows: list[Row], arm: str, baseline: str = "bf16") -> list[float]:
    """Validation loss over the baseline's of the same seed, minus 1."""
    found = []
    for row in pick(rows, arm=arm):
        (other,) = pick(rows, arm=baseline, seed=row["seed"])
        found.append(row["validation"] / other["validation"] - 1)
    return found


def gap_words(found: list[float]) -> str:
    """ "+0.12 % [-0.05, 0.29]"."""
    mean, low, high = (100 * value for value in confidence(found))
    return f"{mean:+.2f} % [{low:+.2f}, {high:+.2f}]"


def opening_lines() -> list[str]:
    """The model whose operands are just cast, beside bfloat16."""
    rows = rows_of("language")
    lines = [f"{'':16}{'validation loss, by seed':>40}"]
    for arm in ("bf16", "unscaled"):
        values = "".join(
            f"{row['validation']:>8.3f}" for row in pick(rows, arm=arm)
        )
        lines.append(f"{language.NAMES[arm]:16}{values}")
    return lines


def _lines(experiment: str, arms: tuple[str, ...]) -> list[str]:
    rows = rows_of(experiment)
    lines = [f"{'':28}{'validation loss':>23}{'against bfloat16':>26}"]
    for arm in arms:
        mine = pick(rows, arm=arm)
        gap = "" if arm == "bf16" else gap_words(gaps(rows, arm))
        lines.append(
            f"{language.NAMES[arm]:28}{words(mine, 'validation'):>23}{gap:>26}".rstrip()
        )
    return lines


def language_lines() -> list[str]:
    """Every precision: loss, and paired gap to bfloat16."""
    return _lines("language", language.ARMS)


def outliers_lines() -> list[str]:
    """The same with outlier channels."""
    return _lines("outliers", ("bf16", "tile", "block", "tensor"))


def language_view(yours: dict[str, float] | None = None) -> View:
    """Gap to bfloat16 of every precision, a mark for each seed.

    Args:
        yours: losses of the reader's own run of the same length.
    """
    rows = rows_of("language")
    arms = [arm for arm in language.ARMS if arm not in ("bf16", "unscaled")]
    figure = go.Figure()
    table: dict[str, list[Any]] = {"model": [], "gap in percent": []}
    for number, arm in enumerate(arms):
        found = [round(100 * gap, 3) for gap in gaps(rows, arm)]
        figure.add_scatter(
            x=found,
            y=[language.NAMES[arm]] * len(found),
            mode="markers",
            marker={
                "color": COLOURS[number],
                "size": 11,
                "symbol": number,
            },
            showlegend=False,
        )
        table["model"] += [language.NAMES[arm]] * len(found)
        table["gap in percent"] += found
    if yours is not None:
        middle = statistics.median(
            row["validation"] for row in pick(rows, arm="bf16")
        )
        figure.add_scatter(
            x=[100 * (yours["validation"] / middle - 1)],
            y=[language.NAMES["tile"]],
            mode="markers",
            name="yours",
            marker={"symbol": "star", "size": 16, "color": "black"},
        )
    figure.add_vrect(
        x0=-0.25,
        x1=0.25,
        fillcolor="#e5e7eb",
        line_width=0,
        layer="below",
        annotation_text="within 0.25 %",
        annotation_position="top",
    )
    figure.update_xaxes(title="validation loss against bfloat16's, percent")
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(
        title="How far from bfloat16 each one ends, by seed",
        margin={"l": 200, "t": 92},
    )
    small_print(figure, caption("language"))
    sentence = "Mean gap to bfloat16: " + "; ".join(
        f"{language.NAMES[arm]} {gap_words(gaps(rows, arm))}" for arm in arms
    )
    return View(figure, sentence + ".", table)


def memory_lines() -> list[str]:
    """What a training step keeps, in kilobytes."""
    rows = rows_of("memory")
    columns = {
        "weights": "weights",
        "gradients": "gradients",
        "moments": "moments",
        "kept_linear": "for the backward",
        "kept": "of all layers",
        "total": "all",
    }
    head = "".join(f"{title:>18}" for title in columns.values())
    lines = [
        f"{'kB':26}"
        + "".join(f"{title:>11}" for title in ("weights", "gradients"))
    ]
    lines = [f"{'kB':26}{head}"]
    for arm in ("fp32", "bf16", "tile", "tensor"):
        row = pick(rows, arm=arm)[0]
        cells = "".join(f"{row[name] / 1e3:>18,.0f}" for name in columns)
        lines.append(f"{language.NAMES[arm]:26}{cells}")
    return lines


def moments_lines() -> list[str]:
    """Adam's moments in fewer and fewer bits."""
    rows = rows_of("moments")
    lines = [f"{'moments in':30}{'bytes a weight':>16}{'validation loss':>26}"]
    for arm in moments.STORES:
        mine = pick(rows, arm=arm)
        sound = [row for row in mine if row["validation"] is not None]
        cell = words(sound, "validation") if sound else ""
        if len(sound) < len(mine):
            cell += f" {len(mine) - len(sound)} of {len(mine)} ended at NaN"
        lines.append(
            f"{moments.NAMES[arm]:30}{moments.BYTES[arm]:>16g}{cell:>26}"
        )
    return lines
