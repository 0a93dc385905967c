"""Lab 04b's explorer of unequal workers, its slices and what its text says of them."""

import pytest

from labs.lab_04b import balance_explorer as workers
from labs.lab_04b.pictures import slices_view
from tests.labs.every_view import every_view


def test_every_division():
    for setting, view in every_view(workers.balance_explorer()):
        slower, count, fixed = (setting[k] for k in ("slower", "workers", "fixed"))
        equal, balanced, before, after = workers.step_times(slower, count, fixed)
        assert sum(equal) == sum(balanced) == workers.EACH * count
        assert after <= before == fixed + slower * workers.EACH, setting
        if slower == 1:
            assert after == before
        # The bars of one kind of batches are equally high: waiting fills up.
        columns = (view.table[name] for name in ("fixed", "computes", "waits"))
        heights = [sum(parts) for parts in zip(*columns, strict=True)]
        assert heights == [before, before, after, after], setting
        assert f"{after:g} balanced" in view.sentence


def test_what_the_text_says_of_workers():
    savings = {}
    for count in workers.WORKERS:
        _, balanced, before, after = workers.step_times(3.0, count, 0.0)
        savings[count] = round(100 * (1 - after / before))
        assert 0.25 < balanced[-1] / balanced[0] < 0.35
    assert list(savings.values()) == [50, 58, 62, 65]
    assert workers.step_times(8.0, 64, 0.0)[1][-1] == 2
    less = [1 - t[3] / t[2] for t in (workers.step_times(3.0, 4, f) for f in (0, 16))]
    assert less[0] > less[1]


def test_the_guess_has_the_answer_of_the_closed_form():
    """1 - 0.3 / 0.75, by hand: 64 / (3 + 1/3) = 19.2 against 48."""
    answer, sentence = workers.saving_answer()
    assert answer == "about 60 %"
    assert "take 48. If samples could be cut, all would end at 19.2" in sentence
    assert "60% less" in sentence


def test_slices_in_words():
    view = slices_view([-1.0, 0.0, 1.0], {"one": [3.0, 1.0, 2.0]}, "A slice")
    assert view.sentence == ("one: 3.00 at alpha -1, 1.00 at its lowest, 2.00 at 1.")
    assert view.table["one"] == pytest.approx([3.0, 1.0, 2.0])
