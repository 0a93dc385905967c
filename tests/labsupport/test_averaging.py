"""Averages of weights, held against numbers by hand."""

import pytest
import torch
from torch import nn

from labsupport.errors import LabError
from labsupport.train.averaging import EMA, LAWA


def walk(average, values):
    """Follow a model whose only weight takes these values."""
    model = nn.Linear(1, 1, bias=False)
    found = average(model)
    for value in values:
        nn.init.constant_(model.weight, value)
        found.update()
    assert model.weight.item() == values[-1]
    return found.model.weight.item()


def test_ema_by_hand():
    """8, then 8 * 0.75 + 4 * 0.25 = 7, then 7 * 0.75 + 0."""
    assert walk(lambda m: EMA(m, 0.75), [8.0, 4.0, 0.0]) == pytest.approx(5.25)


def test_lawa_by_hand():
    """Snapshots at steps 2, 4, 6: 2, 4, 6; the latest two have the mean 5."""
    values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    assert walk(lambda m: LAWA(m, latest=2, every=2), values) == 5.0
    assert walk(lambda m: LAWA(m, latest=9, every=2), values) == 4.0


def test_lawa_before_its_first_snapshot_is_the_model():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    lawa = LAWA(model, latest=2, every=5)
    assert torch.equal(lawa.model.weight, model.weight)
    assert lawa.model is not model


def test_averaging_leaves_the_training_as_it_is():
    model = nn.Linear(3, 2)
    before = [p.clone() for p in model.parameters()]
    for average in (EMA(model, 0.9), LAWA(model, 2, 1)):
        average.update()
        with torch.no_grad():
            for p in average.model.parameters():
                p.add_(1.0)
    for p, wanted in zip(model.parameters(), before, strict=True):
        assert torch.equal(p, wanted)


def test_a_step_is_in_the_average_before_it_is_evaluated():
    """SGD from 8 with gradient 1: 7, 6, 5, 4; means 7, 6.5, 5.75, 4.875."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 8.0)
    seen = []
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    average = EMA(model, 0.5)
    average.attach(optimizer)
    for _ in range(4):
        optimizer.zero_grad()
        model(torch.ones(1)).sum().backward()
        optimizer.step()
        seen.append(average.model.weight.item())
    assert seen == [7.0, 6.5, 5.75, 4.875]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda m: EMA(m, 1.0), "decay=1.0: use a number between 0 and 1"),
        (lambda m: LAWA(m, 0, 1), "latest=0: use at least 1"),
        (lambda m: LAWA(m, 1, 0), "every=0: use at least 1"),
    ],
)
def test_bad_input_gets_a_sentence(wrong, sentence):
    with pytest.raises(LabError, match=sentence):
        wrong(nn.Linear(1, 1))
