"""Lab 05b's explorer, its pictures and what its text says of them."""

import pytest

from labs.lab_05b import rivals
from labs.lab_05b.arithmetic import training_flops
from labs.lab_05b.pictures import flops_view, refit_view
from labs.lab_05b.published import LARGE, LOSSES, SHAPES, SMALL
from labs.lab_05b.refit import fit_published
from labs.lab_05b.scaling_explorer import (
    TEXTS,
    costs,
    law,
    plain_costs,
    scaling_explorer,
)
from tests.labs.every_view import every_view


def ratios(size, P, texts):
    """What the bars show, in their order."""
    view = scaling_explorer().draw(size=size, streams=P, texts=texts)
    return list(view.figure.data[-1].x)


def test_every_setting():
    for setting, view in every_view(scaling_explorer()):
        size, P = setting["size"], setting["streams"]
        assert view.sentence.startswith(f"{size} with {P} stream"), setting
        flops, states, _ = view.figure.data[-1].x
        if P == 1:
            assert flops == pytest.approx(1.0, rel=0.01)
            assert states == pytest.approx(1.0, rel=0.01)
        else:
            assert flops > 1 > states, setting
        # The black line is level, and ends at the larger model.
        line = view.figure.data[-2]
        assert line.name == "equal loss"
        assert line.y[0] == line.y[1] and line.x[0] <= line.x[1]


def test_the_table_of_the_headlines_model():
    view = scaling_explorer().draw(size="1.6B", streams=8, texts=1)
    assert list(view.table) == ["what", "1.57B, P = 1", "1.57B, P = 8", "plain 2.90B"]
    assert view.table["1.57B, P = 8"][-1] == LOSSES["Stack"][8][3]
    flops = view.table["1.57B, P = 8"][0] / view.table["1.57B, P = 1"][0]
    assert flops == pytest.approx(8, rel=1e-3)
    assert "plain 2.90B model" in view.sentence


def test_what_the_text_says_of_the_bars():
    flops = [round(ratios("1.6B", P, 1)[0], 2) for P in (2, 4, 8)]
    assert flops == [1.57, 2.57, 4.33]
    _, states, writing = ratios("1.6B", 8, 1)
    assert (round(states, 2), round(writing, 2)) == (0.55, 0.63)
    assert ratios("1.6B", 8, 8)[2] == pytest.approx(1.0, abs=0.06)
    assert 2.7 < ratios("1.6B", 8, 64)[2] < 3.2
    for name in scaling_explorer().controls["size"].values:
        assert ratios(name, 8, 1)[0] == pytest.approx(4.33, rel=0.01)
        assert ratios(name, 8, 1)[2] == pytest.approx(0.63, abs=0.06)


def test_both_bills_are_made_alike():
    """A plain model of the grid, by either function."""
    for texts in TEXTS:
        for shape in SHAPES:
            ours = costs(shape, 1, texts)
            theirs = plain_costs(shape.parameters() / 1e9, texts)
            assert list(ours) == list(theirs)
            assert list(ours.values()) == pytest.approx(list(theirs.values()), rel=0.01)


def test_ninety_streams_for_the_headline():
    """The text: to match 4.4B the law asks for e^4.5 streams."""
    logarithm = (LARGE.parameters() / SMALL.parameters() - 1) / law().k
    assert logarithm == pytest.approx(4.5, abs=0.01)


def test_the_picture_of_the_fit():
    fit = fit_published("Pile")
    view = refit_view("Pile", fit)
    assert f"k = {fit.k:.4f}" in view.sentence
    for P in (1, 8):
        assert view.table[f"law, P = {P}"] == pytest.approx(
            list(LOSSES["Pile"][P]), abs=0.012
        )


def test_the_picture_of_the_guess():
    view = flops_view()
    assert "1.6B, 1 stream 9.4, 4.4B, 1 stream 26.1" in view.sentence
    assert view.table["GFLOPs"][-1] == round(training_flops(SMALL, 8) / 1e9, 2)


def test_the_logarithm_is_the_best_of_three_laws():
    for corpus in ("Stack", "Pile"):
        found = {name: rivals.compare(name, corpus) for name in rivals.LAWS}
        best = max(found, key=lambda name: found[name].r2)
        nearest = min(found, key=lambda name: abs(found[name].held_out))
        assert best == nearest == "logarithm"
        # The text: a power promises too much, a fixed correlation too little.
        assert found["power"].held_out < -0.004
        assert found["correlated"].held_out > 0.004


def test_a_rival_that_is_known_is_found(monkeypatch):
    import torch

    from labs.lab_05b.published import points

    known = torch.tensor([0.8, 0.05, 0.25, 0.7], dtype=torch.float64)

    def made(corpus):
        for point in points(corpus):
            sizes = torch.tensor([[point.N / 1e9], [float(point.P)]]).double()
            loss = rivals.correlated(known, *sizes).item()
            yield type(point)(point.N, point.P, loss, point.shape)

    monkeypatch.setattr(rivals, "points", made)
    found = rivals.compare("correlated", "Stack")
    assert found.last == pytest.approx(0.7, rel=1e-3)
    assert found.held_out == pytest.approx(0.0, abs=1e-5)
