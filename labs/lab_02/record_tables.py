"""Lab 02's records in words and pictures. They are recorded, not live."""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any

import plotly.graph_objects as go

from labs.lab_02 import language, toy_runs
from labs.lab_02.bars_explorer import load_view
from labs.lab_02.experiments import (
    ALPHAS,
    RULE_SPEEDS,
    SIZES,
    chosen,
    coefficient_of,
)
from labs.lab_02.toy_runs import NAMES
from labsupport.claims.ledger import verdict_lines as ledger_lines
from labsupport.claims.rows import (
    Row,
    median_words,
    pick,
    record_rows,
    recorded_on,
)
from labsupport.explore import View, small_print
from labsupport.explore.style import COLOURS, RECORDED

CLAIMS = (
    "moe-cheaper",
    "moe-scale",
    "moe-specialise",
    "lb-aux-compute",
    "lb-aux-quality",
)
rows_of = partial(record_rows, "02")
verdict_lines = partial(ledger_lines, CLAIMS)


def caption(experiment: str) -> str:
    """Where a record comes from."""
    return recorded_on(rows_of(experiment))


def words(rows: list[Row], metric: str, digits: int = 3) -> str:
    """ "0.054 (0.053 - 0.056)"."""
    return median_words([row[metric] for row in rows], digits)


def opening_lines() -> list[str]:
    """The router left to itself, over the recorded language trainings."""
    lines = [f"{'learning rate':14}{'seed':>5}{'MaxVio':>8}{'dead of 48':>12}"]
    for row in pick(rows_of("language"), arm="none"):
        lines.append(
            f"{row['lr']:<14g}{row['seed']:>5}{row['max_vio']:>8.2f}{row['dead']:>12}"
        )
    return lines


def collapse_view() -> View:
    """Loads of one recorded router that was left to itself: last layer."""
    rows = pick(rows_of("language"), arm="none")
    row = pick(rows, lr=max(r["lr"] for r in rows))[0]
    loads = [
        float(sum(column)) for column in zip(*row["tables"][-1], strict=True)
    ]
    even = statistics.fmean(loads)
    view = load_view(
        [round(load / even, 3) for load in loads],
        None,
        f"Last layer, validation text (rate {row['lr']:g}, seed {row['seed']})",
    )
    small_print(view.figure, recorded_on([row]))
    return view


def collapse_against_balance() -> tuple[float, str]:
    """Loss of the unbalanced model minus the loss-free one's, and in words.

    The median over learning rates and seeds of the paired difference.
    """
    rows = rows_of("language")
    gaps = [
        mine["validation"] - other["validation"]
        for mine in pick(rows, arm="none")
        for other in pick(rows, arm="free", seed=mine["seed"], lr=mine["lr"])
    ]
    gap = statistics.median(gaps)
    return gap, (
        f"No balancing minus loss-free: {gap:+.3f} nats a byte (median of {len(gaps)} "
        f"pairs; {min(gaps):+.3f} to {max(gaps):+.3f})."
    )


def language_view() -> View:
    """Validation loss against MaxVio of every recorded language training."""
    rows = rows_of("language")
    low, high = sorted({row["lr"] for row in rows})
    figure = go.Figure()
    table: dict[str, list[Any]] = {"model": [], "loss": [], "MaxVio": []}
    symbols = ("circle", "square", "diamond")
    for number, arm in enumerate(("none", "sequence", "free")):
        symbol = symbols[number]
        mine = pick(rows, arm=arm)
        figure.add_scatter(
            x=[row["max_vio"] for row in mine],
            y=[row["validation"] for row in mine],
            mode="markers",
            name=language.NAMES[arm].removeprefix("experts, "),
            marker={
                "size": 11,
                "color": COLOURS[number],
                "symbol": [
                    symbol + "-open" * (row["lr"] == low) for row in mine
                ],
            },
        )
        for row in mine:
            table["model"].append(language.NAMES[arm])
            table["loss"].append(row["validation"])
            table["MaxVio"].append(row["max_vio"])
    for rate in (low, high):
        dense = statistics.median(
            row["validation"] for row in pick(rows, arm="dense", lr=rate)
        )
        figure.add_hline(
            y=dense,
            line={"color": "#6b7280", "dash": "dot"},
            annotation_text=f"dense of the same computation, rate {rate:g}",
            annotation_position="top",
        )
    figure.update_xaxes(title="MaxVio on the validation text (0: even)")
    figure.update_yaxes(title="validation loss (nats a byte)")
    figure.update_layout(
        title=f"Loss and balance of the GPT (open: rate {low:g}, full: {high:g})"
    )
    small_print(figure, caption("language"))
    sentence = "Loss of " + "; ".join(
        f"{language.NAMES[arm]}: {words(pick(rows, arm=arm), 'validation')}"
        for arm in ("none", "sequence", "free", "dense")
    )
    return View(figure, sentence + ".", table)


