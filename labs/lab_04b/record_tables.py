"""Lab 04b's records in words and pictures. They are recorded, not live."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any

import plotly.graph_objects as go

from labs.lab_04b import balance_runs, noise_runs, slices
from labs.lab_04b.exploring import ARMS, NAMES, TRIALS
from labs.lab_04b.plan import CHECKS
from labsupport.claims.ledger import verdict_lines as ledger_lines
from labsupport.claims.rows import (
    Row,
    gap_words,
    pick,
    record_rows,
    recorded_on,
)
from labsupport.claims.rows import gaps as seed_gaps
from labsupport.claims.rows import median_words as words
from labsupport.claims.verdict import confidence
from labsupport.explore import View, small_print
from labsupport.explore.style import COLOURS

CLAIMS = ("agf-landscape", "agf-resources")
rows_of = partial(record_rows, "04b")
gaps = partial(seed_gaps, baseline="plain")
verdict_lines = partial(ledger_lines, CLAIMS)
HALF = "plain, half the gradients"


def caption(experiment: str) -> str:
    """Where a record comes from."""
    return recorded_on(rows_of(experiment))


def name_of(arm: str) -> str:
    """As tables call it."""
    return HALF if arm == "half" else NAMES[arm]


def setting_words(row: Row) -> str:
    """ "0.004, 0.02": learning rate and strength."""
    strength = row["strength"]
    return f"{row['lr']:g}" + ("" if strength is None else f", {strength:g}")


# --- unequal workers ---------------------------------------------------------


def balance_lines() -> list[str]:
    """Step time, bound, waiting and batches, by arm."""
    rows = rows_of("balance")
    lines = [
        f"{'rank 1 is':28}{'ms a step':>24}{'bound':>8}{'waiting':>9}  batches"
    ]
    for arm, name in balance_runs.NAMES.items():
        mine = pick(rows, arm=arm)
        ms = words([row["ms"] for row in mine], 1)
        bound = statistics.median(row["bound_ms"] for row in mine)
        idle = statistics.median(row["idle"] for row in mine)
        batches = " and ".join(str(b) for b in mine[0]["batches"])
        lines.append(f"{name:28}{ms:>24}{bound:>8.1f}{idle:>9.1%}  {batches}")
    return lines


def slowdown_words() -> str:
    """How much slower rank 1 really was, by the fitted costs."""
    found = [row["ratio"] for row in pick(rows_of("balance"), arm="balanced")]
    return f"time per sample, rank 1 over rank 0: {words(found, 2)}"


# --- exploring ----------------------------------------------------------------


def tuning_lines() -> list[str]:
    """The mean loss of every setting; the best of each arm is marked."""
    rows = rows_of("tuning")
    lines = []
    for arm in ARMS:
        means = [
            statistics.fmean(
                row["validation"] for row in pick(rows, arm=arm, trial=i)
            )
            for i in range(len(TRIALS[arm]))
        ]
        lines.append(f"{NAMES[arm]}")
        for trial, mean in zip(TRIALS[arm], means, strict=True):
            mark = "  <- best" if mean == min(means) else ""
            setting = setting_words(vars(trial))
            lines.append(f"    {setting:16}{mean:.4f}{mark}")
    return lines


def _explore_lines(experiment: str) -> list[str]:
    rows = rows_of(experiment)
    lines = [
        f"{'':28}{'setting':>14}{'validation loss':>24}{'against plain':>26}"
    ]
    for arm in (*ARMS, "half"):
        mine = pick(rows, arm=arm)
        loss = words([row["validation"] for row in mine])
        gap = "" if arm == "plain" else gap_words(gaps(rows, arm))
        lines.append(
            f"{name_of(arm):28}{setting_words(mine[0]):>14}{loss:>24}{gap:>26}".rstrip()
        )
    return lines


explore_lines = partial(_explore_lines, "explore")
repeated_lines = partial(_explore_lines, "repeated")


def curve_lines() -> list[str]:
    """Mean validation loss along the way, at equal numbers of gradients."""
    rows = rows_of("explore")
    head = "".join(f"{f'{i}/{CHECKS}':>8}" for i in range(1, CHECKS + 1))
    lines = [f"{'share of the gradients':24}{head}"]
    for arm in ARMS:
        curves = [row["curve"] for row in pick(rows, arm=arm)]
        cells = "".join(
            f"{statistics.fmean(column):>8.3f}"
            for column in zip(*curves, strict=True)
        )
        lines.append(f"{NAMES[arm]:24}{cells}")
    return lines


def rise_lines() -> list[str]:
    """How much the loss rises nearby: sharpness, on both texts."""
    lines = [f"{'':28}{'once':>24}{'eight times':>24}"]
    for arm in (*ARMS, "half"):
        cells = "".join(
            f"{words([row['rise'] for row in pick(rows_of(name), arm=arm)]):>24}"
            for name in ("explore", "repeated")
        )
        lines.append(f"{name_of(arm):28}{cells}")
    return lines


CHOICES = (
    "SAM or ASAM, which look around",
    "EMA or LAWA, which average",
    "none of them: plain is as low",
)
"""Of the guess which arm ends lowest."""


def explore_answer() -> str:
    """The arm that is lowest, if its 95 % interval lies below plain's loss."""
    rows = rows_of("explore")
    spans = {
        arm: confidence(gaps(rows, arm)) for arm in ARMS if arm != "plain"
    }
    lower = [arm for arm, (_, _, high) in spans.items() if high < 0]
    if not lower:
        return CHOICES[2]
    best = min(lower, key=lambda arm: spans[arm][0])
    return CHOICES[best in ("ema", "lawa")]


