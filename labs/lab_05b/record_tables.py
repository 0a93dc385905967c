"""Lab 05b's records in words and pictures. They are recorded, not live."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any

import plotly.graph_objects as go

from labs.lab_05b.arms import ARMS, NAMES, STREAM_ARMS, TUNED
from labs.lab_05b.experiments import EPSILONS
from labs.lab_05b.plan import TEXTS
from labs.lab_05b.refit import plain_size
from labs.lab_05b.step_costs import HEADLINE_ARMS
from labs.lab_05b.writing import WRITERS
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
from labsupport.explore import View, small_print
from labsupport.explore.style import BLUE, COLOURS, VERMILION

CLAIMS = ("hyb-1.6-4.4", "hyb-2x", "hyb-64", "hyb-days")
rows_of = partial(record_rows, "05b")
gaps = partial(seed_gaps, baseline="plain")
verdict_lines = partial(ledger_lines, CLAIMS)


def caption(experiment: str) -> str:
    """Where a record comes from."""
    return recorded_on(rows_of(experiment))


def middle(rows: Sequence[Row], metric: str) -> float:
    """The median over seeds."""
    return statistics.median(row[metric] for row in rows)


# --- the published table ---------------------------------------------------------


def published_lines() -> list[str]:
    """The plain model of equal loss, with one training left out of each fit."""
    rows = rows_of("published")
    lines = [f"{'':24}{'as good as plain, billions':>28}{'k':>24}"]
    for arm, name in (
        ("small", "1.6B, 1 stream"),
        ("small_8", "1.6B, 8 streams"),
    ):
        mine = pick(rows, arm=arm)
        sizes = words([row["effective"] for row in mine], 2)
        k = words([row["k"] for row in mine])
        lines.append(f"{name:24}{sizes:>28}{k:>24}")
    return lines


# --- small models ------------------------------------------------------------------


def scaling_lines() -> list[str]:
    """Every arm: parameters, FLOPs in all, learning rate, loss, gap to plain."""
    rows = rows_of("scaling")
    plain = middle(pick(rows, arm="plain"), "flops")
    lines = [
        f"{'':32}{'weights':>9}{'FLOPs':>7}{'rate':>8}{'validation loss':>23}"
        f"{'against plain':>26}"
    ]
    for arm in ARMS:
        mine = pick(rows, arm=arm)
        loss = words([row["validation"] for row in mine])
        gap = "" if arm == "plain" else gap_words(gaps(rows, arm))
        times = f"{middle(mine, 'flops') / plain:.1f} x"
        lines.append(
            f"{NAMES[arm]:32}{mine[0]['parameters']:>9,}{times:>7}"
            f"{mine[0]['lr']:>8g}{loss:>23}{gap:>26}".rstrip()
        )
    return lines


def own_sizes() -> dict[str, float]:
    """By arm: the plain model of equal loss, over the plain model's weights.

    On the curve of plain models of the same number of tokens; NaN beyond its ends.
    """
    rows = rows_of("scaling")

    def mean(arm: str) -> float:
        return statistics.fmean(r["validation"] for r in pick(rows, arm=arm))

    def blocks(arm: str) -> int:
        return int(pick(rows, arm=arm)[0]["blocks"])

    curve = sorted((blocks(a), mean(a)) for a in ("plain", "law8", "wide8"))
    sizes, losses = zip(*curve, strict=True)
    return {
        arm: plain_size(mean(arm), sizes, losses) / sizes[0]
        for arm in ("prefix", *STREAM_ARMS)
    }


def own_size_lines() -> list[str]:
    """The same in words."""
    lines = []
    for arm, times in own_sizes().items():
        found = (
            "outside the sizes that were trained"
            if times != times  # NaN
            else f"{times:.2f} times the weights"
        )
        lines.append(f"{NAMES[arm]:28}as good as a plain model of {found}")
    return lines


def stream_lines() -> list[str]:
    """How different streams are, and who is listened to."""
    rows = rows_of("scaling")
    lines = [f"{'':16}{'alike':>24}{'even':>24}{'one':>24}"]
    for arm in STREAM_ARMS:
        mine = pick(rows, arm=arm)
        cells = "".join(
            f"{words([row[name] for row in mine]):>24}"
            for name in ("alike", "even", "one")
        )
        lines.append(f"{NAMES[arm]:16}{cells}")
    return lines


def smoothing_lines() -> list[str]:
    """Four streams with three smoothings."""
    rows = rows_of("smoothing")
    lines = [f"{'':16}{'validation loss':>24}{'even':>24}{'one':>24}"]
    for arm, eps in EPSILONS.items():
        mine = pick(rows, arm=arm)
        cells = "".join(
            f"{words([row[name] for row in mine]):>24}"
            for name in ("validation", "even", "one")
        )
        lines.append(f"{f'eps = {eps:g}':16}{cells}")
    return lines


def tuning_lines() -> list[str]:
    """The mean loss of every learning rate; the best of each arm is marked."""
    rows = rows_of("tuning")
    rates = sorted({row["lr"] for row in rows})
    lines = [f"{'':32}" + "".join(f"{rate:>12g}" for rate in rates)]
    for arm in TUNED:
        means = [
            statistics.fmean(
                r["validation"] for r in pick(rows, arm=arm, lr=rate)
            )
            for rate in rates
        ]
        cells = "".join(
            f"{mean:>10.4f}{' *' if mean == min(means) else '  '}"
            for mean in means
        )
        lines.append(f"{NAMES[arm]:32}{cells}".rstrip())
    return lines


def scaling_view() -> View:
    """Loss of every arm over its FLOPs, a mark for each seed."""
    rows = rows_of("scaling")
    base = middle(pick(rows, arm="plain"), "flops")
    figure = go.Figure()
    table: dict[str, list[Any]] = {"arm": [], "FLOPs": [], "loss": []}
    for number, arm in enumerate(ARMS):
        mine = pick(rows, arm=arm)
        streams = arm in STREAM_ARMS or arm == "prefix"
        xs = [round(row["flops"] / base, 3) for row in mine]
        ys = [round(row["validation"], 4) for row in mine]
        figure.add_scatter(
            x=xs,
            y=ys,
            mode="markers",
            name=NAMES[arm],
            marker={
                "color": VERMILION if streams else BLUE,
                "symbol": number,
                "size": 10,
                "opacity": 0.8,
            },
        )
        table["arm"] += [NAMES[arm]] * len(mine)
        table["FLOPs"] += xs
        table["loss"] += ys
    figure.update_xaxes(
        title="training FLOPs, times the plain model's", type="log"
    )
    figure.update_yaxes(title="validation loss, nats a byte")
    figure.update_layout(
        title="What FLOPs buy",
        legend={"orientation": "v", "x": 1.02, "y": 1, "yanchor": "top"},
        height=430,
    )
    small_print(figure, caption("scaling"))
    sentence = "Median loss: " + "; ".join(
        f"{NAMES[arm]} {middle(pick(rows, arm=arm), 'validation'):.3f}"
        for arm in ARMS
    )
    return View(figure, sentence + ".", table)


# --- a step in the headline's proportions --------------------------------------------

HEADLINE_NAMES = {
    "plain": "1 stream",
    "p8": "8 streams",
    "large": "plain, 2.77 times as large",
}


def headline_lines() -> list[str]:
    """FLOPs, seconds and bytes, all over those of the larger plain model."""
    rows = rows_of("headline")
    large = pick(rows, arm="large")
    lines = [
        f"{'over the larger plain model':30}{'FLOPs':>8}{'seconds':>24}{'states':>9}"
        f"{'kept':>9}{'bytes':>9}"
    ]
    for arm in HEADLINE_ARMS:
        mine = pick(rows, arm=arm)
        times = []
        for row in mine:
            (other,) = pick(large, seed=row["seed"])
            times.append(row["times"] / other["times"])
        cells = [
            f"{middle(mine, name) / middle(large, name):>{width}.2f}"
            for name, width in (
                ("flops", 8),
                ("states", 9),
                ("kept", 9),
                ("bytes", 9),
            )
        ]
        spent = f"{words(times, 2):>24}"
        name = HEADLINE_NAMES[arm]
        lines.append(f"{name:30}{cells[0]}{spent}{''.join(cells[1:])}")
    return lines


def pace_lines() -> list[str]:
    """A step of the trainings above, over the plain model's."""
    rows = rows_of("pace")
    return [
        f"{NAMES[arm]:12}{words([r['times'] for r in pick(rows, arm=arm)], 2):>24}"
        for arm in ("plain", *STREAM_ARMS)
    ]


