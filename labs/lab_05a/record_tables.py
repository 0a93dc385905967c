"""Lab 05a's records in words and pictures. They are recorded, not live."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any

import plotly.graph_objects as go

from labsupport.claims.ledger import verdict_lines as ledger_lines
from labsupport.claims.rows import (
    Row,
    gap_words,
    gaps,
    median_words,
    paired,
    pick,
    record_rows,
    recorded_on,
)
from labsupport.explore import View, small_print
from labsupport.explore.style import BLUE, COLOURS, VERMILION

CLAIMS = ("hyb-switch", "hyb-balance", "hyb-sync", "hyb-share", "hyb-batch")
EXPERIMENTS = (
    *("layouts", "predict", "switch", "share", "sync", "schedules"),
    *("balance", "batch"),
)
rows_of = partial(record_rows, "05a")
words = partial(median_words, digits=1)
verdict_lines = partial(ledger_lines, CLAIMS)


def caption(experiment: str) -> str:
    """Where a record comes from."""
    return recorded_on(rows_of(experiment))


def column(rows: Sequence[Row], name: str) -> list[Any]:
    """A metric of every row."""
    return [row[name] for row in rows]


def arms_of(rows: Sequence[Row]) -> list[str]:
    """Arms in the order of the record."""
    return list(dict.fromkeys(column(rows, "arm")))


def mb(size: float | None) -> str:
    """Bytes in 10^6; a dash where there is no formula."""
    return "-" if size is None else f"{size / 1e6:.2f}"


# --- layouts ------------------------------------------------------------------


def layout_lines() -> list[str]:
    """Bytes held and sent, counted and by formula; milliseconds of a step."""
    rows = rows_of("layouts")
    lines = [
        f"{'':40}{'MB held':>9}{'formula':>9}{'MB sent':>9}{'formula':>9}{'left':>8}"
        f"{'ms a step':>22}"
    ]
    for arm in arms_of(rows):
        mine = pick(rows, arm=arm)
        first = mine[0]  # bytes do not depend on the seed
        held = sum(first[n] for n in ("weights", "gradients", "optimizer"))
        cells = "".join(
            f"{mb(size):>{width}}"
            for size, width in (
                (held, 9),
                (first["held_formula"], 9),
                (first["sent"], 9),
                (first["sent_formula"], 9),
                (first["sockets"], 8),
            )
        )
        lines.append(f"{arm:40}{cells}{words(column(mine, 'ms')):>22}")
    return lines


def same_loss_words() -> str:
    """How far dense layouts are apart in the loss after the same steps."""
    rows = rows_of("layouts")
    dense = [row for row in rows if row["sent_formula"] is not None]
    gaps = []
    for seed in sorted(set(column(dense, "seed"))):
        losses = column(pick(dense, seed=seed), "loss")
        gaps.append(max(losses) - min(losses))
    return (
        f"largest difference of the loss between {len(arms_of(dense))} dense layouts, "
        f"same seed: {max(gaps):.5f}"
    )


COLLECTIVES = (
    "all_reduce",
    "all_gather",
    "reduce_scatter",
    "all_to_all",
    "send",
)


def collective_lines() -> list[str]:
    """Calls in a forward and backward, on rank 0."""
    rows = rows_of("layouts")
    head = "".join(f"{name:>15}" for name in COLLECTIVES)
    lines = [f"{'':40}{head}"]
    for arm in arms_of(rows):
        first = pick(rows, arm=arm)[0]
        cells = "".join(f"{first[name]:>15}" for name in COLLECTIVES)
        lines.append(f"{arm:40}{cells}")
    return lines


# --- predicted and measured ------------------------------------------------------

RANKS = {"two_ranks": "2 ranks", "four_ranks": "4 ranks"}


def medians(rows: Sequence[Row], name: str) -> list[float]:
    """Of each layout, over seeds."""
    return [
        statistics.median(each)
        for each in zip(*column(rows, name), strict=True)
    ]


def search_lines(arm: str = "four_ranks") -> list[str]:
    """Layouts in the order of their prediction, with their measured place."""
    rows = pick(rows_of("predict"), arm=arm)
    layouts = rows[0]["layouts"]
    predicted, measured = (
        medians(rows, name) for name in ("predicted_ms", "measured_ms")
    )
    order = sorted(range(len(layouts)), key=predicted.__getitem__)
    places = sorted(range(len(layouts)), key=measured.__getitem__)
    lines = [
        f"{RANKS[arm]:40}{'predicted ms':>14}{'measured ms':>14}{'place':>8}"
    ]
    for i in order:
        place = places.index(i) + 1
        lines.append(
            f"{layouts[i]:40}{predicted[i]:>14.1f}{measured[i]:>14.1f}{place:>8}"
        )
    return lines


def order_lines() -> list[str]:
    """How well the order was foretold: correlation, and what the choice costs."""
    rows = rows_of("predict")
    lines = [f"{'':10}{'order':>24}{'slower than the fastest':>30}"]
    for arm, name in RANKS.items():
        mine = pick(rows, arm=arm)
        regret = words([100 * r for r in column(mine, "regret")])
        lines.append(
            f"{name:10}{words(column(mine, 'order'), digits=2):>24}{regret + ' %':>30}"
        )
    return lines


def predict_view() -> View:
    """Predicted against measured, a mark for each layout."""
    rows = rows_of("predict")
    figure = go.Figure()
    table: dict[str, list[Any]] = {
        name: [] for name in ("ranks", "layout", "predicted ms", "measured ms")
    }
    most = 0.0  # of the predictions
    for number, (arm, name) in enumerate(RANKS.items()):
        mine = pick(rows, arm=arm)
        layouts = mine[0]["layouts"]
        both = [
            [round(ms, 2) for ms in medians(mine, metric)]
            for metric in ("predicted_ms", "measured_ms")
        ]
        figure.add_scatter(
            x=both[0],
            y=both[1],
            text=layouts,
            name=name,
            mode="markers",
            marker={"color": COLOURS[number], "symbol": number, "size": 10},
            hovertemplate="%{text}: %{x} predicted, %{y} measured<extra></extra>",
        )
        most = max(most, *both[0])
        for values, cells in zip(
            table.values(),
            ([name] * len(layouts), layouts, *both),
            strict=True,
        ):
            values += cells
    figure.add_scatter(
        x=[0, most],
        y=[0, most],
        mode="lines",
        line={"dash": "dot", "color": "#6b7280"},
        name="as predicted",
    )
    figure.update_xaxes(title="predicted, ms a step", rangemode="tozero")
    figure.update_yaxes(title="measured, ms a step", rangemode="tozero")
    figure.update_layout(title="Layouts, predicted and run", margin={"t": 96})
    small_print(figure, caption("predict"))
    sentence = "; ".join(" ".join(line.split()) for line in order_lines()[1:])
    return View(
        figure,
        "Correlation of the orders, and how much slower the best of the three that "
        f"were predicted fastest is than the fastest: {sentence}.",
        table,
    )


# --- the switch --------------------------------------------------------------------

SWITCHES = {
    "copies": "copies all along",
    "hybrid": "2 x 2 all along",
    "cut": "cut all along",
    "copies_to_hybrid": "copies, then 2 x 2",
    "cut_to_copies": "cut, then copies",
}
LINKS = {"200mbit": "200 Mbit/s", "unshaped": "free link"}


def loss_gap(row: Row, other: Row) -> float:
    """The largest difference of two trainings' losses, step by step."""
    return max(
        abs(a - b) for a, b in zip(row["loss"], other["loss"], strict=True)
    )


