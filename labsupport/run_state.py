"""How a lab went, and which labs need not run again: a small JSON file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nbformat import NotebookNode


@dataclass
class Outcome:
    """How one lab went.

    Attributes:
        lab: its name.
        source_hash: of the notebook that ran.
        state: "passed" or "failed".
        seconds: wall-clock time.
        cells: code cells that were started.
        peak_mib: the most memory that the kernel and its children held at
            once, in MiB; shared pages are counted once where the system tells.
        error: for a failed lab, the cell's id and its error in a few lines.
    """

    lab: str
    source_hash: str
    state: str
    seconds: float
    cells: int
    peak_mib: float
    error: str = ""


class State:
    """What passed in the run that has not come to its end yet, as JSON."""

    def __init__(self, path: Path, key: str) -> None:
        self.path = path
        self.key = key
        self.content: dict[str, dict[str, Any]] = {}
        # Nothing yet, or not readable: then there is nothing to resume.
        with suppress(OSError, ValueError):
            self.content = json.loads(path.read_text(encoding="utf-8"))

    def passed(self, name: str, notebook: NotebookNode) -> Outcome | None:
        """The lab's outcome, if it passed with this very source."""
        row = self.content.get(self.key, {}).get(name)
        if row is None or row["source_hash"] != notebook.metadata.labs.source_hash:
            return None
        return Outcome(**row)

    def note(self, outcome: Outcome) -> None:
        """Keep a passed lab; drop a failed one."""
        rows = self.content.setdefault(self.key, {})
        rows.pop(outcome.lab, None)
        if outcome.state == "passed":
            rows[outcome.lab] = asdict(outcome)
        self._save()

    def forget(self, names: Iterable[str]) -> None:
        for name in names:
            self.content.get(self.key, {}).pop(name, None)
        self._save()

    def _save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")
        part.replace(self.path)
