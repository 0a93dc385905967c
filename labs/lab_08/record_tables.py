"""Lab 08's records in words. They are recorded, not live."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any

from labs.lab_07.plan import RL_PLANS, WARM
from labs.lab_08.experiments import (
    COUNTS,
    GRID_COUNTS,
    GRID_WIDTHS,
    RATES,
    TEXT_ARMS,
    TEXTS,
    WRITING,
    best_of,
)
from labs.lab_08.plan import PLANS
from labs.lab_08.students import ARMS
from labs.lab_08.teacher import shipped_teacher
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
from labsupport.distill.compute import weights

CLAIMS = ("kd", "kd-device")
RECORDS = (
    "rates",
    "ways",
    "examples",
    "scores",
    "losses",
    "size",
    "data",
    "width_rates",
    "kept",
    "longer",
    "text",
    "device",
)
rows_of = partial(record_rows, "08")
words = partial(median_words, digits=3)
verdict_lines = partial(ledger_lines, CLAIMS)

NAMES = {
    "labels": "answers alone",
    "traces": "the teacher's traces",
    "right": "... the right ones",
    "logits": "right traces' scores",
    "on_policy": "right ones, own writing",
    "rewards": "examples, then rewards",
    "labels_rl": "answers, then rewards",
}


def caption(experiment: str) -> str:
    """Where a record comes from."""
    return recorded_on(rows_of(experiment))


def column(rows: Sequence[Row], name: str) -> list[Any]:
    """A metric of every row."""
    return [row[name] for row in rows]


# --- ways to learn ----------------------------------------------------------------


def ways_lines() -> list[str]:
    """Games won by each way, and the gap to right traces."""
    rows = rows_of("ways")
    lines = [
        f"{'':24}{'games won':>24}{'minus right traces':>26}{'updates':>9}"
        f"{'teacher':>9}{'seconds':>9}"
    ]
    for arm in ARMS:
        mine = pick(rows, arm=arm)
        gap = paired(
            rows, arm, "right", lambda a, b: a["accuracy"] - b["accuracy"]
        )
        against = "" if arm == "right" else gap_words(gap)
        lines.append(
            f"{NAMES[arm]:24}{words(column(mine, 'accuracy')):>24}{against:>26}"
            f"{statistics.median(column(mine, 'steps')):>9.0f}"
            f"{statistics.median(column(mine, 'teacher_share')):>9.0%}"
            f"{statistics.median(column(mine, 'spent')):>9.0f}"
        )
    return lines


def teacher_flops() -> float:
    """What the teacher's own training cost: its warm start, and 100 rollouts."""
    N = weights(shipped_teacher("cpu").model)
    game, plan = PLANS["cpu"].game, RL_PLANS["cpu"]
    rows = plan.completions
    learned = WARM.tokens + rows * (game.max_len - 1)
    # A prompt is read once for its whole group.
    written = rows * game.longest + rows // plan.group * game.prompt_length
    return 6.0 * N * learned + 2.0 * N * written


def teacher_line() -> str:
    """The bill that no student pays."""
    cost, budget = teacher_flops(), PLANS["cpu"].budget
    return (
        f"The teacher's own training: {cost / 1e9:,.0f} GFLOPs, {cost / budget:.1f} "
        "times a student's budget."
    )


def examples_line() -> str:
    """What the examples teach without rewards."""
    rows = rows_of("examples")
    best = column(pick(rows, lr=best_of(RATES, rows, "lr")), "accuracy")
    return f"The examples alone, for the whole budget: {words(best)} of the games."


def ways_answer(arm: str) -> tuple[float, str]:
    """How many games are won by one way."""
    won = column(pick(rows_of("ways"), arm=arm), "accuracy")
    return statistics.median(won), (
        f"Recorded: {words(won)} of the games are won (median of {len(won)} seeds, "
        "lowest and highest)."
    )


def right_answer() -> tuple[str, str]:
    """How a student of right traces does beside its teacher."""
    won, sentence = ways_answer("right")
    teacher = float(shipped_teacher("cpu").about["games won"].split()[0])
    if won > teacher + 0.01:
        answer = "more than the teacher"
    elif won > 0.75:
        answer = "nearly as many games as the teacher"
    else:
        answer = "about half"
    return answer, f"{sentence} The teacher wins {teacher:.3f}."


def same_traces(arm: str, writing: float) -> list[Row]:
    """Students of the same traces, at the best of three learning rates."""
    rows = pick(rows_of("scores"), arm=arm, writing=writing)
    return pick(rows, lr=best_of(RATES, rows, "lr"))


def scores_answer() -> tuple[str, str]:
    """Whether scores of the same traces teach more than their tokens."""
    tokens, scores = (
        column(same_traces(arm, WRITING), "accuracy")
        for arm in ("right", "logits")
    )
    gap = [a - b for a, b in zip(scores, tokens, strict=True)]
    more = statistics.median(scores) > statistics.median(tokens)
    return "more games" if more else "as many, or fewer", (
        f"Recorded: {words(scores)} of the games from scores, {words(tokens)} from "
        f"tokens of the same traces; the difference {gap_words(gap)}."
    )


