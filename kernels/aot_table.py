"""The compile report: its rows, what is wrong in it, and how it is printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kernels.binary import Usage

MOST_SHARED = 99 * 1024
"""Bytes of shared memory a program may ask for on a consumer GPU."""

MOST_LDS = 64 * 1024
"""The same on gfx942."""

LEGEND = (
    "registers a thread / KB of shared memory a program; T: tensor-core "
    "instructions, A: asynchronous copies, S: bytes a thread spilled to memory; "
    "-: the GPU lacks the dtype"
)


@dataclass(frozen=True)
class Report:
    """One configuration on one target.

    Attributes:
        module: "kernels.softmax".
        label: the spec's label.
        target: "sm_90".
        usage: None if the target lacks a dtype or the compiler failed.
        error: what the compiler said.
    """

    module: str
    label: str
    target: str
    usage: Usage | None = None
    error: str | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Report:
        usage = None if row["usage"] is None else Usage(**row["usage"])
        return cls(**{**row, "usage": usage})


def faults(reports: Sequence[Report]) -> list[str]:
    """A sentence for everything that the lab does not allow in a kernel.

    Whatever does not compile; spills on sm_90; a taught kernel that asks for
    more shared memory than a consumer GPU has. A tuned variant, in a module
    whose name ends in `_tuned`, may take all that its own GPU has.
    """
    found = []
    for row in reports:
        where = f"{row.label} on {row.target}"
        if row.error is not None:
            found.append(f"{where} does not compile: {row.error}")
        if row.usage is None:
            continue
        if row.target == "sm_90" and row.usage.stack:
            found.append(
                f"{where} spills {row.usage.stack} bytes a thread: use smaller blocks "
                "or more warps."
            )
        most = MOST_SHARED if row.target.startswith("sm_") else MOST_LDS
        if row.usage.shared > most and not row.module.endswith("_tuned"):
            found.append(
                f"{where} takes {row.usage.shared / 1024:.1f} KB of shared memory; "
                f"at most {most // 1024} KB are allowed: use smaller blocks or fewer "
                "stages."
            )
    return found


def cell(row: Report) -> str:
    """One configuration on one target in a few characters: "32/2.0 TA"."""
    if row.error is not None:
        return "error"
    if row.usage is None:
        return "-"
    marks = ("T" if row.usage.tensor_core else "") + (
        "A" if row.usage.async_copy else ""
    )
    spilled = f"S{row.usage.stack}" if row.usage.stack else ""
    numbers = f"{row.usage.registers}/{row.usage.shared / 1024:.1f}"
    return " ".join(part for part in (numbers, marks, spilled) if part)


def text_table(reports: Sequence[Report], targets: Sequence[str], triton: str) -> str:
    """For a terminal: a line per configuration, a column per target."""
    lines = [["kernel", *targets], *_lines(reports, targets)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [
        "  ".join(text.ljust(w) for text, w in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    return "\n".join([f"Triton {triton}; {LEGEND}.", "", *padded])


def markdown_table(
    reports: Sequence[Report], targets: Sequence[str], triton: str
) -> str:
    """For a document; the same cells."""
    lines = [["kernel", *targets], ["---"] * (len(targets) + 1)]
    lines += _lines(reports, targets)
    rows = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([f"Triton {triton}; {LEGEND}.", "", *rows])


def _lines(reports: Sequence[Report], targets: Sequence[str]) -> list[list[str]]:
    cells: dict[str, dict[str, str]] = {}
    for row in reports:
        cells.setdefault(row.label, {})[row.target] = cell(row)
    return [[label, *(line[each] for each in targets)] for label, line in cells.items()]