def sweep_lines(experiment: str, arms: tuple[str, ...]) -> list[str]:
    """Loss and MaxVio by coefficient, mean over the tuning seeds; * is chosen."""
    rows = rows_of(experiment)
    lines = [f"{'':26}{'coefficient':>12}{'loss':>9}{'MaxVio':>9}"]
    for arm in arms:
        best = chosen(experiment, arm)
        for level in range(len(ALPHAS)):
            mine = pick(rows, arm=arm, level=level)
            value = coefficient_of(arm, level)
            loss, violation = (
                statistics.fmean(row[name] for row in mine)
                for name in ("validation", "max_vio")
            )
            mark = " *" if value == best else ""
            lines.append(
                f"{NAMES[arm]:26}{value:>12g}{loss:>9.4f}{violation:>9.2f}{mark}"
            )
    return lines


def balance_lines() -> list[str]:
    """Fresh tasks, each method at its chosen coefficient: medians and ranges."""
    rows = rows_of("balance")
    lines = [
        f"{'':26}{'loss':>22}{'MaxVio':>21}",
        f"{'':26}{'told of the domain':>22}{'dead, all seeds':>21}",
    ]
    for arm in toy_runs.ARMS:
        mine = pick(rows, arm=arm)
        lines.append(
            f"{NAMES[arm]:26}{words(mine, 'validation'):>22}"
            f"{words(mine, 'max_vio', 2):>21}"
        )
        lines.append(
            f"{'':26}{words(mine, 'information', 2):>22}"
            f"{sum(row['dead'] for row in mine):>21}"
        )
    return lines


def batch_size_view() -> View:
    """MaxVio against how many sequences are computed together."""
    rows = rows_of("balance")
    figure = go.Figure()
    table: dict[str, list[Any]] = {}
    for number, arm in enumerate(toy_runs.ARMS):
        mine = [row["max_vio_by_size"] for row in pick(rows, arm=arm)]
        middle = [
            statistics.median(column) for column in zip(*mine, strict=True)
        ]
        sizes = [2**i for i in range(len(middle))]
        table["sequences"], table[NAMES[arm]] = sizes, middle
        figure.add_scatter(
            x=sizes,
            y=middle,
            name=NAMES[arm],
            mode="lines+markers",
            line={"color": COLOURS[number]},
        )
    figure.update_xaxes(
        type="log", title="sequences computed together", dtick="L1"
    )
    figure.update_xaxes(tickvals=sizes, ticktext=[str(size) for size in sizes])
    figure.update_yaxes(title="MaxVio, mean", rangemode="tozero")
    figure.update_layout(
        title="How even loads are depends on how much is computed together",
        margin={"t": 92},
    )
    small_print(figure, caption("balance"))
    ends = "; ".join(
        f"{NAMES[arm]} {table[NAMES[arm]][0]:.2f} and {table[NAMES[arm]][-1]:.2f}"
        for arm in toy_runs.ARMS
    )
    sentence = f"MaxVio of one sequence, and of {sizes[-1]} together: {ends}."
    return View(figure, sentence, table)


def update_lines() -> list[str]:
    """The rules of moving a bias, at three speeds each."""
    rows = rows_of("updates")
    lines = [f"{'rule':16}{'speed':>8}{'loss':>27}{'MaxVio':>22}"]
    for arm, speeds in RULE_SPEEDS.items():
        for level, speed in enumerate(speeds):
            mine = pick(rows, arm=arm, level=level)
            lines.append(
                f"{arm:16}{speed:>8g}{words(mine, 'validation', 4):>27}"
                f"{words(mine, 'max_vio', 2):>22}"
            )
    return lines


