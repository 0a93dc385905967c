"""Lab 07's records in words and pictures. They are recorded, not live."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any

from plotly.subplots import make_subplots

from labs.lab_07.experiments import LADDER, LOSSES, RATERS
from labs.lab_07.plan import RL_PLANS
from labsupport.claims.ledger import verdict_lines as ledger_lines
from labsupport.claims.rows import (
    Row,
    gap_words,
    median_words,
    paired,
    pick,
    record_rows,
    recorded_on,
)
from labsupport.explore import View, small_print
from labsupport.explore.style import BLUE, COLOURS, VERMILION
from labsupport.train import Band

CLAIMS = ("rl-no-human",)
RECORDS = (
    *("improve", "start", "gamed", "rates", "ratings", "free"),
    *("ladder", "losses", "boxes", "countdown"),
)
rows_of = partial(record_rows, "07")
words = partial(median_words, digits=3)
verdict_lines = partial(ledger_lines, CLAIMS)


def caption(experiment: str) -> str:
    """Where a record comes from."""
    return recorded_on(rows_of(experiment))


def column(rows: Sequence[Row], name: str) -> list[Any]:
    """A metric of every row."""
    return [row[name] for row in rows]


# --- from random weights ------------------------------------------------------


def before_after(experiment: str, **wanted: Any) -> list[str]:
    """Accuracy and length before and after rewards."""
    rows = pick(rows_of(experiment), **wanted)
    lines = [f"{'':10}{'games won':>26}{'tokens written':>26}"]
    for arm in ("before", "after"):
        mine = pick(rows, arm=arm)
        cells = (
            words(column(mine, "accuracy")),
            median_words(column(mine, "length"), digits=1),
        )
        lines.append(f"{arm:10}" + "".join(f"{cell:>26}" for cell in cells))
    return lines


def improve_lines() -> list[str]:
    """As above, and the seconds from random weights."""
    rows = rows_of("improve")
    spent = {
        arm: column(pick(rows, arm=arm), "spent")
        for arm in ("before", "after")
    }
    lines = before_after("improve")
    lines[0] += f"{'seconds so far':>26}"
    for at, arm in enumerate(spent, 1):
        lines[at] += f"{median_words(spent[arm], digits=0):>26}"
    return lines


def slips_lines() -> list[str]:
    """Where the traces of each seed go wrong, after rewards."""
    return [
        f"seed {row['seed']}: {row['accuracy']:.1%} won, {row['slips']} games with a "
        f"slip, {row['commonest_share']:.0%} of them {row['commonest']}"
        for row in pick(rows_of("improve"), arm="after")
    ]


def improve_answer() -> tuple[float, str]:
    """How often the model wins after rewards."""
    before, after = (
        column(pick(rows_of("improve"), arm=arm), "accuracy")
        for arm in ("before", "after")
    )
    return statistics.median(after), (
        f"Recorded: {words(before)} of the games won before, {words(after)} after "
        "(median of five seeds, lowest and highest)."
    )


def course_view(experiment: str, title: str, **wanted: Any) -> View:
    """Games won and tokens written, rollout by rollout, of every seed."""
    rows = pick(rows_of(experiment), arm="after", **wanted)
    steps = RL_PLANS["cpu"].steps
    figure = make_subplots(
        cols=2,
        horizontal_spacing=0.12,
        subplot_titles=("games won", "tokens written"),
    )
    table: dict[str, list[Any]] = {}
    for col, (name, colour) in enumerate(
        (("reward", BLUE), ("length", VERMILION)), 1
    ):
        for row in rows:
            curve = row[f"{name}_curve"]
            table[f"{name}, seed {row['seed']}"] = curve
            figure.add_scatter(
                x=[steps * (i + 0.5) / len(curve) for i in range(len(curve))],
                y=curve,
                mode="lines",
                line={"color": colour, "width": 1.5},
                name=f"seed {row['seed']}",
                showlegend=False,
                row=1,
                col=col,
            )
    figure.update_layout(title=title, height=380, margin={"t": 84})
    figure.update_xaxes(title="rollout")
    figure.update_yaxes(rangemode="tozero")
    figure.update_yaxes(range=[0, 1.04], row=1, col=1)
    small_print(figure, caption(experiment))
    ends = {
        name: [row[f"{name}_curve"][-1] for row in rows]
        for name in ("reward", "length")
    }
    return View(
        figure,
        f"{len(rows)} seeds. In the last rollouts {words(ends['reward'])} of the games "
        f"are won, with {median_words(ends['length'], digits=1)} tokens (median, "
        "lowest and highest).",
        table,
    )


def reward_band() -> Band:
    """The rewards of the recorded trainings, rollout by rollout."""
    each = column(pick(rows_of("improve"), arm="after"), "rewards")
    together = list(zip(*each, strict=True))
    return Band(
        list(range(1, len(together) + 1)),
        [min(values) for values in together],
        [max(values) for values in together],
        recorded_on(rows_of("improve")).removeprefix("recorded on "),
    )


def start_answer() -> tuple[str, str]:
    """What becomes of the length after too weak a start."""
    rows = pick(rows_of("start"), amount="too little")
    length = {
        arm: column(pick(rows, arm=arm), "length")
        for arm in ("before", "after")
    }
    won = column(pick(rows, arm="after"), "accuracy")
    middle = {arm: statistics.median(each) for arm, each in length.items()}
    grew = middle["after"] - middle["before"]
    answer = "longer" if grew > 1 else "shorter" if grew < -1 else "as long"
    return answer, (
        f"Recorded: from {median_words(length['before'], digits=1)} tokens to "
        f"{median_words(length['after'], digits=1)}, and {words(won)} of the games won "
        "(median of five seeds, lowest and highest)."
    )


# --- a reward with a hole --------------------------------------------------------


def gamed_lines() -> list[str]:
    """What was paid in the last rollouts, and what is right."""
    rows = rows_of("gamed")
    head = ("paid at the end", "games won", "completions that end")
    lines = [f"{'reward':10}" + "".join(f"{name:>26}" for name in head)]
    for arm in ("strict", "lax"):
        mine = pick(rows, arm=arm)
        paid = [row["reward_curve"][-1] for row in mine]
        cells = (paid, column(mine, "accuracy"), column(mine, "ended"))
        lines.append(f"{arm:10}" + "".join(f"{words(c):>26}" for c in cells))
    return lines


def gamed_answer() -> tuple[float, str]:
    """The accuracy behind a reward with a hole."""
    mine = pick(rows_of("gamed"), arm="lax")
    paid = [row["reward_curve"][-1] for row in mine]
    won = column(mine, "accuracy")
    return statistics.median(won), (
        f"Recorded: it is paid for {words(paid)} of its completions, and "
        f"{words(won)} of them are right (median of three seeds, lowest and highest)."
    )


# --- ratings -----------------------------------------------------------------------

RATER_NAMES = {
    "verifier": "a verifier",
    "raters_0": "raters, never wrong",
    "raters_5": "raters, 5 % wrong",
    "raters_20": "raters, 20 % wrong",
}


def ratings_lines() -> list[str]:
    """Accuracy by who gives the rewards."""
    rows = rows_of("ratings")
    lines = [
        f"{'rewards by':22}{'beta':>6}{'pairs agreed':>24}{'games won':>24}"
        f"{'tokens written':>24}"
    ]
    for arm, name in RATER_NAMES.items():
        mine = pick(rows, arm=arm)
        agreed = words(column(mine, "agreement")) if arm in RATERS else "-"
        lines.append(
            f"{name:22}{mine[0]['beta']:>6g}{agreed:>24}"
            f"{words(column(mine, 'accuracy')):>24}"
            f"{median_words(column(mine, 'length'), digits=1):>24}"
        )
    return lines


def free_view() -> View:
    """Truth and score, rollout by rollout, where nothing holds the policy."""
    rows = rows_of("free")
    figure = make_subplots(
        cols=2,
        horizontal_spacing=0.12,
        subplot_titles=("right (the verifier)", "score (the reward model)"),
    )
    table: dict[str, list[Any]] = {}
    for row, colour in zip(rows, COLOURS, strict=False):
        gold, score = smoothed(row["gold"]), row["reward_curve"]
        steps, name = len(gold), f"seed {row['seed']}"
        curves = (
            (list(range(1, steps + 1)), gold),
            (
                [steps * (i + 0.5) / len(score) for i in range(len(score))],
                score,
            ),
        )
        for col, (x, y) in enumerate(curves, 1):
            figure.add_scatter(
                x=x,
                y=y,
                name=name,
                legendgroup=name,
                showlegend=col == 1,
                mode="lines",
                line={"color": colour},
                row=1,
                col=col,
            )
        table[f"right, seed {row['seed']}"] = gold[:: max(1, steps // 20)]
    figure.update_layout(
        title="A score is maximised",
        height=420,
        margin={"t": 110},
        legend={"y": 1.14},
    )
    figure.update_xaxes(title="rollout")
    figure.update_yaxes(range=[0, 1.04], row=1, col=1)
    small_print(figure, caption("free"))
    top = [max(smoothed(row["gold"])) for row in rows]
    end = column(rows, "accuracy")
    return View(
        figure,
        f"The score ends far above its beginning. The share that is right is at most "
        f"{words(top)} on the way, and {words(end)} at the end (median of five seeds, "
        "lowest and highest).",
        table,
    )


def smoothed(values: Sequence[float], width: int = 5) -> list[float]:
    """Means of the last `width` values."""
    return [
        statistics.fmean(values[max(0, i + 1 - width) : i + 1])
        for i in range(len(values))
    ]


def free_answer() -> tuple[str, str]:
    """What becomes of the share that is right."""
    rows = rows_of("free")
    begin = statistics.median([row["gold"][0] for row in rows])
    top = statistics.median([max(smoothed(row["gold"])) for row in rows])
    end = statistics.median(column(rows, "accuracy"))
    if end > top - 0.1:
        answer = "it rises, and stays"
    elif top > begin + 0.1:
        answer = "it rises, then falls"
    else:
        answer = "it falls from the beginning"
    return answer, free_view().sentence


# --- the ladder, and the losses ----------------------------------------------

RUNGS = {
    "reinforce": "A = reward",
    "batch": "- mean of the batch",
    "group": "- mean of the group, / spread",
    "again": "each rollout used twice",
    "clip": "... and clipped (GRPO)",
    "kl": "... and held near (KL)",
}


def variant_lines(experiment: str, names: dict[str, str]) -> list[str]:
    """Accuracy, length and entropy of each variant; the gap to the first."""
    rows = rows_of(experiment)
    baseline = "clip" if experiment == "ladder" else "GRPO"
    lines = [
        f"{'':30}{'games won':>24}{'minus GRPO':>26}{'entropy at the end':>24}"
    ]
    for arm, name in names.items():
        mine = pick(rows, arm=arm)
        gap = paired(
            rows, arm, baseline, lambda a, b: a["accuracy"] - b["accuracy"]
        )
        last = [row["entropy_curve"][-1] for row in mine]
        against = "" if arm == baseline else gap_words(gap)
        lines.append(
            f"{name:30}{words(column(mine, 'accuracy')):>24}{against:>26}"
            f"{words(last):>24}"
        )
    return lines


def twice_lines() -> list[str]:
    """Of the ladder: each rollout used once, twice, and twice with the clip."""
    names = {
        "group": "each rollout used once",
        "again": "twice",
        "clip": "twice, and clipped",
    }
    lines = [f"{'':26}{'games won':>24}   each seed"]
    for arm, name in names.items():
        won = column(pick(rows_of("ladder"), arm=arm), "accuracy")
        each = ", ".join(f"{value:.2f}" for value in won)
        lines.append(f"{name:26}{words(won):>24}   {each}")
    return lines


ladder_lines = partial(variant_lines, "ladder", {a: RUNGS[a] for a in LADDER})
losses_lines = partial(
    variant_lines, "losses", {name: name for name in LOSSES}
)


def boxes_lines() -> list[str]:
    """As `before_after`, and what a model does with its attempts."""
    lines = [*before_after("boxes"), ""]
    heads = ("gives up", "no end", "misread, first 4", "later", "opened again")
    lines.append(f"{'':10}" + "".join(f"{head:>22}" for head in heads))
    for arm in ("before", "after"):
        mine = pick(rows_of("boxes"), arm=arm)
        shares = {
            name: [v for v in column(mine, name) if v is not None]
            for name in ("quits", "ended", "misread", "misread_late", "again")
        }
        shares["ended"] = [1 - share for share in shares["ended"]]
        cells = [
            median_words(values, digits=2) if values else "-"
            for values in shares.values()
        ]
        lines.append(f"{arm:10}" + "".join(f"{cell:>22}" for cell in cells))
    return lines


countdown_lines = partial(before_after, "countdown")
