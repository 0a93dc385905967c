"""SAM and ASAM: the gradient of another point, and weights put back."""

import pytest
import torch
from torch import nn

from labsupport.errors import LabError
from labsupport.train import train
from labsupport.train.sharpness import ETA, SAM, perturbation


class Bowl(nn.Module):
    """loss = sum(curvature w^2) / 2."""

    def __init__(self, curvature, start):
        super().__init__()
        self.curvature = torch.tensor(curvature)
        self.w = nn.Parameter(torch.tensor(start))

    def loss(self, tokens, targets):
        return (self.curvature * self.w**2).sum() / 2


BATCH = (torch.zeros(1, 1), torch.zeros(1, 1))


def test_the_gradient_is_that_of_the_point_uphill():
    """g = (3, 8), and (3, 4) with curvature 1: e = rho (0.6, 0.8)."""
    model = Bowl([1.0, 1.0], [3.0, 4.0])
    sam = SAM(rho=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    sam.attach(optimizer)
    loss = sam.loss(model, BATCH)
    assert loss.item() == pytest.approx(0.5 * (3.3**2 + 4.4**2))
    assert sam.loss_here == pytest.approx(12.5)
    loss.backward()
    torch.testing.assert_close(model.w.grad, torch.tensor([3.3, 4.4]))
    optimizer.step()  # from (3, 4), not from the point uphill
    torch.testing.assert_close(model.w.data, torch.tensor([-0.3, -0.4]))


def test_a_step_that_never_came_leaves_no_trace():
    model = Bowl([1.0, 2.0], [3.0, 4.0])
    sam = SAM(rho=0.5)
    first = sam.loss(model, BATCH).item()
    assert sam.loss(model, BATCH).item() == pytest.approx(first)
    sam.restore()
    assert torch.equal(model.w.data, torch.tensor([3.0, 4.0]))


def test_asam_does_not_see_how_weights_are_scaled():
    """w of one layer times 10, of the next over 10: the same function, e likewise."""
    torch.manual_seed(0)
    up, down = torch.randn(2, 8).double()
    g_up, g_down = torch.randn(2, 8).double()

    def move(factor, adaptive):
        weights = [nn.Parameter(up * factor), nn.Parameter(down / factor)]
        gradient = (g_up / factor, g_down * factor)
        found = perturbation(weights, gradient, 0.5, adaptive)
        return found[0] / factor, found[1] * factor

    for adaptive in (False, True):
        one, ten = move(1.0, adaptive), move(10.0, adaptive)
        gap = max((a - b).abs().max().item() for a, b in zip(one, ten, strict=True))
        size = one[0].abs().max().item()
        # eta breaks the symmetry a little.
        assert (gap < 0.2 * size) == adaptive, (gap, size)


def test_asam_by_hand():
    """t = |w| + eta, e = rho t^2 g / |t g|."""
    weights = [nn.Parameter(torch.tensor([3.0 - ETA, -4.0 + ETA]))]
    (e,) = perturbation(weights, (torch.tensor([1.0, 1.0]),), 0.5, adaptive=True)
    torch.testing.assert_close(e, 0.5 * torch.tensor([9.0, 16.0]) / 5)


def test_no_gradient_no_move():
    (e,) = perturbation([nn.Parameter(torch.ones(2))], (torch.zeros(2),), 0.5)
    assert torch.equal(e, torch.zeros(2))


def test_it_trains_in_the_loop_of_the_labs():
    model = Bowl([1.0, 10.0], [3.0, 4.0])
    sam = SAM(rho=0.05)
    run = train(
        model,
        lambda step: BATCH,
        steps=30,
        lr=0.3,
        loss_fn=sam.loss,
        prepare=sam.attach,
        live=False,
    )
    assert run.stopped == "finished"
    assert sam.loss_here < 0.5 < 80 < run.metrics[0]["loss"]
    assert sam.loss_here < run.loss, "the recorded loss is the one at w + e"


def test_bad_input_gets_a_sentence():
    with pytest.raises(LabError, match="rho=0: use a number above 0"):
        SAM(rho=0)
