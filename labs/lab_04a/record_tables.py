"""Lab 04a's records in words and pictures. They are recorded, not live."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any

import plotly.graph_objects as go

from labs.lab_04a.experiments import DIRECTIONS, FEEDBACK, TARGET, TIMED
from labs.lab_04a.link_model import Machine, MethodCost, step_time
from labs.lab_04a.methods import ARMS, COMPARED, MEET_EVERY, arm_of
from labs.lab_04a.plan import HELD_OUT, LINKS
from labsupport.claims.claim import load_claim
from labsupport.claims.ledger import ledger
from labsupport.claims.rows import (
    Row,
    gap_words,
    median_words,
    pick,
    record_rows,
    recorded_on,
)
from labsupport.claims.rows import gaps as seed_gaps
from labsupport.distributed.link_fit import Link, fit_link
from labsupport.explore import View, small_print
from labsupport.explore.style import COLOURS

CLAIMS = ("agf-traffic", "agf-time", "agf-cost", "agf-steps", "agf-scale")
rows_of = partial(record_rows, "04a")
gaps = partial(seed_gaps, baseline="ddp")


def verdict_lines() -> list[str]:
    """For each claim its name, sentence and verdict; no source of them is known."""
    lines = []
    for row in ledger([load_claim(claim) for claim in CLAIMS]):
        lines += [
            f"{row['claim']}: {row['sentence']}",
            f"    {row['article']}",
        ]
    return lines


def caption(experiment: str) -> str:
    """Where a record comes from."""
    return recorded_on(rows_of(experiment))


def words(rows: list[Row], metric: str, digits: int = 3) -> str:
    """ "2.089 (2.083 - 2.095)": median, lowest and highest."""
    values = [row[metric] for row in rows if row[metric] is not None]
    if not values:
        return "never"
    return median_words(values, digits)


FEEDBACK_NAMES = {
    "ddp": "everything",
    "top_k": "top-k, 3 %, rest kept",
    "top_k_forgets": "top-k, 3 %, rest forgotten",
    "random_k": "random, 9 %",
    "random_k_forgets": "random, 9 %, rest forgotten",
    "low_rank": "4 directions",
    "low_rank_forgets": "4 directions, rest forgotten",
    "sgd": "SGD, everything",
    "sgd_top_k": "SGD, top-k, 3 %",
    "sgd_top_k_forgets": "SGD, top-k, rest forgotten",
}
assert FEEDBACK_NAMES.keys() == FEEDBACK.keys()


def feedback_lines() -> list[str]:
    """With and without error feedback."""
    rows = rows_of("feedback")
    lines = [f"{'sent':30}{'validation loss':>24}{'kB a step':>12}"]
    for arm, name in FEEDBACK_NAMES.items():
        mine = pick(rows, arm=arm)
        kilobytes = statistics.median(row["sent"] for row in mine) / 1e3
        lines.append(
            f"{name:30}{words(mine, 'validation'):>24}{kilobytes:>12,.0f}"
        )
    return lines


def opening_lines() -> list[str]:
    """Top-k that forgets, beside everything: losses by seed."""
    rows = rows_of("feedback")
    lines = [f"{'':30}validation loss, by seed"]
    for arm in ("ddp", "top_k_forgets"):
        values = "".join(
            f"{row['validation']:>8.3f}" for row in pick(rows, arm=arm)
        )
        lines.append(f"{FEEDBACK_NAMES[arm]:30}{values}")
    return lines


def feedback_answer() -> tuple[str, str]:
    """The right choice of the prediction: where top-k with feedback ends."""
    rows = rows_of("feedback")
    ddp, kept, lost = (
        statistics.median(r["validation"] for r in pick(rows, arm=arm))
        for arm in ("ddp", "top_k", "top_k_forgets")
    )
    regained = (lost - kept) / (lost - ddp)
    if regained > 0.9:
        answer = "where everything is sent"
    elif regained > 0.1:
        answer = "somewhere between"
    else:
        answer = "where it was without a memory"
    return answer, (
        f"Everything: {ddp:.3f} nats a byte. Top-k without feedback {lost:.3f}, "
        f"with feedback {kept:.3f}: {regained:.0%} of the way back."
    )


def feedback_view() -> View:
    """Validation loss by step, with and without feedback, one seed a line."""
    rows = rows_of("feedback")
    figure = go.Figure()
    table: dict[str, list[Any]] = {"arm": [], "seed": [], "last": []}
    for number, arm in enumerate(("ddp", "top_k", "top_k_forgets")):
        for place, row in enumerate(pick(rows, arm=arm)):
            curve = row["curve"]
            figure.add_scatter(
                x=[25 * (i + 1) for i in range(len(curve))],
                y=curve,
                mode="lines",
                name=FEEDBACK_NAMES[arm],
                line={
                    "color": COLOURS[number],
                    "dash": ("solid", "dash", "dot")[number],
                },
                showlegend=place == 0,
            )
            table["arm"].append(FEEDBACK_NAMES[arm])
            table["seed"].append(row["seed"])
            table["last"].append(curve[-1])
    figure.update_xaxes(title="step")
    figure.update_yaxes(title="validation loss, nats a byte")
    figure.update_layout(title="Error feedback, three seeds each")
    small_print(
        figure,
        f"{caption('feedback')}. On a part of the validation text, so a little higher.",
    )
    return View(figure, feedback_answer()[1], table)


CORE = tuple(
    arm
    for arm in COMPARED
    if arm not in ("power_sgd_1", "power_sgd_2", "random_k")
)
"""What the core shows of the comparison; all arms stand in a deep part."""


def compared_lines(arms: Sequence[str] = COMPARED) -> list[str]:
    """Arms at their best settings."""
    rows = rows_of("compared")
    lines = [
        f"{'':26}{'kB a step':>10}{'against DDP, nats':>26}"
        f"{'steps to ' + str(TARGET):>24}"
    ]
    for arm in arms:
        mine = pick(rows, arm=arm)
        kilobytes = statistics.median(row["sent"] for row in mine) / 1e3
        gap = "" if arm == "ddp" else gap_words(gaps(rows, arm))
        late = sum(not row["reached"] for row in mine)
        steps = words(mine, "steps_to_target", 0)
        if late:
            steps = f"{late} of {len(mine)} do not reach it"
        lines.append(
            f"{arm_of(arm).title:26}{kilobytes:>10,.0f}{gap:>26}{steps:>24}"
        )
    return lines


def chosen_lines() -> list[str]:
    """All trials: the loss of each arm's four settings."""
    rows = rows_of("tune")
    lines = [f"{'':26}{'validation loss of trials 1 to 4':>34}"]
    for arm in COMPARED:
        losses = [
            statistics.fmean(
                r["validation"] for r in pick(rows, arm=arm, trial=trial)
            )
            for trial in range(len(ARMS[arm].trials))
        ]
        best = min(range(len(losses)), key=losses.__getitem__)
        cells = "".join(
            f"{loss:>9.3f}{'*' if place == best else ' '}"
            for place, loss in enumerate(losses)
        )
        lines.append(f"{arm_of(arm).title:26}{cells}")
    return lines


