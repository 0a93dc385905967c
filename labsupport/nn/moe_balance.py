"""Keep the experts of a mixture evenly loaded: loss-free biases, auxiliary losses.

A router that learns freely sends most tokens to few experts. Two cures:

- `LoadBalancer` moves a bias of each expert after every step, by how many tokens
  the expert got. The bias takes part in the selection only, and no gradient
  passes through it (Wang et al., arXiv 2408.15664, algorithm 1; DeepSeek-V3,
  arXiv 2412.19437, section 2.1.2).
- `auxiliary_loss` adds a term to the loss that is small when loads are even
  (DeepSeek-V3, equations 17 to 20).

`max_violation` measures how uneven loads are.

Shape suffixes: N tokens, B sequences, T tokens of a sequence, E experts, K experts
of a token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from labsupport.errors import LabError
from labsupport.nn.moe import MixtureOfExperts, Routing

Scope = Literal["sequence", "batch"]
Update = Callable[[Tensor, Tensor, float], Tensor]
"""(bias_E, count_E, speed) -> the new bias_E."""


def sign_update(bias_E: Tensor, count_E: Tensor, speed: float) -> Tensor:
    """b + u sign(mean(c) - c): algorithm 1 of 2408.15664.

    Args:
        bias_E: b.
        count_E: c, tokens that each expert got in the whole batch.
        speed: u; 0.001 in DeepSeek-V3, and 0 for its last 500 billion tokens.
    """
    count_E = count_E.to(bias_E.dtype)
    return bias_E + speed * torch.sign(count_E.mean() - count_E)


def max_violation(count_E: Tensor) -> float:
    """MaxVio = (largest load - mean load) / mean load (2408.15664, equation 4).

    0 means even loads; E - 1 means that one expert gets everything. Of loads
    nobody has counted yet it is 0.
    """
    count_E = count_E.double()
    if not count_E.any():
        return 0.0
    return (count_E.max() / count_E.mean() - 1).item()


def moe_layers(model: nn.Module) -> list[MixtureOfExperts]:
    """The mixtures of a model, first layer first."""
    return [part for part in model.modules() if isinstance(part, MixtureOfExperts)]


class LoadBalancer:
    """Moves the biases of a model's mixtures, once for every optimizer step.

    A layer counts its tokens in every forward pass of the training, so counts span
    whatever gradients are accumulated before the step. Over several ranks they are
    summed before the update: the rule is about the whole batch, and all ranks have
    to keep the same biases.

    Args:
        model: holds at least one `MixtureOfExperts`.
        speed: u, how far a bias moves in one step. Scores lie between 0 and 1.
        update: the rule.
        group: the ranks whose counts are summed; None for all of them.

    Attributes:
        load_LE: the counts of the latest step, a row for each layer; None before.

    Raises:
        LabError: the model has no mixture, or a negative speed.
    """

    def __init__(
        self,
        model: nn.Module,
        speed: float,
        update: Update = sign_update,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self.layers = moe_layers(model)
        if not self.layers:
            raise LabError("LoadBalancer: the model has no MixtureOfExperts.")
        if speed < 0:
            raise LabError(f"LoadBalancer: speed={speed:g}; use 0 or more.")
        self.speed, self.rule, self.group = speed, update, group
        self.load_LE: Tensor | None = None

    def attach(self, optimizer: torch.optim.Optimizer) -> RemovableHandle:
        """Update before each of the optimizer's steps, until the handle is removed."""
        return optimizer.register_step_pre_hook(lambda *_: self.step())

    @torch.no_grad()
    def step(self) -> None:
        """Take the counts, move the biases, begin to count anew."""
        count_LE = torch.stack([layer.count_E for layer in self.layers])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(count_LE, group=self.group)  # one message for all layers
        self.load_LE = count_LE
        for layer, count_E in zip(self.layers, count_LE, strict=True):
            if count_E.any():
                layer.bias_E.copy_(self.rule(layer.bias_E, count_E, self.speed))
            layer.count_E.zero_()


@contextmanager
def routings(model: nn.Module) -> Iterator[list[Routing]]:
    """Collect what every mixture of a model decides, inside a `with`.

    One entry for each forward of a layer, in their order; its scores are part of
    autograd's graph.
    """
    found: list[Routing] = []
    layers = moe_layers(model)
    for layer in layers:
        layer.watchers.append(found.append)
    try:
        yield found
    finally:
        for layer in layers:
            layer.watchers.remove(found.append)


def auxiliary_loss(routing: Routing, scope: Scope = "sequence") -> Tensor:
    """sum_i f_i P_i: 1 when loads are even (DeepSeek-V3, equations 17 to 20).

    f_i counts how often expert i was chosen, times E / K so that even loads give
    1. P_i is its mean share of the scores, and the only part with a gradient. Both
    are taken over one sequence, then averaged, or over the whole batch.

    Raises:
        LabError: a scope that is neither.
    """
    if scope not in ("sequence", "batch"):
        raise LabError(f"scope={scope!r}: use 'sequence' or 'batch'.")
    B = routing.sequences if scope == "sequence" else 1
    score_NE, index_NK = routing.score_NE, routing.index_NK
    E, K = score_NE.shape[1], index_NK.shape[1]
    share_BTE = (score_NE / score_NE.sum(1, keepdim=True)).unflatten(0, (B, -1))
    index_BT = index_NK.reshape(B, -1)
    chosen_BE = score_NE.new_zeros(B, E).scatter_add_(
        1, index_BT, torch.ones_like(index_BT, dtype=score_NE.dtype)
    )
    f_BE = chosen_BE * E / (K * share_BTE.shape[1])
    return (f_BE * share_BTE.mean(1)).sum(1).mean()


@dataclass(frozen=True)
class AuxiliaryLoss:
    """A `loss_fn` for `train`: the model's loss plus alpha times the balance's.

    Attributes:
        alpha: the coefficient; the mean is taken over layers.
        scope: see `auxiliary_loss`.
    """

    alpha: float
    scope: Scope = "sequence"

    def __call__(self, model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
        with routings(model) as found:
            loss: Tensor = model.loss(*batch)
        terms = [auxiliary_loss(routing, self.scope) for routing in found]
        return loss + self.alpha * torch.stack(terms).mean()
