"""The rows of a record, as a lab's tables and pictures read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from labsupport.claims.provenance import origin_words
from labsupport.claims.record import load_record

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