# --- writing -------------------------------------------------------------------------

WRITER_NAMES = {
    "plain": "plain",
    "p2": "2 streams",
    "p4": "4 streams",
    "p8": "8 streams",
    "equal": "plain, size by the law for 8",
}


def writing_lines() -> list[str]:
    """Time of a token and memory over the plain model's, by texts at a time."""
    rows = rows_of("writing")
    head = "".join(f"{f'{n} texts' if n > 1 else '1 text':>10}" for n in TEXTS)
    lines = [f"{'over the plain model':30}time:{head}   memory:{head}"]
    plain = pick(rows, arm="plain")
    for arm in WRITERS:
        mine = pick(rows, arm=arm)
        times = "".join(f"{middle(mine, f'times_{n}'):>10.2f}" for n in TEXTS)
        memory = "".join(
            f"{_memory(mine, n) / _memory(plain, n):>10.2f}" for n in TEXTS
        )
        lines.append(f"{WRITER_NAMES[arm]:30}     {times}          {memory}")
    return lines


def _memory(rows: Sequence[Row], texts: int) -> float:
    return middle(rows, "weights") + middle(rows, f"cache_{texts}")


def more_lines() -> list[str]:
    """What one text costs more than with the plain model."""
    rows = rows_of("writing")
    lines = [
        f"{'more than plain, 1 text':30}{'ms a token':>26}{'megabytes':>12}"
    ]
    for arm in WRITERS[1:]:
        mine = pick(rows, arm=arm)
        ms = words([row["more_ms"] for row in mine], 2)
        megabytes = middle(mine, "more_bytes") / 1e6
        lines.append(f"{WRITER_NAMES[arm]:30}{ms:>26}{megabytes:>12.1f}")
    return lines


