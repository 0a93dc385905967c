"""The pitfall bench: what each test of mHC notices, and what it cannot."""

import pytest

from labs.lab_01.pitfall_bench import (
    CORRECT,
    bench,
    bench_text,
    bench_view,
    caught_by,
)
from labs.lab_01.pitfall_checks import CHECKS
from labs.lab_01.pitfalls import PITFALLS
from labsupport.nn import ManifoldHyperConnection

ROUGH = ("training loss falls", "lanes differ between branches")
"""Whose errors are no matter of rounding."""
MARGINALS = ("rows sum to one", "columns nearly")


def test_the_correct_module_passes_every_test():
    assert set(bench()[CORRECT].values()) == {"passed"}


@pytest.mark.parametrize("pitfall", PITFALLS, ids=lambda each: each.name)
def test_each_pitfall_is_caught_by_some_test(pitfall):
    assert "caught" in bench()[pitfall.name].values()


def test_a_falling_loss_and_the_gradient_of_a_sum_catch_nothing():
    assert caught_by("training loss falls") == []
    assert caught_by("gradient of .sum()") == []
    assert caught_by("gradient, random cotangent") == ["backward with the final matrix"]


def test_being_doubly_stochastic_says_nothing_of_a_transpose():
    row = bench()["H_res transposed"]
    assert [row[name] for name in MARGINALS] == ["missed", "missed"]
    assert row["equals the paper"] == "caught"


def test_what_is_normalised_last_is_exact():
    row = bench()["rows first"]
    assert [row[name] for name in MARGINALS] == ["caught", "missed"]


def test_only_a_test_of_the_whole_model_sees_lanes_that_do_not_last():
    row = bench()["lanes made anew in every branch"]
    caught = [name for name, result in row.items() if result == "caught"]
    assert caught == ["lanes differ between branches"]


@pytest.mark.parametrize("check", CHECKS, ids=lambda each: each.name)
def test_no_verdict_hangs_on_rounding(check):
    """Another machine rounds otherwise: every error is far from the tolerance."""
    factor = 1.5 if check.name in ROUGH else 5
    for build in (ManifoldHyperConnection, *(p.build for p in PITFALLS)):
        error = check.error(build)
        near = check.tolerance / factor < error < check.tolerance * factor
        assert not near, error


def test_the_text_shows_the_table():
    lines = bench_text().splitlines()
    assert max(map(len, lines)) <= 79
    assert lines[1].split() == [*CORRECT.split(), *["ok"] * len(CHECKS)]
    transposed = next(line for line in lines if line.startswith("H_res transposed"))
    assert transposed.split()[2:] == ["X", *"." * (len(CHECKS) - 1)]
    assert lines[-1].startswith("8  training loss falls")
    assert lines[-1].endswith(f"0 of {len(PITFALLS)}")


def test_the_picture_has_a_dot_for_every_pair():
    view = bench_view()
    dots = {trace.name: len(trace.x) for trace in view.figure.data}
    assert sum(dots.values()) == len(PITFALLS) * len(CHECKS)
    caught = sum(len(caught_by(check.name)) for check in CHECKS)
    assert dots["caught"] == caught
    assert "training loss falls 0" in view.sentence
    assert view.table["pitfall"][0] == CORRECT