def explore_view() -> View:
    """Gap to plain of every arm, a mark for each seed."""
    rows = rows_of("explore")
    figure = go.Figure()
    table: dict[str, list[Any]] = {"arm": [], "gap": []}
    arms = [arm for arm in (*ARMS, "half") if arm != "plain"]
    for number, arm in enumerate(arms):
        found = [round(gap, 4) for gap in gaps(rows, arm)]
        figure.add_scatter(
            x=found,
            y=[name_of(arm)] * len(found),
            mode="markers",
            marker={"color": COLOURS[number], "size": 11, "symbol": number},
            showlegend=False,
        )
        table["arm"] += [name_of(arm)] * len(found)
        table["gap"] += found
    figure.add_vline(x=0, line={"color": "#111827", "width": 1})
    figure.update_xaxes(
        title="validation loss minus plain's with the same seed, nats a byte"
    )
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(
        title="At equal gradient evaluations, by seed", margin={"l": 200}
    )
    small_print(figure, caption("explore"))
    sentence = "Mean gap to plain: " + "; ".join(
        f"{name_of(arm)} {gap_words(gaps(rows, arm))}" for arm in arms
    )
    return View(figure, sentence + ".", table)


def share_lines(arms: Sequence[str] = slices.ARMS) -> list[str]:
    """How much of the path each plane shows."""
    rows = rows_of("slices")
    lines = [f"{'of the path a plane shows':28}{'random':>12}{'path':>12}"]
    for arm in arms:
        mine = pick(rows, arm=arm)
        shares = [
            statistics.median(row["share"] for row in pick(mine, plane=plane))
            for plane in slices.PLANES
        ]
        cells = "".join(f"{share:>12.1%}" for share in shares)
        lines.append(f"{NAMES[arm]:28}{cells}")
    return lines


# --- noise and batches ----------------------------------------------------------


def noise_lines() -> list[str]:
    """Noise scale by window, over all seeds: means before the ratio."""
    rows = rows_of("noise")
    mine, known = pick(rows, arm="gpt"), pick(rows, arm="known")
    lines = [
        f"{'window':8}{'loss':>8}{'|G|^2':>10}{'tr':>8}{'B_simple, sequences':>22}"
    ]
    for i in range(noise_runs.WINDOWS):
        loss, signal, noise = (
            statistics.fmean(row[name][i] for row in mine)
            for name in ("loss", "signal", "noise")
        )
        scale = f"{noise / signal:.1f}" if signal > 0 else "not above noise"
        lines.append(
            f"{i + 1:<8}{loss:>8.3f}{signal:>10.4f}{noise:>8.3f}{scale:>22}"
        )
    totals = [
        statistics.fmean(statistics.fmean(row[name]) for row in known)
        for name in ("noise", "signal")
    ]
    lines.append(
        f"control: made with {noise_runs.KNOWN:g}, found {totals[0] / totals[1]:.1f}"
    )
    return lines


BATCH_NAMES = {
    "small": "8 all along",
    "large": "64 all along",
    "adaptive": "follows the noise scale",
}


def batch_lines() -> list[str]:
    """Each rule at the learning rate that suits it best."""
    rows = rows_of("batch")
    lines = [
        f"{'batch':26}{'rate':>8}{'validation loss':>24}{'steps':>8}  batches"
    ]
    for arm, name in BATCH_NAMES.items():
        mine = pick(rows, arm=arm)
        rates = sorted({row["lr"] for row in mine})

        def mean(lr: float, of: list[Row] = mine) -> float:
            return statistics.fmean(
                row["validation"] for row in pick(of, lr=lr)
            )

        best = pick(mine, lr=min(rates, key=mean))
        loss = words([row["validation"] for row in best])
        steps = round(statistics.median(row["steps"] for row in best))
        taken = ", ".join(str(b) for b in best[0]["batches"])
        lines.append(
            f"{name:26}{best[0]['lr']:>8g}{loss:>24}{steps:>8}  {taken}"
        )
    return lines