def experts_lines() -> list[str]:
    """The same order with experts in the model?"""
    rows = rows_of("experts")
    lines = [f"{'':26}{'kB a step':>10}{'against DDP, nats':>26}"]
    for arm in dict.fromkeys(row["arm"] for row in rows):
        kilobytes = (
            statistics.median(r["sent"] for r in pick(rows, arm=arm)) / 1e3
        )
        gap = "" if arm == "ddp" else gap_words(gaps(rows, arm))
        lines.append(f"{arm_of(arm).title:26}{kilobytes:>10,.0f}{gap:>26}")
    return lines


ALLOCATIONS = {
    "agf_uniform": "all alike",
    "agf_signal": "by signal",
    "agf_random": "at random",
}


def budget_lines() -> list[str]:
    """Loss by budget and by how it is shared out."""
    rows = rows_of("budget")
    lines = [
        f"{'directions':>10}{'kB a step':>11}"
        + "".join(f"{name:>24}" for name in ALLOCATIONS.values())
    ]
    for r in DIRECTIONS:
        same = pick(rows, r=r)
        kilobytes = statistics.median(row["sent"] for row in same) / 1e3
        cells = "".join(
            f"{words(pick(same, arm=arm), 'validation'):>24}"
            for arm in ALLOCATIONS
        )
        lines.append(f"{r:>10}{kilobytes:>11,.0f}{cells}")
    return lines


