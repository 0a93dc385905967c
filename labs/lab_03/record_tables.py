"""Lab 03's records in words and pictures. They are recorded, not live."""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any

import plotly.graph_objects as go

from labs.lab_03 import (
    accumulator,
    language,
    moments,
    schemes,
    wire,
    wire_sums,
)
from labsupport.claims.ledger import verdict_lines as ledger_lines
from labsupport.claims.rows import (
    Row,
    median_words,
    paired,
    pick,
    record_rows,
    recorded_on,
)
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
    return median_words([row[metric] for row in rows])


def gaps(rows: list[Row], arm: str, baseline: str = "bf16") -> list[float]:
    """Validation loss over the baseline's of the same seed, minus 1."""
    return paired(
        rows,
        arm,
        baseline,
        lambda row, other: row["validation"] / other["validation"] - 1,
    )


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
        annotation_position="bottom",
    )
    figure.update_xaxes(title="validation loss against bfloat16's, percent")
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(
        title="How far from bfloat16 each one ends, by seed",
        margin={"l": 220, "t": 64},
    )
    small_print(figure, caption("language"))
    sentence = "Mean gap to bfloat16: " + "; ".join(
        f"{language.NAMES[arm]} {gap_words(gaps(rows, arm))}" for arm in arms
    )
    return View(figure, sentence + ".", table)


def memory_lines() -> list[str]:
    """What a training step keeps, in kilobytes."""
    rows = rows_of("memory")
    arms = {
        "fp32": "float32",
        "bf16": "bfloat16",
        "tile": "FP8, tiles",
        "tensor": "FP8, one scale",
    }
    kinds = {
        "weights": "weights",
        "gradients": "gradients",
        "moments": "moments",
        "kept": "kept for the backward",
        "kept_linear": "  of it, by linear layers",
        "total": "all",
    }
    lines = [f"{'kB':28}" + "".join(f"{name:>16}" for name in arms.values())]
    for kind, name in kinds.items():
        cells = "".join(
            f"{pick(rows, arm=arm)[0][kind] / 1e3:>16,.0f}" for arm in arms
        )
        lines.append(f"{name:28}{cells}")
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


SCHEME_NAMES = {
    "int8": "INT8, one scale",
    "e5m2": "E5M2, one scale",
    "e4m3": "E4M3, one scale",
    "e4m3_tile": "E4M3, tiles of 1 x 128",
}
ASKED = 1000.0
"""The factor of the guess."""


def outlier_answer() -> tuple[str, str]:
    """The right choice of the prediction, and the numbers it rests on."""
    rows = pick(rows_of("numbers"), arm="e4m3")
    before, after = (
        statistics.median(row["sqnr"] for row in pick(rows, factor=factor))
        for factor in (1.0, ASKED)
    )
    lost = statistics.median(row["zeroed"] for row in pick(rows, factor=ASKED))
    # Half of the precision is a bit of the mantissa, 6 dB.
    if lost > 0.5:
        answer = "most of them become 0"
    elif before - after > 3:
        answer = "they lose about half of their precision"
    else:
        answer = "hardly anything happens to them"
    return answer, (
        f"Without an outlier the other columns have an SQNR of {before:.1f} dB, with "
        f"one of 1000 {after:.1f} dB; {lost:.1%} of their numbers become 0."
    )


def outlier_view() -> View:
    """SQNR of the other columns against the size of the outlier."""
    rows = rows_of("numbers")
    figure = go.Figure()
    table: dict[str, list[Any]] = {"f": list(schemes.FACTORS)}
    for number, (arm, name) in enumerate(SCHEME_NAMES.items()):
        middle = [
            statistics.median(
                row["sqnr"] for row in pick(rows, arm=arm, factor=factor)
            )
            for factor in schemes.FACTORS
        ]
        figure.add_scatter(
            x=schemes.FACTORS,
            y=middle,
            name=name,
            mode="lines+markers",
            line={"color": COLOURS[number]},
            marker={"symbol": number, "size": 9},
        )
        table[name] = middle
    figure.update_xaxes(
        title="f, how many times as large one column is",
        type="log",
        exponentformat="power",
        dtick=1,
    )
    figure.update_yaxes(title="SQNR of the other columns, dB")
    figure.update_layout(
        title="What one large column does to all others", margin={"t": 112}
    )
    small_print(figure, caption("numbers"))
    ends = "; ".join(
        f"{name} {table[name][0]:.0f} dB at f = 1, {table[name][3]:.0f} at 1000, "
        f"{table[name][6]:.0f} at 100,000"
        for name in SCHEME_NAMES.values()
    )
    return View(figure, f"SQNR of the other columns: {ends}.", table)