def switch_lines(link: str = "200mbit") -> list[str]:
    """Time of a step in each half, the change's own, all of it; and the losses."""
    rows = rows_of("switch")
    lines = [
        f"{LINKS[link]:20}{'ms before':>24}{'ms after':>24}{'switch, s':>20}"
        f"{'all, s':>20}{'loss gap':>10}"
    ]
    for arm, name in SWITCHES.items():
        mine = pick(rows, arm=arm)
        gap = max(paired(rows, arm, "copies", loss_gap))
        cells = (
            f"{words(column(mine, f'ms_before_{link}')):>24}"
            f"{words(column(mine, f'ms_after_{link}')):>24}"
            f"{words(column(mine, f'switch_s_{link}'), digits=2):>20}"
            f"{words(column(mine, f'total_s_{link}'), digits=1):>20}"
        )
        lines.append(f"{name:20}{cells}{gap:>10.1e}")
    return lines


def break_even_words(link: str = "200mbit") -> str:
    """How many short steps, cut, pay for one change of layouts; from medians."""
    rows = rows_of("switch")

    def middle(arm: str, metric: str) -> float:
        return statistics.median(
            column(pick(rows, arm=arm), f"{metric}_{link}")
        )

    gain = middle("copies", "ms_before") - middle("cut_to_copies", "ms_before")
    cost = 1e3 * middle("cut_to_copies", "switch_s")
    if gain <= 0:
        return f"{LINKS[link]}: cut, no short step is faster."
    return (
        f"{LINKS[link]}: cut, a short step takes {gain:.0f} ms less. The switch takes "
        f"{cost:.0f} ms: {math.ceil(cost / gain)} short steps pay for it. Here there "
        f"were {len(rows[0]['loss']) // 2}."
    )