def budget_view() -> View:
    """Loss against bytes, a line for each way to share them out."""
    rows = rows_of("budget")
    figure = go.Figure()
    table: dict[str, list[Any]] = {"shared out": [], "kB": [], "loss": []}
    for number, (arm, name) in enumerate(ALLOCATIONS.items()):
        sizes, middles = [], []
        for r in DIRECTIONS:
            mine = pick(rows, arm=arm, r=r)
            sizes.append(statistics.median(row["sent"] for row in mine) / 1e3)
            middles.append(
                statistics.median(row["validation"] for row in mine)
            )
            figure.add_scatter(
                x=[row["sent"] / 1e3 for row in mine],
                y=[row["validation"] for row in mine],
                mode="markers",
                marker={"color": COLOURS[number], "symbol": number},
                showlegend=False,
            )
            table["shared out"].append(name)
            table["kB"].append(round(sizes[-1], 1))
            table["loss"].append(round(middles[-1], 4))
        figure.add_scatter(
            x=sizes,
            y=middles,
            mode="lines",
            name=name,
            line={
                "color": COLOURS[number],
                "dash": ("solid", "dash", "dot")[number],
            },
        )
    figure.update_xaxes(title="kB that a worker sends in a step", type="log")
    figure.update_yaxes(title="validation loss, nats a byte")
    figure.update_layout(title="Budget and loss")
    small_print(figure, caption("budget"))
    by = [
        table["loss"][place :: len(DIRECTIONS)]
        for place in range(len(DIRECTIONS))
    ]
    ends = [statistics.median(losses) for losses in (by[0], by[-1])]
    apart = max(max(losses) - min(losses) for losses in by)
    sentence = (
        f"From {sizes[0]:.0f} to {sizes[-1]:.0f} kB a step the median loss goes from "
        f"{ends[0]:.2f} to {ends[-1]:.2f}. At equal budgets the three ways are "
        f"{apart:.3f} apart, at most."
    )
    return View(figure, sentence, table)


def clip_lines() -> list[str]:
    """Gaps to everything sent by clipping; how many steps are clipped at 1."""
    rows = rows_of("clip")
    clips = list(dict.fromkeys(row["clip"] for row in rows))
    lines = [
        f"{'clip':26}"
        + "".join(f"{clip:>26}" for clip in clips)
        + f"{'steps clipped':>16}"
    ]
    for arm in dict.fromkeys(row["arm"] for row in rows):
        cells = ""
        for clip in clips:
            same = pick(rows, clip=clip)
            cell = (
                words(pick(same, arm=arm), "validation")
                if arm == "ddp"
                else gap_words(gaps(same, arm))
            )
            cells += f"{cell:>26}"
        clipped = statistics.median(
            row["clipped"] for row in pick(rows, arm=arm, clip="1")
        )
        lines.append(f"{arm_of(arm).title:26}{cells}{clipped:>16.0%}")
    return lines


def redundancy_view() -> View:
    """The mean cosine between workers' gradients, over training."""
    rows = rows_of("redundancy")
    figure = go.Figure()
    table: dict[str, list[Any]] = {"seed": [], "first step": [], "last": []}
    for number, row in enumerate(rows):
        # Three windows in one: what single ones add is noise.
        size = 3 * row["window"]
        cosines = [
            statistics.fmean(row["cosines"][i : i + 3])
            for i in range(0, len(row["cosines"]), 3)
        ]
        figure.add_scatter(
            x=[size * (i + 0.5) for i in range(len(cosines))],
            y=cosines,
            mode="lines",
            name=f"seed {row['seed']}",
            line={
                "color": COLOURS[number],
                "dash": ("solid", "dash", "dot")[number % 3],
            },
        )
        table["seed"].append(row["seed"])
        table["first step"].append(row["first"])
        table["last"].append(round(cosines[-1], 4))
    figure.update_xaxes(title="step")
    figure.update_yaxes(title="mean cosine of two workers", range=[-0.1, 1])
    figure.update_layout(title="How alike workers' gradients are")
    small_print(figure, caption("redundancy"))
    first = statistics.median(table["first step"])
    last = statistics.median(table["last"])
    return View(
        figure,
        f"The first step's cosine is {first:.2f}, the last ones' {last:.2f} "
        "(medians of the seeds).",
        table,
    )