def language_lines() -> list[str]:
    """Every model of the language record: weights, computation, loss by rate."""
    rows = rows_of("language")
    rates = sorted({row["lr"] for row in rows})
    head = "".join(f"{f'loss at {rate:g}':>24}" for rate in rates)
    lines = [f"{'':28}{'all':>6}{'active':>8}{head}"]
    for arm in language.ARMS:
        mine = pick(rows, arm=arm)
        weights = (
            f"{mine[0]['total'] / 1e3:5.0f}k{mine[0]['active'] / 1e3:7.0f}k"
        )
        cells = "".join(
            f"{words(pick(mine, lr=rate), 'validation'):>24}" for rate in rates
        )
        lines.append(f"{language.NAMES[arm]:28}{weights}{cells}")
    return lines


def size_lines() -> list[str]:
    """Weights, FLOPs, memory and time of a decoding step, by number of experts."""
    rows = rows_of("size")
    lines = [f"{'experts':>7}{'weights':>10}{'MB':>8}{'FLOPs':>10}{'ms':>24}"]
    for arm, experts in SIZES.items():
        mine = pick(rows, arm=arm)
        first = mine[0]
        lines.append(
            f"{experts:>7}{first['total']:>10,}{first['megabytes']:>8.2f}"
            f"{first['flops']:>10,}{words(mine, 'ms', 2):>24}"
        )
    return lines


def time_lines() -> list[str]:
    """How much longer a step takes than without balancing."""
    rows = rows_of("time")
    names = {"again": "no balancing, once more"} | NAMES
    return [
        f"{names[arm]:26}{words(pick(rows, arm=arm), 'ratio')}"
        for arm in ("again", "sequence", "batch", "free")
    ]


def toy_view(yours: dict[str, dict[str, float]] | None = None) -> View:
    """Loss against MaxVio on the toy task: sweeps as dots, fresh tasks as marks.

    Args:
        yours: arm -> validation and max_vio of the reader's own runs.
    """
    figure = go.Figure()
    sweeps, reports = rows_of("sweep"), rows_of("balance")
    table: dict[str, list[Any]] = {"method": [], "loss": [], "MaxVio": []}
    for number, arm in enumerate(toy_runs.ARMS):
        colour = COLOURS[number]
        dots = pick(sweeps, arm=arm)
        figure.add_scatter(
            x=[row["max_vio"] for row in dots],
            y=[row["validation"] for row in dots],
            mode="markers",
            marker={"color": colour, "size": 6, "opacity": 0.35},
            showlegend=False,
            hoverinfo="skip",
        )
        mine = pick(reports, arm=arm)
        figure.add_scatter(
            x=[row["max_vio"] for row in mine],
            y=[row["validation"] for row in mine],
            mode="markers",
            name=NAMES[arm],
            marker={"color": colour, "size": 12, "symbol": number},
        )
        for row in mine:
            table["method"].append(NAMES[arm])
            table["loss"].append(row["validation"])
            table["MaxVio"].append(row["max_vio"])
    for arm, found in (yours or {}).items():
        figure.add_scatter(
            x=[found["max_vio"]],
            y=[found["validation"]],
            mode="markers",
            name=f"yours, {NAMES[arm]}",
            marker={
                "size": 16,
                "symbol": "star",
                "color": COLOURS[toy_runs.ARMS.index(arm)],
                "line": {"color": "black", "width": 1},
            },
        )
    figure.add_vrect(x0=0, x1=0.5, fillcolor=RECORDED, line_width=0)
    figure.update_xaxes(
        title="MaxVio on validation data (grey: counts as balanced)"
    )
    ticks = (0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.4)
    figure.update_yaxes(
        title="validation loss (MSE)",
        type="log",
        tickvals=ticks,
        ticktext=ticks,
    )
    figure.update_layout(
        title="Loss and balance on the toy (small: sweeps, large: fresh tasks)",
        margin={"t": 92},
    )
    small_print(figure, caption("balance"))
    sentence = "On fresh tasks: " + "; ".join(
        f"{NAMES[arm]}: loss {words(pick(reports, arm=arm), 'validation')}, MaxVio "
        f"{words(pick(reports, arm=arm), 'max_vio', 2)}"
        for arm in toy_runs.ARMS
    )
    return View(figure, sentence + ".", table)
