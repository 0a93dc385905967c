"""AdamW, clipping and a step of training, over weights that lie on several ranks."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from labsupport.distributed.parallel.engine import ParallelGPT
from labsupport.distributed.parallel.whole import local
from labsupport.errors import LabError
from labsupport.train import Recipe


def make_adamw(model: ParallelGPT, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW over this rank's weights; it decays matrices only.

    The fused AdamW updates a group of tensors in one call, and one call takes tensors
    of one mesh. So weights are grouped by what they are cut over, too.
    """
    groups: dict[Any, list[nn.Parameter]] = defaultdict(list)
    for _, p in model.held():
        mesh = p.device_mesh if isinstance(p, DTensor) else None
        groups[p.dim() >= 2, mesh].append(p)
    return torch.optim.AdamW(
        [
            {"params": params, "weight_decay": recipe.weight_decay if decays else 0.0}
            for (decays, _), params in groups.items()
        ],
        lr=recipe.lr,
        betas=(recipe.beta1, recipe.beta2),
        fused=True,
    )


@torch.no_grad()
def clip_gradients(model: ParallelGPT, longest: float) -> float:
    """Shorten all gradients together, as in one process; returns their length before.

    A rank adds up the squares of what it holds. A number that several ranks hold is
    divided by how many they are: so one sum over all ranks counts it once.
    """
    layout = model.layout
    held: list[Tensor] = []
    square = torch.zeros((), device=model.device)
    for name, p in model.held():
        if p.grad is None:
            continue
        held.append(local(p.grad))
        copies = layout.world / (layout.pipeline * model.pieces(name, p))
        square += held[-1].float().square().sum() / copies
    if layout.world > 1:
        dist.all_reduce(square)
    length = square.sqrt().item()
    # As torch.nn.utils.clip_grad_norm_ does it.
    torch._foreach_mul_(held, min(1.0, longest / (length + 1e-6)))
    return length


def train_step(
    model: ParallelGPT,
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    step: int,
    batch: tuple[Tensor, Tensor],
) -> float:
    """Update the weights by one batch, as `train.training_steps` does.

    Args:
        step: 0, 1, ...; it decides the learning rate.
        batch: the whole one, the same on all ranks.

    Returns:
        The loss of the batch before the update.

    Raises:
        LabError: a loss or gradient that is NaN or infinite; weights are left alone.
    """
    for group in optimizer.param_groups:
        group["lr"] = recipe.learning_rate(step)
    model.zero_grad()
    loss = model.forward_backward(*batch).item()
    length = clip_gradients(model, recipe.clip)
    if not math.isfinite(loss + length):
        raise LabError(
            f"Step {step + 1}: loss {loss:g}, gradient of length {length:g}; the "
            "weights were left as they are. Use a smaller learning rate."
        )
    optimizer.step()
    return loss