def writing_view() -> View:
    """Milliseconds a token by the number of texts, for every writer."""
    rows = rows_of("writing")
    figure = go.Figure()
    table: dict[str, list[Any]] = {"texts": list(TEXTS)}
    for number, arm in enumerate(WRITERS):
        mine = pick(rows, arm=arm)
        ms = [round(middle(mine, f"ms_{n}"), 2) for n in TEXTS]
        figure.add_scatter(
            x=list(TEXTS),
            y=ms,
            mode="lines+markers",
            name=WRITER_NAMES[arm],
            line={"color": COLOURS[number]},
            marker={"symbol": number, "size": 9},
        )
        table[WRITER_NAMES[arm]] = ms
    figure.update_xaxes(
        title="texts written at a time", type="log", tickvals=list(TEXTS)
    )
    figure.update_yaxes(
        title="ms for one more token of each",
        type="log",
        tickvals=[20, 50, 100, 200, 500, 1000],
    )
    figure.update_layout(title="Writing", margin={"t": 110})
    small_print(figure, caption("writing"))
    sentence = "Milliseconds for 1 and for 64 texts: " + "; ".join(
        f"{name} {values[0]:g} and {values[-1]:g}"
        for name, values in list(table.items())[1:]
    )
    return View(figure, sentence + ".", table)
