"""The loss around trained weights: slices, planes, and the way there.

Shape suffixes: P all weights as one vector, K points of the path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parameters_to_vector

from labs.lab_04b.exercises_core import filter_direction
from labsupport.errors import LabError
from labsupport.train.loop import Batch

SIDE = 21
"""Points along each side of a plane."""


def weights_of(model: nn.Module) -> list[Tensor]:
    """All weights, one tensor a layer, as they are used: nothing is copied."""
    return [p.detach() for p in model.parameters()]


def loss_of(
    model: nn.Module, batches: Sequence[Batch]
) -> Callable[[Sequence[Tensor]], Tensor]:
    """The mean loss of a model as a function of its weights.

    The model itself is not changed.
    """
    names = [name for name, _ in model.named_parameters()]
    device = next(model.parameters()).device
    here = [tuple(part.to(device) for part in batch) for batch in batches]

    @torch.no_grad()
    def loss(weights: Sequence[Tensor]) -> Tensor:
        given = {
            f"model.{name}": w for name, w in zip(names, weights, strict=True)
        }
        each = [functional_call(Scored(model), given, batch) for batch in here]
        return torch.stack(each).mean()

    return loss


class Scored(nn.Module):
    """A model whose forward is its loss, as `functional_call` needs it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        loss: Tensor = self.model.loss(tokens_BT, targets_BT)  # type: ignore[operator]
        return loss


def random_direction(model: nn.Module, seed: int) -> list[Tensor]:
    """Normal numbers in the shapes of the weights, not normalised."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(w.shape, generator=generator).to(w)
        for w in weights_of(model)
    ]


def rise(
    model: nn.Module, batches: Sequence[Batch], alpha: float = 0.25
) -> float:
    """How much the loss rises alpha away, in eight filter-normalised directions.

    A measure of sharpness that does not depend on how layers are scaled: alpha is
    relative to the length of each row.
    """
    weights, loss = weights_of(model), loss_of(model, batches)
    found = []
    for seed in range(4):
        direction = filter_direction(weights, random_direction(model, seed))
        for sign in (-1, 1):
            moved = [
                w + sign * alpha * d
                for w, d in zip(weights, direction, strict=True)
            ]
            found.append(loss(moved))
    return (torch.stack(found).mean() - loss(weights)).item()


@dataclass(frozen=True)
class Plane:
    """Two directions through the trained weights.

    Attributes:
        first_P, second_P: the directions.
        path_K2: where the path's points lie in the plane; (0, 0) is the end.
        share: of the path's squared length from the end, what the plane shows.
        x, y: where the loss is evaluated.
    """

    first_P: Tensor
    second_P: Tensor
    path_K2: Tensor
    share: float
    x: list[float]
    y: list[float]


def random_plane(model: nn.Module, path: Sequence[Tensor], seed: int) -> Plane:
    """Two random filter-normalised directions (Li et al. 2018)."""
    weights = weights_of(model)
    both = [
        parameters_to_vector(
            filter_direction(weights, random_direction(model, seed + i))
        )
        for i in (0, 1000)
    ]
    sides = torch.linspace(-1, 1, SIDE).tolist()
    return _plane(model, path, both, sides, sides)


def path_plane(model: nn.Module, path: Sequence[Tensor]) -> Plane:
    """The two directions along which the path moves most (Li et al., section 7).

    Principal components of the path's points, seen from the end. Here alpha is a
    distance, not relative to rows.

    Raises:
        LabError: a path of fewer than 3 points, which has no two directions.
    """
    if len(path) < 3:
        raise LabError(
            f"A path of {len(path)} points: use at least 3, for a plane through it."
        )
    end_P = parameters_to_vector(weights_of(model))
    away_KP = torch.stack([w_P - end_P for w_P in path])
    both = torch.linalg.svd(away_KP, full_matrices=False).Vh[:2]
    # A component may point either way: the path is to begin on the positive side.
    signs = torch.sign(both @ away_KP[0])
    both = both * torch.where(signs == 0, 1.0, signs)[:, None]
    place_K2 = away_KP @ both.t()
    sides = []
    for column in (0, 1):
        low = min(0.0, place_K2[:, column].min().item())
        high = max(0.0, place_K2[:, column].max().item())
        margin = 0.25 * max(high - low, 1e-6)
        sides.append(
            torch.linspace(low - margin, high + margin, SIDE).tolist()
        )
    return _plane(model, path, list(both), *sides)


def _plane(
    model: nn.Module,
    path: Sequence[Tensor],
    both: list[Tensor],
    x: list[float],
    y: list[float],
) -> Plane:
    end_P = parameters_to_vector(weights_of(model))
    away_KP = torch.stack([w_P - end_P for w_P in path])
    basis_P2 = torch.stack(both, dim=1)
    place_K2 = torch.linalg.lstsq(basis_P2, away_KP.t()).solution.t()
    seen_KP = place_K2 @ basis_P2.t()
    share = seen_KP.square().sum() / away_KP.square().sum().clamp(min=1e-30)
    return Plane(both[0], both[1], place_K2, share.item(), x, y)


def losses_on(
    plane: Plane, model: nn.Module, batches: Sequence[Batch]
) -> list[list[float]]:
    """The loss at every point of the plane: a list for each y, one entry for each x."""
    loss, weights = loss_of(model, batches), weights_of(model)
    end_P = parameters_to_vector(weights)
    sizes = [w.numel() for w in weights]

    def at(x: float, y: float) -> float:
        w_P = end_P + x * plane.first_P + y * plane.second_P
        parts = zip(w_P.split(sizes), weights, strict=True)
        return round(loss([part.view_as(w) for part, w in parts]).item(), 3)

    return [[at(x, y) for x in plane.x] for y in plane.y]


@torch.no_grad()
def rescaled_twin(model: nn.Module, factor: float) -> list[Tensor]:
    """Other weights of the same function: `up` times a factor, `down` over it.

    What a SwiGLU computes is linear in `up` and in `down`, so nothing changes but
    the numbers (Dinh et al. 2017, arXiv 1703.04933, for ReLU).
    """
    found = []
    for name, w in model.named_parameters():
        scale = factor if name.endswith("ffn.up.weight") else 1.0
        if name.endswith("ffn.down.weight"):
            scale = 1 / factor
        found.append(w.detach() * scale)
    return found
