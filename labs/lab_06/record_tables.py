"""Lab 06's records in words and pictures. They are recorded, not live."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import plotly.graph_objects as go

from labs.lab_06.experiments import ARMS, DEPTHS, LENGTHS, TEXTS
from labsupport.claims.ledger import verdict_lines as ledger_lines
from labsupport.claims.rows import (
    Row,
    median_words,
    pick,
    record_rows,
    recorded_on,
)
from labsupport.explore import View, small_print
from labsupport.explore.style import COLOURS

CLAIMS = ("cot", "cot-faithful")
RECORDS = (
    *("tune", "gap", "depth", "deep", "faithful", "unused", "forced"),
    *("length", "voting", "writing"),
)
CHANCE = 0.2
"""Five cups."""
rows_of = partial(record_rows, "06")
words = partial(median_words, digits=3)
verdict_lines = partial(ledger_lines, CLAIMS)


def caption(experiment: str) -> str:
    """Where a record comes from."""
    return recorded_on(rows_of(experiment))


def column(rows: Sequence[Row], name: str) -> list[Any]:
    """A metric of every row."""
    return [row[name] for row in rows]


# --- equal models, equal tokens -----------------------------------------------------

NAMES = {
    "every": "every state",
    "every_2": "every 2nd state",
    "every_4": "every 4th state",
    "filler": "dots",
    "direct": "the answer at once",
}
WRITTEN = {"every": 15, "every_2": 9, "every_4": 6, "filler": 15, "direct": 3}
"""Tokens of a completion with 12 swaps."""


def gap_lines() -> list[str]:
    """Accuracy of each way to write, and what its training was."""
    rows = rows_of("gap")
    lines = [
        f"{'writes':20}{'tokens':>8}{'steps':>8}{'rate':>8}{'games won':>26}"
    ]
    for arm in ARMS:
        mine = pick(rows, arm=arm)
        first = mine[0]
        lines.append(
            f"{NAMES[arm]:20}{WRITTEN[arm]:>8}{first['steps']:>8}"
            f"{first['lr']:>8g}{words(column(mine, 'accuracy')):>26}"
        )
    return lines


def gap_view(arms: Sequence[str] = ARMS) -> View:
    """A mark for each training."""
    rows = rows_of("gap")
    figure = go.Figure()
    for number, arm in enumerate(arms):
        mine = pick(rows, arm=arm)
        figure.add_scatter(
            x=column(mine, "accuracy"),
            y=[NAMES[arm]] * len(mine),
            mode="markers",
            marker={"color": COLOURS[number], "symbol": number, "size": 12},
            showlegend=False,
            hovertemplate="%{y}: %{x:.1%}<extra></extra>",
        )
    figure.add_vline(x=CHANCE, line={"color": "#6b7280", "dash": "dash"})
    figure.add_annotation(
        x=CHANCE,
        y=1.0,
        yref="paper",
        yanchor="bottom",
        text="a guess",
        showarrow=False,
    )
    figure.update_xaxes(title="share of fresh games won", range=[0, 1.04])
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(
        title="Equal models, equal tokens", margin={"l": 150, "t": 72}
    )
    small_print(figure, caption("gap"))
    middle = {
        NAMES[arm]: statistics.median(column(pick(rows, arm=arm), "accuracy"))
        for arm in arms
    }
    sentence = "Games won, medians of five seeds: " + "; ".join(
        f"{name} {100 * share:.0f} %" for name, share in middle.items()
    )
    return View(
        figure,
        f"{sentence}. A guess wins 20 %.",
        {"writes": list(middle), "won": list(middle.values())},
    )


def gap_answer() -> tuple[float, str]:
    """The opening's question: how often does the model with steps win?"""
    rows = rows_of("gap")
    steps, direct = (
        column(pick(rows, arm=a), "accuracy") for a in ("every", "direct")
    )
    return statistics.median(steps), (
        f"With every state written down: {words(steps)} of the games won, directly: "
        f"{words(direct)} (median of five seeds, lowest and highest)."
    )


def dots_answer() -> tuple[float, str]:
    """How often does the model win that writes dots?"""
    won = column(pick(rows_of("gap"), arm="filler"), "accuracy")
    return statistics.median(won), (
        f"With dots: {words(won)} of the games won (median of five seeds, lowest and "
        "highest)."
    )


# --- depth, length --------------------------------------------------------------------


def depth_lines() -> list[str]:
    """Accuracy by layers and swaps."""
    both = {
        **{n: pick(rows_of("depth"), swaps=n) for n in (2, 4)},
        8: rows_of("deep"),
    }
    head = "".join(f"{f'{n} swaps':>24}" for n in both)
    lines = [f"{'':26}{head}"]
    for arm in DEPTHS:
        way, layers = arm.split("_")
        name = f"{'directly' if way == 'direct' else 'every state'}, {layers} layer"
        cells = "".join(
            f"{words(column(pick(rows, arm=arm), 'accuracy')):>24}"
            for rows in both.values()
        )
        lines.append(f"{name + 's' * (layers != '1'):26}{cells}")
    return lines


def length_lines() -> list[str]:
    """Accuracy by the number of swaps asked, medians of three seeds."""
    rows = rows_of("length")
    head = "".join(f"{n:>7}" for n in LENGTHS)
    lines = [f"{'learned from':24}{head}"]
    names = {
        "fixed": "12 swaps, 1 layer",
        "mixed": "4 to 12 swaps, 1 layer",
        "mixed_2": "4 to 12 swaps, 2 layers",
    }
    for arm, name in names.items():
        each = zip(*column(pick(rows, arm=arm), "accuracy"), strict=True)
        cells = "".join(f"{statistics.median(v):>7.2f}" for v in each)
        lines.append(f"{name:24}{cells}")
    return lines


