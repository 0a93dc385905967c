"""The course's first explorer says what lab 01's record says."""

import pytest

from labs.lab_00.opening_explorer import draw, median_gains, opening_explorer
from labsupport.claims.record import load_record


def row(arm, lr, gain, failed=0):
    return {
        "arm": arm,
        "lr": lr,
        "failed": failed,
        "loss": None if failed else 2.5,
        "forward": [1.0, gain],
        "backward": [1.5, 1.0],
        "origin": load_record("01", "gain", "ci")["rows"][0]["origin"],
    }


def test_the_larger_of_both_gains_and_the_median_over_seeds():
    rows = [row("hc", 0.1, gain) for gain in (10.0, 30.0, 90.0)]
    assert median_gains(rows) == [1.5, 30.0]


def test_only_trainings_at_that_rate_that_did_not_fail():
    rows = [row("hc", 0.1, 10.0), row("hc", 0.1, 99.0, failed=1), row("hc", 0.2, 50.0)]
    rows += [row(arm, lr, 1.0) for arm in ("residual", "mhc") for lr in (0.1, 0.2)]
    view = draw({"rows": rows}, rate=0.1)
    assert "HC (4 lanes): loss 2.50, gain 10;" in view.sentence
    assert view.table["HC (4 lanes)"] == [1.5, 10.0]
    failed = draw({"rows": [row("hc", 0.1, 9.0, failed=1)]}, rate=0.1)
    assert "HC (4 lanes): every training failed" in failed.sentence
    assert not failed.figure.data


@pytest.mark.parametrize("scale", ["ci", "cpu"])
def test_every_rate_of_the_record(scale):
    explorer = opening_explorer(load_record("01", "gain", scale))
    rates = explorer.controls["rate"].values
    assert len(rates) == 4
    for rate in rates:
        view = explorer.draw(rate=rate)
        assert [trace.name for trace in view.figure.data] == list(view.table)[1:]
        assert len({len(column) for column in view.table.values()}) == 1
        assert "not measured on your machine" in view.figure.layout.title.text
