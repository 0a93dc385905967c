"""Lab 01's explorers and its picture say what the numbers say."""

import itertools

import pytest

from labs.lab_01.recompute_explorer import best_block, memory, recompute_explorer
from labsupport.errors import LabError
from labsupport.explore import Explorer, View


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