def stale_lines() -> list[str]:
    """Loss by how late gradients come."""
    rows = rows_of("stale")
    rates = list(dict.fromkeys(row["lr"] for row in rows))
    lines = [
        f"{'updates late':>12}"
        + "".join(f"{f'learning rate {rate:g}':>28}" for rate in rates)
    ]
    for arm in dict.fromkeys(row["arm"] for row in rows):
        late = 0 if arm == "fresh" else int(arm.removeprefix("late_"))
        cells = "".join(
            f"{words(pick(rows, arm=arm, lr=rate), 'validation'):>28}"
            for rate in rates
        )
        lines.append(f"{late:>12}{cells}")
    return lines


LINK_NAMES = {
    "unshaped": "no limit",
    "1gbit": "1 Gbit/s",
    "200mbit": "200 Mbit/s",
    "50mbit": "50 Mbit/s",
    "held_out": HELD_OUT.replace("mbit", " Mbit/s"),
    "one_slow": "one slow",
}


SHOWN = tuple(name for name in LINK_NAMES if name != "held_out")
"""Of the tables of time; the model of links is held against the other one, too."""


def time_lines() -> list[str]:
    """Milliseconds of a step, by link; the time saved against DDP."""
    rows = rows_of("time")
    lines = [
        f"{'ms':26}" + "".join(f"{LINK_NAMES[name]:>15}" for name in SHOWN)
    ]
    for arm in TIMED:
        cells = ""
        for link in SHOWN:
            mine = statistics.median(
                row[f"ms_{link}"] for row in pick(rows, arm=arm)
            )
            dense = statistics.median(
                row[f"ms_{link}"] for row in pick(rows, arm="ddp")
            )
            cells += f"{f'{mine:,.0f} ({1 - mine / dense:+.0%})':>15}"
        lines.append(f"{arm_of(arm).title:26}{cells}")
    return lines


def until_lines() -> list[str]:
    """Time until the target as a multiple of DDP's, by link: steps times a step's time.

    A product of two records: steps of the small model, milliseconds of the larger one.
    """
    compared, times = rows_of("compared"), rows_of("time")

    def middle(rows: list[Row], metric: str) -> float:
        return statistics.median(row[metric] for row in rows)

    dense = middle(pick(compared, arm="ddp"), "steps_to_target")
    lines = [f"{'':26}" + "".join(f"{LINK_NAMES[name]:>15}" for name in SHOWN)]
    for arm in TIMED:
        mine = pick(compared, arm=arm)
        more = middle(mine, "steps_to_target") / dense
        sign = "" if all(row["reached"] for row in mine) else "> "
        cells = ""
        for link in SHOWN:
            metric = f"ms_{link}"
            slower = middle(pick(times, arm=arm), metric) / middle(
                pick(times, arm="ddp"), metric
            )
            cells += f"{f'{sign}{more * slower:.2f}':>15}"
        lines.append(f"{arm_of(arm).title:26}{cells}")
    return lines


def encode_lines(arms: Sequence[str] | None = None) -> list[str]:
    """What packing and unpacking costs, and what is kept for it; None: of all."""
    rows = rows_of("encode")
    compute_ms = 1e3 * step_times()[0]
    dense = statistics.median(row["ms"] for row in pick(rows, arm="ddp"))
    lines = [
        f"{'':26}{'ms a step':>20}{'overhead h':>12}{'bytes kept a weight':>21}"
    ]
    for arm in arms or dict.fromkeys(row["arm"] for row in rows):
        mine = pick(rows, arm=arm)
        kept = mine[0]["memory"] / mine[0]["numbers"]
        extra = statistics.median(row["ms"] for row in mine) - dense
        lines.append(
            f"{arm_of(arm).title:26}{words(mine, 'ms', 1):>20}"
            f"{extra / compute_ms:>12.0%}{kept:>21.2f}"
        )
    return lines


