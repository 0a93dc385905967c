"""Which test notices which pitfall: every pair is run, nothing is looked up."""

from __future__ import annotations

from functools import cache

import plotly.graph_objects as go
import torch

from labs.lab_01.pitfall_checks import CHECKS
from labs.lab_01.pitfalls import PITFALLS, Part
from labsupport.explore import View
from labsupport.explore.style import BLUE, VERMILION
from labsupport.nn import ManifoldHyperConnection

CORRECT = "correct mHC"
GREY = "#9ca3af"


@cache
def bench() -> dict[str, dict[str, str]]:
    """Run every test on the correct module and on every pitfall; about a second.

    Returns:
        pitfall -> test -> "caught" or "missed"; in the row of the correct module
        "passed" or, were it ever so, "false alarm".
    """
    threads = torch.get_num_threads()
    # On so little work a second thread only gets in the way.
    torch.set_num_threads(1)
    try:
        rows = {
            CORRECT: _row(ManifoldHyperConnection, "false alarm", "passed")
        }
        for pitfall in PITFALLS:
            rows[pitfall.name] = _row(pitfall.build, "caught", "missed")
        return rows
    finally:
        torch.set_num_threads(threads)


def _row(build: Part, failed: str, passed: str) -> dict[str, str]:
    return {
        check.name: failed if check.catches(build) else passed
        for check in CHECKS
    }


def caught_by(test: str) -> list[str]:
    """The pitfalls that a test catches."""
    return [name for name, row in bench().items() if row[test] == "caught"]


def bench_text() -> str:
    """The table in letters: X caught, . missed; it is the same on every machine."""
    letters = {
        "caught": "X",
        "missed": ".",
        "passed": "ok",
        "false alarm": "!",
    }
    names = [check.name for check in CHECKS]
    numbers = range(1, len(names) + 1)
    lines = [" " * 34 + "".join(f"{number:3}" for number in numbers)]
    for name, row in bench().items():
        cells = "".join(f"{letters[row[test]]:>3}" for test in names)
        lines.append(f"{name:34}{cells}")
    lines.append("")
    for number, test in zip(numbers, names, strict=True):
        count = f"{len(caught_by(test))} of {len(PITFALLS)}"
        lines.append(f"{number}  {test:34} catches {count:>8}")
    return "\n".join(lines)


def bench_view() -> View:
    """A grid: pitfalls down, tests across, a full dot where one is caught."""
    tests, rows = [check.name for check in CHECKS], bench()
    what = {pitfall.name: pitfall.what for pitfall in PITFALLS}
    what[CORRECT] = "The module as it should be."
    figure = go.Figure()
    for result, marker in (
        ("caught", {"symbol": "circle", "color": BLUE, "size": 17}),
        (
            "missed",
            {"symbol": "circle-open", "color": GREY, "size": 9},
        ),
        ("false alarm", {"symbol": "x", "color": VERMILION, "size": 13}),
    ):
        pairs = [
            (test, name)
            for name, row in rows.items()
            for test in tests
            if row[test] == result
        ]
        if not pairs:
            continue
        figure.add_scatter(
            x=[tests.index(test) for test, _ in pairs],
            y=[name for _, name in pairs],
            mode="markers",
            marker=marker,
            name=result,
            customdata=[(test, what[name]) for test, name in pairs],
            hovertemplate="%{customdata[1]}<br>%{customdata[0]}: "
            + f"{result}<extra></extra>",
        )
    for place, test in enumerate(tests):
        figure.add_annotation(
            x=place,
            y=1,
            yref="paper",
            yanchor="bottom",
            text=_wrapped(test),
            font={"size": 11},
            showarrow=False,
        )
        figure.add_annotation(
            x=place,
            y=0,
            yref="paper",
            yanchor="top",
            text=f"<b>{len(caught_by(test))}</b>",
            showarrow=False,
            yshift=-4,
        )
    figure.add_annotation(
        x=0,
        xref="paper",
        xanchor="right",
        xshift=-8,
        y=0,
        yref="paper",
        yanchor="top",
        yshift=-4,
        text=f"<b>caught, of {len(PITFALLS)}</b>",
        showarrow=False,
    )
    names = list(rows)[1:]
    figure.update_xaxes(
        range=[-0.5, len(tests) - 0.5],
        tickvals=list(range(len(tests))),
        showticklabels=False,
        ticks="",
        showline=False,
    )
    figure.update_yaxes(
        categoryorder="array",
        categoryarray=names[::-1],
        range=[-0.6, len(names) - 0.4],
        ticks="",
        showline=False,
    )
    figure.update_layout(
        title={
            "text": "Which test catches which mistake?",
            "xref": "container",
        },
        title_x=0.012,
        height=146 + 29 * len(names),
        margin={"l": 252, "r": 12, "t": 112, "b": 32},
        legend={
            "x": 1,
            "xanchor": "right",
            "y": 0.985,
            "yref": "container",
            "yanchor": "top",
        },
    )
    return View(figure, _sentence(), _table())


def _wrapped(words: str, width: int = 10) -> str:
    lines = [""]
    for word in words.split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "<br>".join(lines)


def _sentence() -> str:
    counts = [f"{check.name} {len(caught_by(check.name))}" for check in CHECKS]
    return (
        f"Of {len(PITFALLS)} pitfalls each test catches: {', '.join(counts)}."
    )


def _table() -> dict[str, list[str]]:
    table = {"pitfall": list(bench())}
    for check in CHECKS:
        table[check.name] = [row[check.name] for row in bench().values()]
    return table