def switch_view() -> View:
    """The loss of a training that changes its layout, over one that does not."""
    rows = rows_of("switch")
    seed = rows[0]["seed"]
    figure = go.Figure()
    table: dict[str, list[Any]] = {}
    for arm, colour, dash in (
        ("copies", BLUE, "solid"),
        ("cut_to_copies", VERMILION, "dot"),
    ):
        (row,) = pick(rows, arm=arm, seed=seed)
        losses = row["loss"]
        table.setdefault("step", list(range(len(losses))))
        table[SWITCHES[arm]] = losses
        figure.add_scatter(
            x=table["step"],
            y=losses,
            name=SWITCHES[arm],
            line={"color": colour, "dash": dash, "width": 3},
        )
    half = len(table["step"]) // 2
    figure.add_vline(x=half - 0.5, line={"color": "#111827", "width": 1})
    figure.update_xaxes(title="step; sequences grow at the line")
    figure.update_yaxes(title="loss, nats a byte")
    figure.update_layout(
        title="A change of layouts in the middle", margin={"t": 96}
    )
    small_print(figure, caption("switch"))
    gap = max(paired(rows, "cut_to_copies", "copies", loss_gap))
    return View(
        figure,
        f"At step {half} one of two trainings changes its layout. Over all seeds and "
        f"steps their losses differ by {gap:.1e} at most.",
        table,
    )


# --- sums, sharing, schedules ---------------------------------------------------------

WAYS = {
    "per_gradient": "a message for each gradient",
    "one_message": "one message for all",
    "buckets": "buckets, during the backward",
    "every_piece": "buckets, after each of 4 pieces",
    "last_piece": "buckets, after the last piece",
}


def sync_lines() -> list[str]:
    """Messages, bytes, and milliseconds of a step over each link."""
    rows = rows_of("sync")
    lines = [
        f"{'ms a step':34}{'messages':>9}{'MB sent':>9}"
        + "".join(f"{name:>27}" for name in LINKS.values())
    ]
    for arm, name in WAYS.items():
        mine = pick(rows, arm=arm)
        cells = "".join(
            f"{words(column(mine, f'ms_{link}')):>27}" for link in LINKS
        )
        first = mine[0]
        lines.append(
            f"{name:34}{first['messages']:>9}{mb(first['sent']):>9}{cells}"
        )
    return lines