COLLECTIVES = {"ddp": 1, "bf16": 1, "top_k": 3}
"""Of a bucket; low-rank fusion has two, one for each factor."""


def cost_of(arm: str, row: Row, encode_s: float) -> MethodCost:
    """An arm as the link model wants it.

    Args:
        row: with the bytes that one of two workers sends in a step, and the buckets.
        encode_s: seconds of packing and unpacking that DDP's own hook does not have.
    """
    meets = arm in ("local_sgd", "diloco")
    messages = COLLECTIVES.get(arm, 2) * row["buckets"]
    gathers = arm in ("top_k", "threshold")
    # Two workers send what they hand in once, in all_reduce and all_gather.
    return MethodCost(
        arm_of(arm).title,
        "all_gather" if gathers else "all_reduce",
        row["sent"],
        1 / MEET_EVERY if meets else messages,
        max(0.0, encode_s),
        MEET_EVERY if meets else 1,
    )


def method_costs() -> list[MethodCost]:
    """The timed arms, from the records; dense first."""
    encode = {
        arm: statistics.median(row["ms"] for row in rows) / 1e3
        for arm in TIMED
        if (rows := pick(rows_of("encode"), arm=arm))
    }
    times = {row["arm"]: row for row in rows_of("time")}
    return [
        cost_of(arm, times[arm], encode.get(arm, 0.0) - encode["ddp"])
        for arm in TIMED
    ]


def step_times() -> tuple[float, float]:
    """Seconds that a DDP step computes, and those of its backward.

    Two ranks compute at once, as they do in training. Packing gradients and unpacking
    them is part of it.
    """
    rows = rows_of("compute")
    forward, backward, update = (
        statistics.median(row[f"ms_{part}"] for row in rows)
        for part in ("forward", "backward", "update")
    )
    packing = statistics.median(
        row["ms"] for row in pick(rows_of("encode"), arm="ddp")
    )
    return (forward + backward + update + packing) / 1e3, backward / 1e3


def fitted_links() -> dict[str, Link]:
    """alpha and beta of each link, from all_reduces of several sizes."""
    rows = rows_of("link")
    found = {}
    for name in (*LINKS, "held_out"):
        mine = pick(rows, arm=name)
        sizes = mine[0]["bytes"]
        ms = [
            statistics.median(row["ms"][place] for row in mine)
            for place in range(len(sizes))
        ]
        found[name] = fit_link(sizes, [t / 1e3 for t in ms], 2)
    return found


def link_lines() -> list[str]:
    """What was asked of each link, and what was found."""
    lines = [f"{'link':>12}{'Mbit/s found':>15}{'latency, ms':>14}"]
    for name, link in fitted_links().items():
        lines.append(
            f"{LINK_NAMES[name]:>12}{link.bandwidth * 8 / 1e6:>15,.0f}"
            f"{link.latency * 1e3:>14.2f}"
        )
    return lines


def check_rows() -> list[Row]:
    """Step times as the model predicts them, and as they were measured.

    The links' numbers come from all_reduces by themselves, those of the methods from
    packing by itself: nothing is fitted to a step's time.
    """
    compute_s, backward_s = step_times()
    rows = []
    for name, link in fitted_links().items():
        machine = Machine(
            compute_s, backward_s, 0.0, link.bandwidth, link.latency, 2
        )
        for arm, cost in zip(TIMED, method_costs(), strict=True):
            measured = statistics.median(
                row[f"ms_{name}"] for row in pick(rows_of("time"), arm=arm)
            )
            rows.append(
                {
                    "method": cost.name,
                    "link": LINK_NAMES[name],
                    "predicted_ms": 1e3 * step_time(cost, machine),
                    "measured_ms": measured,
                }
            )
    return rows


assert set(LINK_NAMES) == {*LINKS, "held_out", "one_slow"}
