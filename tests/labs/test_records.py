"""A recorded row can be had again by whoever runs the same command."""

import importlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from labsupport.build.names import lab_names
from labsupport.claims.provenance import provenance
from labsupport.claims.record import Experiment, experiments_of
from labsupport.claims.spread import recorded_band
from labsupport.paths import LABS, MEASUREMENTS
from labsupport.train.windows import window_means

BUILT = {name.split("_")[0] for name in lab_names()}
RECORDED_LABS = [
    number
    for folder in sorted(LABS.glob("lab_*"))
    if (folder / "experiments.py").exists()
    # A draft's records are still to come.
    and (number := folder.name.removeprefix("lab_")) in BUILT
]
EXPERIMENTS = [each for lab in RECORDED_LABS for each in experiments_of(lab)]


def first_row(experiment: Experiment) -> dict[str, Any]:
    name = f"*/lab_{experiment.lab}_{experiment.name}_ci.json"
    (file,) = MEASUREMENTS.glob(name)
    row: dict[str, Any] = json.loads(file.read_text())["rows"][0]
    return row


def trials_to_repeat() -> Iterator[Any]:
    """Every experiment; `make test` leaves out long ones, but for a lab's quickest."""
    for lab in RECORDED_LABS:
        seconds = {e.name: first_row(e)["seconds"] for e in experiments_of(lab)}
        for experiment in experiments_of(lab):
            mine = seconds[experiment.name]
            long = mine > 3 and mine > min(seconds.values())
            marks = [pytest.mark.slow] if long else []
            yield pytest.param(experiment, id=f"{lab}-{experiment.name}", marks=marks)


@pytest.mark.parametrize("experiment", trials_to_repeat())
def test_one_row_comes_out_as_recorded(experiment: Experiment):
    """Other processors round otherwise, so 100 steps may drift by a little."""
    recorded = first_row(experiment)
    trial = next(t for t in experiment.grid() if t.items() <= recorded.items())
    again = experiment.run(**trial, scale="ci")
    here = recorded["origin"]["processor"] == provenance()["processor"]
    alike = near if here or not experiment.sampled else like
    for metric, value in again.items():
        if metric not in experiment.clocks:
            assert alike(value, recorded[metric]), metric


def near(value, recorded) -> bool:
    """Within 5 percent; a table as a whole, as one token may change its expert."""
    named = isinstance(value, list) and isinstance(value[0], str)
    if value is None or isinstance(value, str) or named:
        return value == recorded
    if not (isinstance(value, list) and isinstance(value[0], list)):
        # Rows are rounded to four digits, so the last one of a small number may differ.
        return value == pytest.approx(recorded, rel=0.05, abs=2e-4)
    mine, theirs = (np.array(table, dtype=float) for table in (value, recorded))
    return np.abs(mine - theirs).sum() <= 0.05 * np.abs(theirs).sum()


def like(value, recorded) -> bool:
    """Of the same kind, and not far: for texts sampled on another processor."""
    if isinstance(value, list):
        return isinstance(recorded, list) and len(value) == len(recorded)
    if isinstance(value, bool | str) or value is None or recorded is None:
        return True
    return value == pytest.approx(recorded, rel=0.5, abs=0.4)


@pytest.mark.parametrize("value", [0.2, 5.0, [1.0, 2.0], "A"])
def test_what_is_far_is_not_alike(value):
    assert near(value, value)
    assert like(value, value)
    if isinstance(value, float):
        assert not near(1.1 * value, value)
        assert not like(2 * value + 0.5, value)
    if isinstance(value, list):
        assert not like(value[:1], value)


@pytest.mark.parametrize("file", sorted(MEASUREMENTS.glob("*/lab_*.json")), ids=str)
def test_a_record_says_where_it_comes_from(file):
    content = json.loads(file.read_text())
    assert content["command"].startswith("labs record")
    for row in content["rows"]:
        origin = row["origin"]
        assert origin["machine"] == file.parent.name
        assert len(origin["commit"]) == 40, "recorded on a tree with changes"
        assert origin["torch"]
        assert origin["date"]


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda each: each.name)
def test_a_comparison_has_at_least_three_seeds(experiment: Experiment):
    assert len(set(experiment.seeds)) >= 3
    module = importlib.import_module(f"labs.lab_{experiment.lab}.experiments")
    assert experiment in module.EXPERIMENTS


def test_the_band_spans_the_seeds():
    band = recorded_band("00", "seed_spread", "gpt", "ci")
    assert band is not None
    assert all(low <= high for low, high in zip(band.low, band.high, strict=True))
    assert "commit" in band.recorded_on
    assert band.window == 5
    assert recorded_band("00", "seed_spread", "gpt", "gpu") is None


def test_windows_are_means_over_steps():
    assert window_means([1, 3, 5, 7], 2) == ([1.5, 3.5], [2.0, 6.0])