SHARES = {
    "untied": "two matrices, copies",
    "tied": "one matrix, copies",
    "untied_sharded": "two matrices, shards",
    "tied_sharded": "one matrix, shards",
}


def best_rate(rows: Sequence[Row]) -> list[Row]:
    """The rows of the learning rate with the lowest mean validation loss."""

    def mean(lr: float) -> float:
        return statistics.fmean(column(pick(rows, lr=lr), "validation"))

    return pick(rows, lr=min(sorted(set(column(rows, "lr"))), key=mean))


def share_lines() -> list[str]:
    """What tying and cutting save, and what they cost; each arm at its best rate."""
    rows = rows_of("share")
    base = best_rate(pick(rows, arm="untied"))
    lines = [
        f"{'two ranks':24}{'weights':>9}{'MB held':>9}{'MB sent':>9}{'rate':>8}"
        f"{'validation loss':>24}{'against the first':>26}"
    ]
    for arm, name in SHARES.items():
        mine = best_rate(pick(rows, arm=arm))
        first = mine[0]
        gap = ""
        if arm != "untied":
            gap = gap_words(gaps([*base, *mine], arm, "untied"))
        lines.append(
            f"{name:24}{first['numbers']:>9,}{mb(first['held']):>9}"
            f"{mb(first['sent']):>9}{first['lr']:>8g}"
            f"{words(column(mine, 'validation'), digits=3):>24}{gap:>26}".rstrip()
        )
    return lines


def schedule_lines() -> list[str]:
    """Milliseconds of a step by schedule and microbatches; the formula's bubble."""
    rows = rows_of("schedules")
    pieces = sorted(set(column(rows, "microbatches")))
    head = "".join(f"{f'{m} microbatches':>30}" for m in pieces)
    lines = [f"{'ms a step, bubble':24}{head}"]
    for arm in arms_of(rows):
        cells = ""
        for m in pieces:
            mine = pick(rows, arm=arm, microbatches=m)
            cell = f"{words(column(mine, 'ms'))}, {mine[0]['pause']:.0%}"
            cells += f"{cell:>30}"
        lines.append(f"{arm.replace('_', ' '):24}{cells}")
    return lines


# --- unequal ranks, and batches ------------------------------------------------------

BALANCES = {
    "equal": "rank 1 slow, equal batches",
    "balanced": "rank 1 slow, balanced",
    "turn_equal": "by turns, equal batches",
    "turn_balanced": "by turns, balanced",
}
BATCHES = {
    "small": "small all along",
    "large": "large all along",
    "adaptive": "follows the noise scale",
}


def balance_lines() -> list[str]:
    """Two ranks, of which one is three times slower."""
    rows = rows_of("balance")
    lines = [f"{'two ranks':28}{'ms a step':>24}{'waiting, %':>24}"]
    for arm, name in BALANCES.items():
        mine = pick(rows, arm=arm)
        idle = words([100 * share for share in column(mine, "idle")])
        lines.append(f"{name:28}{words(column(mine, 'ms')):>24}{idle:>24}")
    return lines


def batch_lines() -> list[str]:
    """Three rules for the batch: the loss at each rate, and the updates it took."""
    rows = rows_of("batch")
    rates = sorted(set(column(rows, "lr")))
    head = "".join(f"{f'loss at {rate:g}':>24}" for rate in rates)
    lines = [f"{'batch':28}{head}{'steps':>8}"]
    for arm, name in BATCHES.items():
        mine = pick(rows, arm=arm)
        cells = "".join(
            f"{words(column(pick(mine, lr=rate), 'validation'), digits=3):>24}"
            for rate in rates
        )
        steps = round(statistics.median(column(mine, "steps")))
        lines.append(f"{name:28}{cells}{steps:>8}")
    return lines
