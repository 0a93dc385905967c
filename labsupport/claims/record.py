"""Record a lab's experiments: every arm, every seed, one row each.

A record is one JSON file: where it comes from, which rules were in force, and
the rows. It is written after every row, so that an interrupted run resumes.
"""

from __future__ import annotations

import importlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labsupport.claims.claim import load_claim
from labsupport.claims.provenance import machine_name, provenance
from labsupport.errors import LabError
from labsupport.paths import MEASUREMENTS
from labsupport.settings import Scale

Row = dict[str, Any]


@dataclass(frozen=True)
class Experiment:
    """A grid of runs: every arm with every seed.

    Attributes:
        lab: "00".
        name: "seed_spread".
        question: what it finds out, in one sentence.
        run: `run(arm, seed, scale, **point)` -> the row's metrics (plain
            numbers, or lists of numbers for curves; None for what is not there).
        arms: the methods and baselines compared.
        seeds: at least three.
        claims: the ids of the claims whose rules read this record.
        points: further settings, the same for every arm: learning rates, say.
            Each is a row of its own; a rule takes the mean over them.
        clocks: metrics that are times, so another machine has others.
        sampled: whether models write texts at random. Another processor rounds
            otherwise, and one other token changes all that follows it.
    """

    lab: str
    name: str
    question: str
    run: Callable[..., Mapping[str, Any]]
    arms: Sequence[str]
    seeds: Sequence[int] = (0, 1, 2)
    claims: Sequence[str] = field(default_factory=tuple)
    points: Sequence[Mapping[str, Any]] = ({},)
    clocks: Sequence[str] = ()
    sampled: bool = False

    def grid(self, seeds: int | None = None) -> Iterator[Row]:
        """Every arm, seed and point; seeds first, so that a cut leaves fair pairs."""
        listed = list(self.seeds)
        wanted = len(listed) if seeds is None else seeds
        beyond = range(max(listed) + 1, max(listed) + 1 + wanted - len(listed))
        for seed in [*listed, *beyond][:wanted]:
            for point in self.points:
                for arm in self.arms:
                    yield {"arm": arm, "seed": seed, **point}


def experiments_of(lab: str) -> list[Experiment]:
    """The experiments that a lab defines in labs/lab_NN/experiments.py.

    Raises:
        LabError: the lab has none.
    """
    try:
        module = importlib.import_module(f"labs.lab_{lab}.experiments")
    except ModuleNotFoundError as error:
        raise LabError(f"Lab {lab!r} has no experiments to record.") from error
    found: list[Experiment] = module.EXPERIMENTS
    return found


def record_file(
    experiment: Experiment, scale: Scale, folder: Path = MEASUREMENTS
) -> Path:
    name = f"lab_{experiment.lab}_{experiment.name}_{scale}.json"
    return folder / machine_name() / name


def record(
    experiment: Experiment,
    scale: Scale,
    seeds: int | None = None,
    folder: Path = MEASUREMENTS,
    report: Callable[[str], None] = print,
) -> Path:
    """Run what is missing of an experiment's grid; returns the record's file.

    Raises:
        LabError: the file holds rows that were recorded at another commit of
            the rules; those have to be moved away by hand first.
    """
    file = record_file(experiment, scale, folder)
    rules = {claim: load_claim(claim).rule_hash for claim in experiment.claims}
    if file.exists():
        content = json.loads(file.read_text())
        if content["rules"] != rules:
            raise LabError(
                f"The rules of {', '.join(rules)} changed after {file.name} was "
                "recorded: move the old record away, then record again."
            )
    else:
        content = {
            "lab": experiment.lab,
            "experiment": experiment.name,
            "question": experiment.question,
            "scale": scale,
            "command": f"labs record {experiment.lab} {experiment.name}"
            f" --scale {scale}",
            "rules": rules,
            "rows": [],
        }
    for trial in experiment.grid(seeds):
        if any(trial.items() <= row.items() for row in content["rows"]):
            continue
        began = time.perf_counter()
        metrics = experiment.run(**trial, scale=scale)
        seconds = round(time.perf_counter() - began, 2)
        row: Row = {**trial, "seconds": seconds, **metrics}
        content["rows"].append({**row, "origin": provenance()})
        _write(file, content)
        words = ", ".join(f"{name} {value}" for name, value in trial.items())
        report(f"{experiment.name}: {words}: {seconds:.1f} s")
    return file


def load_record(
    lab: str, name: str, scale: Scale = "cpu", folder: Path = MEASUREMENTS
) -> dict[str, Any]:
    """A committed record, whichever machine made it.

    Raises:
        LabError: nothing has been recorded.
    """
    found = sorted(folder.glob(f"*/lab_{lab}_{name}_{scale}.json"))
    if not found:
        raise LabError(
            f"Not measured yet: run `labs record {lab} {name} --scale {scale}`."
        )
    content: dict[str, Any] = json.loads(found[0].read_text())
    return content


def _write(file: Path, content: dict[str, Any]) -> None:
    """Replace the record as a whole; a crash leaves the previous version.

    A row is a line, so that a diff shows which runs are new.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(".new")
    with fresh.open("w") as stream:
        head = json.dumps({**content, "rows": []}, indent=1).removesuffix("[]\n}")
        rows = ",\n".join(f"  {json.dumps(row)}" for row in content["rows"])
        stream.write(f"{head}[\n{rows}\n ]\n}}\n")
        stream.flush()
        os.fsync(stream.fileno())
    fresh.replace(file)
