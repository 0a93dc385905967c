"""Lab 01's explorers and its picture say what the numbers say."""

import itertools

import pytest
import torch

from labs.lab_01.recompute_explorer import best_block, memory, recompute_explorer
from labs.lab_01.sinkhorn_explorer import (
    drawn,
    errors,
    iterates,
    sinkhorn_explorer,
)
from labsupport.errors import LabError
from labsupport.explore import Explorer, View
from labsupport.nn.hyper_connections import sinkhorn


def every_view(explorer: Explorer) -> list[tuple[dict, View]]:
    """All settings of an explorer; each must have a picture and a sentence."""
    names = list(explorer.controls)
    values = [control.values for control in explorer.controls.values()]
    settings = [
        dict(zip(names, each, strict=True)) for each in itertools.product(*values)
    ]
    views = [(setting, explorer.draw(**setting)) for setting in settings]
    for setting, view in views:
        assert view.figure.data, setting
        assert view.sentence.endswith("."), setting
        assert len({len(column) for column in view.table.values()}) <= 1, setting
    return views


def test_equation_20_at_the_papers_size():
    assert memory(60, 4, 6) == (40, 36)
    assert best_block(60, 4) == 6
    explorer = recompute_explorer()
    view = explorer.draw(**explorer.start_values())
    assert "blocks of 6 need least, 76 C" in view.sentence
    assert "against 240 C" in view.sentence
    assert "says 6.3" in view.sentence
    assert view.table["together (C)"][5] == 76


def test_equation_20_with_a_last_block_that_is_not_full():
    assert memory(10, 4, 4) == (12, 24)


def test_no_block_size_needs_less_than_the_best_and_the_formula_is_near():
    for setting, view in every_view(recompute_explorer()):
        L, n = setting["L"], setting["n"]
        best = best_block(L, n)
        least = sum(memory(L, n, best))
        assert all(least <= sum(memory(L, n, block)) for block in range(1, L + 1))
        assert f"{least} C" in view.sentence
        rule = round((n * L / (n + 2)) ** 0.5)
        assert sum(memory(L, n, rule)) <= 1.1 * least


@pytest.mark.parametrize(("L", "n", "block"), [(0, 4, 1), (8, 0, 1), (8, 4, 9)])
def test_memory_of_what_cannot_be(L, n, block):
    with pytest.raises(LabError, match="at least 1"):
        memory(L, n, block)


def test_sinkhorn_explorer_iterates_what_the_module_uses():
    logits_nnM = drawn(3.0)
    for steps in (1, 20):
        shown = iterates(logits_nnM, steps, "columns first")[-1]
        torch.testing.assert_close(shown, sinkhorn(logits_nnM, steps))
    # Rows first is the same with rows and columns exchanged.
    turned = iterates(logits_nnM.transpose(0, 1), 7, "rows first")[-1]
    expected = iterates(logits_nnM, 7, "columns first")[-1]
    torch.testing.assert_close(turned.transpose(0, 1), expected)


def test_what_sinkhorn_normalises_last_is_exact_and_the_rest_comes_nearer():
    for spread in (0.5, 2.0, 8.0):
        columns_first = errors(spread, "columns first")
        assert max(columns_first["rows"]) < 1e-15
        assert columns_first["columns"][0] > 1e-3
        assert columns_first["columns"][-1] < columns_first["columns"][0] / 10
        assert max(errors(spread, "rows first")["columns"]) < 1e-15


def test_twenty_iterations_are_enough_for_small_logits_only():
    """The reference's medians: 3.5e-13 at spread 1, 8.6e-7 at 2, 3.2e-3 at 4."""
    after_20 = {s: errors(s, "columns first")["columns"][19] for s in (1.0, 2.0, 4.0)}
    assert after_20[1.0] < 1e-11
    assert 1e-8 < after_20[2.0] < 1e-5
    assert 1e-3 < after_20[4.0] < 1e-2


def test_sinkhorn_explorer_says_which_gain_is_exact():
    explorer = sinkhorn_explorer()
    for setting, view in every_view(explorer):
        paper = setting["order"] == "columns first"
        exact = "rows sum to one exactly, and the forward gain is one"
        assert (exact in view.sentence) == paper
    start = explorer.draw(**explorer.start_values())
    sums = [note.text for note in start.figure.layout.annotations]
    assert sums.count("1.000") == 8


def test_sinkhorn_of_what_cannot_be():
    with pytest.raises(LabError, match="columns first, rows first"):
        iterates(torch.zeros(2, 2, 1), 1, "diagonal")
    with pytest.raises(LabError, match=r"shape \(n, n, M\)"):
        iterates(torch.zeros(2, 3, 1), 1, "rows first")