def gradient_lines() -> list[str]:
    """Share of zeroed gradients in the smaller half of the tokens."""
    rows = rows_of("gradients")
    names = {
        "unscaled": "just cast",
        "tensor": "one scale",
        "block": "blocks of 128 x 128",
        "tile": "tiles of 1 x 128",
    }
    head = "".join(f"{decades:>8}" for decades in schemes.DECADES)
    lines = [f"{'decades between tokens':24}{head}"]
    for arm, name in names.items():
        cells = ""
        for decades in schemes.DECADES:
            mine = pick(rows, arm=arm, decades=decades)
            middle = statistics.median(row["zeroed_small"] for row in mine)
            cells += f"{middle:>8.1%}"
        lines.append(f"{name:24}{cells}")
    return lines


def accumulation_lines() -> list[str]:
    """Largest error of long sums in the model of the accumulator."""
    rows = rows_of("accumulation")
    lengths = rows[0]["lengths"]
    head = "".join(f"{length:>9}" for length in lengths)
    lines = [f"{'K':30}{head}"]
    for kind in accumulator.KINDS:
        for arm, name in (("0", "never promoted"), ("128", "every 128")):
            errors = [row["errors"] for row in pick(rows, arm=arm, kind=kind)]
            cells = "".join(
                f"{statistics.median(column):>9.2%}"
                for column in zip(*errors, strict=True)
            )
            lines.append(f"{kind + ', ' + name:30}{cells}")
    return lines


def delayed_lines() -> list[str]:
    """Online against delayed scaling."""
    rows = rows_of("delayed")
    lines = [f"{'scale from':24}{'worst SQNR, dB':>16}{'beyond 448':>12}"]
    for arm, name in (
        ("online", "the tensor itself"),
        ("delayed", "the last 16"),
    ):
        mine = pick(rows, arm=arm)
        ratio = statistics.median(row["sqnr"] for row in mine)
        beyond = statistics.median(row["saturated"] for row in mine)
        lines.append(f"{name:24}{ratio:>16.1f}{beyond:>12.1%}")
    return lines


WIRE_NAMES = {
    "float32": "float32 both ways",
    "bf16": "bfloat16 both ways",
    "fp8": "FP8 to the experts (V3)",
    "fp8_back": "FP8 both ways",
}


def wire_lines() -> list[str]:
    """Loss of a GPT with experts by what its rows are on the way."""
    rows = rows_of("wire")
    lines = [f"{'':28}{'validation loss':>23}{'against bfloat16':>26}"]
    for arm in wire.ARMS:
        mine = pick(rows, arm=arm)
        gap = "" if arm == "bf16" else gap_words(gaps(rows, arm))
        lines.append(
            f"{WIRE_NAMES[arm]:28}{words(mine, 'validation'):>23}{gap:>26}".rstrip()
        )
    return lines


def reduce_lines() -> list[str]:
    """Relative error of a sum of gradients, by ranks and way."""
    rows = rows_of("reduce")
    counts = sorted({row["ranks"] for row in rows})
    head = "".join(f"{f'{count} ranks':>10}" for count in counts)
    lines = [
        f"{'error of the sum':20}{head}{'flushed at ' + str(counts[-1]):>15}"
    ]
    for arm in wire_sums.WAYS:
        mine = pick(rows, arm=arm)
        cells = "".join(
            f"{statistics.median(r['error'] for r in pick(mine, ranks=count)):>10.1%}"
            for count in counts
        )
        lost = statistics.median(
            row["flushed"] for row in pick(mine, ranks=counts[-1])
        )
        lines.append(f"{arm:20}{cells}{lost:>15.1%}")
    return lines