# --- are the steps used? --------------------------------------------------------------

MODEL_NAMES = {
    "needed": "12 swaps, right steps",
    "easy": "3 swaps, right steps",
    "carried": "3 swaps, slips carried on",
    "mended": "3 swaps, slips mended",
    "forced": "12 swaps, slips mended",
}


def faithful_lines() -> list[str]:
    """What becomes of the answer when a state is changed."""
    rows = [
        row
        for name in ("faithful", "unused", "forced")
        for row in rows_of(name)
    ]
    lines = [
        f"{'learned from':28}{'games won':>24}{'follows':>24}{'stays':>24}"
    ]
    for model, name in MODEL_NAMES.items():
        mine = pick(rows, model=model)
        parts = [
            column(pick(mine, arm="follows"), "accuracy"),
            *(
                column(pick(mine, arm=a), "share")
                for a in ("follows", "stays")
            ),
        ]
        lines.append(f"{name:28}" + "".join(f"{words(p):>24}" for p in parts))
    return lines


def faithful_rows() -> list[Row]:
    """Of all five kinds of models."""
    names = ("faithful", "unused", "forced")
    return [row for name in names for row in rows_of(name)]


def faithful_view(yours: Mapping[str, float] | None = None) -> View:
    """A mark for each model: how often its answer follows, and how often it stays.

    Args:
        yours: "follows" and "stays" of the reader's own model of 12 swaps.
    """
    figure = go.Figure()
    table: dict[str, list[Any]] = {
        name: [] for name in ("learned from", "follows", "stays")
    }
    for number, (model, name) in enumerate(MODEL_NAMES.items()):
        mine = pick(faithful_rows(), model=model)
        follows, stays = (
            column(pick(mine, arm=arm), "share")
            for arm in ("follows", "stays")
        )
        figure.add_scatter(
            x=follows,
            y=stays,
            name=name,
            mode="markers",
            marker={"color": COLOURS[number], "symbol": number, "size": 11},
            hovertemplate="follows %{x:.1%}, stays %{y:.1%}<extra></extra>",
        )
        table["learned from"] += [name] * len(follows)
        table["follows"] += follows
        table["stays"] += stays
    if yours:
        figure.add_scatter(
            x=[yours["follows"]],
            y=[yours["stays"]],
            name="yours, 12 swaps",
            mode="markers",
            marker={"symbol": "star", "size": 15, "color": COLOURS[5]},
        )
    figure.add_scatter(
        x=[0, 1],
        y=[1, 0],
        mode="lines",
        line={"color": "#9ca3af", "dash": "dot"},
        hoverinfo="skip",
        showlegend=False,
    )
    figure.update_xaxes(title="answers that follow", range=[-0.04, 1.06])
    figure.update_yaxes(title="answers that stay", range=[-0.04, 1.06])
    figure.update_layout(
        title="One state changed", height=440, margin={"t": 130}
    )
    small_print(figure, caption("faithful"))
    middle = []
    for model, name in MODEL_NAMES.items():
        mine = pick(faithful_rows(), model=model, arm="follows")
        middle.append(f"{name} {statistics.median(column(mine, 'share')):.0%}")
    return View(
        figure,
        "Answers that follow a changed state, medians over seeds: "
        + "; ".join(middle).replace("%", " %")
        + ".",
        table,
    )


def follow_answer() -> tuple[float, str]:
    """What the model of 12 swaps does when a state is changed."""
    mine = pick(rows_of("faithful"), model="needed")
    follows, stays = (
        column(pick(mine, arm=arm), "share") for arm in ("follows", "stays")
    )
    return statistics.median(follows), (
        f"Recorded: the answer follows in {words(follows)} of the games and stays in "
        f"{words(stays)} (median of five seeds, lowest and highest)."
    )


def easy_answer() -> tuple[str, str]:
    """Which models of three swaps follow a changed state, and how often."""
    follows = {
        name: column(
            pick(faithful_rows(), model=model, arm="follows"), "share"
        )
        for name, model in (("right steps", "easy"), ("slips", "mended"))
    }
    most = [
        n for n, shares in follows.items() if statistics.median(shares) > 0.5
    ]
    answer = {0: "neither", 2: "both"}.get(len(most)) or f"{most[0]} only"
    parts = ", ".join(
        f"{name} {words(shares)}" for name, shares in follows.items()
    )
    return answer, (
        f"Recorded, answers that follow: {parts} (median of five seeds, lowest and "
        "highest)."
    )


# --- votes, cache ---------------------------------------------------------------------


def writing_lines() -> list[str]:
    """Tokens a second, by the number of texts."""
    rows = rows_of("writing")
    head = "".join(f"{f'{n} texts' if n > 1 else '1 text':>28}" for n in TEXTS)
    lines = [f"{'tokens a second':18}{head}"]
    for arm, name in (("again", "all read again"), ("kept", "kept")):
        mine = pick(rows, arm=arm)
        cells = "".join(
            f"{median_words(column(mine, f'rate_{n}'), digits=0):>28}"
            for n in TEXTS
        )
        lines.append(f"{name:18}{cells}")
    return lines


def voting_answer() -> tuple[float, str]:
    """What a vote of 64 adds to one sampled answer, at temperature 1."""
    rows = pick(rows_of("voting"), arm="hasty")
    one, many = ([row["accuracy_1"][at] for row in rows] for at in (0, -1))
    return statistics.median(many), (
        f"One answer is right in {words(one)} of the games, a vote of 64 in "
        f"{words(many)} (median of three seeds, lowest and highest)."
    )