def losses_lines() -> list[str]:
    """Three divergences from the same scores."""
    rows = rows_of("losses")
    lines = [f"{'':24}{'games won':>24}{'minus forward':>26}"]
    for arm, name in (
        ("forward", "forward, beta = 0"),
        ("jsd", "between, beta = 0.5"),
        ("reverse", "reverse, beta = 1"),
    ):
        won = column(pick(rows, arm=arm), "accuracy")
        gap = paired(
            rows, arm, "forward", lambda a, b: a["accuracy"] - b["accuracy"]
        )
        against = "" if arm == "forward" else gap_words(gap)
        lines.append(f"{name:24}{words(won):>24}{against:>26}")
    return lines


# --- size and data ------------------------------------------------------------------


def size_line() -> str:
    """Answers alone, by width: no width helps."""
    rows = pick(rows_of("size"), arm="labels")
    widths, won = column(rows, "width"), column(rows, "accuracy")
    return (
        f"Answers alone, widths {min(widths)} to {max(widths)}: {min(won):.2f} to "
        f"{max(won):.2f} of the games won ({len(rows)} students)."
    )


def data_lines() -> list[str]:
    """Games won by how many traces the teacher wrote, from tokens and from scores."""
    full = PLANS["cpu"].traces
    lines = [f"{'traces':>8}{'their tokens':>24}{'their scores':>24}"]
    for count in (*COUNTS, full):
        found = ""
        for arm in ("right", "logits"):
            rows = (
                same_traces(arm, WRITING)
                if count == full
                else pick(rows_of("data"), arm=arm, traces=count)
            )
            found += f"{words(column(rows, 'accuracy')):>24}"
        lines.append(f"{count:>8}{found}")
    return lines


def few_answer() -> tuple[str, str]:
    """Which student learns most of the fewest traces."""
    few = GRID_COUNTS[0]
    by_width = {width: grid_won(width, few) for width in GRID_WIDTHS}
    best = max(by_width, key=by_width.__getitem__)
    said = ", ".join(f"width {w}: {won:.2f}" for w, won in by_width.items())
    return f"width {best}", (
        f"Recorded, games won of {few} traces (medians of three seeds): {said}."
    )


def longer_lines() -> list[str]:
    """Games won by wide students with a multiple of the FLOPs."""
    lines = [
        f"{'width':>6}{'traces':>8}{'FLOPs':>8}{'updates':>9}{'games won':>24}"
    ]
    for width, traces in ((32, GRID_COUNTS[0]), (64, GRID_COUNTS[-1])):
        cell = {"width": width, "traces": traces}
        for rows in (
            pick(rows_of("kept"), **cell),
            pick(rows_of("longer"), **cell),
        ):
            times = f"x {rows[0].get('times', 1)}"
            lines.append(
                f"{width:>6}{traces:>8}{times:>8}"
                f"{statistics.median(column(rows, 'steps')):>9.0f}"
                f"{words(column(rows, 'accuracy')):>24}"
            )
    return lines


def grid_won(width: int, traces: int) -> float:
    """The median of games won in a cell of the grid."""
    rows = pick(rows_of("kept"), width=width, traces=traces)
    return statistics.median(column(rows, "accuracy"))


# --- text ----------------------------------------------------------------------------

TEXT_NAMES = {
    "labels": "the text",
    "labels_more": "the text, as many FLOPs",
    "1": "scores, T = 1",
    "2": "scores, T = 2",
    "4": "scores, T = 4",
    "half": "half text, half scores",
}


def best_text(arm: str, little: bool) -> list[Row]:
    """The rows of an arm at its better learning rate."""
    rows = pick(rows_of("text"), arm=arm, little=little)
    rates = sorted({row["lr"] for row in rows})
    return min(
        (pick(rows, lr=lr) for lr in rates),
        key=lambda mine: statistics.fmean(column(mine, "loss")),
    )


def text_lines() -> list[str]:
    """Validation loss by way to learn, with all of the text and with little."""
    lines = [
        f"{'':26}{'all of the text':>26}{'30 kB of it':>26}{'GFLOPs':>10}"
    ]
    for arm in TEXT_ARMS:
        whole, little = best_text(arm, False), best_text(arm, True)
        lines.append(
            f"{TEXT_NAMES[arm]:26}{words(column(whole, 'loss')):>26}"
            f"{words(column(little, 'loss')):>26}"
            f"{statistics.median(column(whole, 'flops')):>10.0f}"
        )
    return lines


# --- on this machine -----------------------------------------------------------------


MODELS = ("teacher", "student")


def device_lines() -> list[str]:
    """Bytes and tokens a second."""
    rows = rows_of("device")
    heads = "".join(f"{f'{n} at once':>26}" for n in TEXTS)
    lines = [f"{'tokens a second':20}{'kB':>8}{heads}"]
    for arm in MODELS:
        mine = pick(rows, arm=arm)
        rates = "".join(
            f"{median_words(column(mine, f'rate_{n}'), digits=0):>26}"
            for n in TEXTS
        )
        lines.append(f"{arm:20}{mine[0]['bytes'] / 1000:>8.0f}{rates}")
    return lines
