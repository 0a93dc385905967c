"""The trace inspector, the votes and the pictures of lab 06."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from labs.lab_06 import trace_explorer as inspector
from labs.lab_06.pictures import cache_view, idea_view
from labs.lab_06.plan import CI
from labs.lab_06.thinker import Thinker, train_thinker
from labs.lab_06.vote_explorer import CORPORA, span, vote_explorer


@pytest.fixture(scope="module")
def in_steps() -> Thinker:
    return train_thinker("every", 0, CI)


def test_a_click_writes_a_cup_there(in_steps: Thinker):
    explorer = inspector.trace_explorer({"yours": in_steps})
    assert explorer.click is not None
    assert explorer.click(2, "B") == {"number": 2, "cup": "B"}
    assert explorer.click(0, "B") == {}  # the beginning is no state
    panel = explorer.panel()
    _, _, number, cup, picture, words = panel.children
    before = words.value
    trace = picture.data[0]
    (handler,) = trace._click_callbacks
    handler(trace, SimpleNamespace(xs=[2], ys=["B"]), None)
    assert (number.value, cup.value) == (2, "B")
    assert words.value != before
    assert "behind swap 2" in words.value
    # The changed picture has the same lines, which hear clicks as well.
    assert picture.data[0] is trace
    handler(trace, SimpleNamespace(xs=[3], ys=["C"]), None)
    assert (number.value, cup.value) == (3, "C")
    assert "With C behind swap 3" in words.value


def test_every_state_of_every_game_can_be_changed(in_steps: Thinker):
    explorer = inspector.trace_explorer({"yours": in_steps})
    controls = explorer.controls
    for game in controls["number_of_game"].values[:3]:
        start = explorer.draw(model="yours", number_of_game=game, number=0, cup="A")
        assert "its answer is" in start.sentence
        for number in controls["number"].values[1:]:
            for cup in controls["cup"].values:
                view = explorer.draw(
                    model="yours", number_of_game=game, number=number, cup=cup
                )
                assert view.table["written"][number - 1] == cup
                assert view.table["ball"] == start.table["ball"]
                assert "the answer" in view.sentence


def test_a_late_change_moves_the_answer(in_steps: Thinker):
    """The last state, changed: what is written there is what is answered."""
    explorer = inspector.trace_explorer({"yours": in_steps})
    last = explorer.controls["number"].values[-1]
    followed = 0
    for cup in explorer.controls["cup"].values:
        view = explorer.draw(model="yours", number_of_game=1, number=last, cup=cup)
        followed += view.sentence.endswith(f", {cup}.")
    assert followed >= 4


def test_pairs_of_the_cache():
    view = cache_view(read=5, written=6)
    # All again: passes of 5, 6, .. 10 tokens; t tokens have t (t + 1) / 2 pairs.
    again = sum(t * (t + 1) // 2 for t in range(5, 11))
    assert view.table["pairs"] == [again, 10 * 11 // 2]
    assert f"{again} pairs" in view.sentence


def test_the_idea_is_that_of_the_game():
    view = idea_view()
    assert view.table["made of"][0] == "C, AB, CE, DE"
    assert "C AB CE DE ?" in view.sentence


@pytest.mark.parametrize("model", CORPORA)
def test_votes_by_temperature(model: str):
    explorer = vote_explorer({1: 0.3, 64: 0.9})
    for temperature in explorer.controls["temperature"].values:
        view = explorer.draw(model=model, temperature=temperature)
        yours = any(trace.name == "yours" for trace in view.figure.data)
        assert yours == (model == "rarely thinks" and temperature == 1.0)
        assert "A guess" in view.sentence
        assert len(view.table) == 4


def test_shares_in_words():
    assert span([0.301, 0.302]) == "30 %"
    assert span([0.31, 0.47]) == "31 to 47 %"
