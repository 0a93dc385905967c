"""The rows of a record, as a lab's tables and pictures read them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from labsupport.claims.provenance import origin_words
from labsupport.claims.record import load_record
from labsupport.claims.verdict import confidence

Row = dict[str, Any]


def record_rows(lab: str, experiment: str) -> list[Row]:
    """All rows of a committed record at scale cpu.

    Raises:
        LabError: nothing has been recorded.
    """
    rows: list[Row] = load_record(lab, experiment)["rows"]
    return rows


def recorded_on(rows: Sequence[Row]) -> str:
    """Machine, versions, commit and date of the first row."""
    return f"recorded on {origin_words(rows[0]['origin'])}"


def pick(rows: Sequence[Row], **wanted: Any) -> list[Row]:
    """The rows with these values."""
    return [row for row in rows if wanted.items() <= row.items()]


def paired(
    rows: Sequence[Row], arm: str, baseline: str, compare: Callable[[Row, Row], float]
) -> list[float]:
    """An arm's rows, each compared with the baseline's row of the same seed."""
    found = []
    for row in pick(rows, arm=arm):
        (other,) = pick(rows, arm=baseline, seed=row["seed"])
        found.append(compare(row, other))
    return found


def gaps(
    rows: Sequence[Row], arm: str, baseline: str, metric: str = "validation"
) -> list[float]:
    """A metric minus the baseline's of the same seed."""
    return paired(rows, arm, baseline, lambda row, other: row[metric] - other[metric])


def gap_words(found: Sequence[float]) -> str:
    """ "+0.012 [-0.005, +0.029]": mean and 95 % interval over seeds."""
    mean, low, high = confidence(found)
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def median_words(values: Sequence[float], digits: int = 3) -> str:
    """ "2.089 (2.083 - 2.095)": median, lowest and highest."""
    numbers = (statistics.median(values), min(values), max(values))
    middle, low, high = (f"{number:.{digits}f}" for number in numbers)
    return f"{middle} ({low} - {high})"
