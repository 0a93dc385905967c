"""The noise scale over a training, and batches that follow it.

Shape suffixes: G groups of a batch, B sequences, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from labs.lab_04b.exploring import validation
from labs.lab_04b.plan import GPT_PLANS
from labs.lab_04b.workers import update
from labsupport.nn import GPT
from labsupport.settings import Scale, choose_settings, seed_everything
from labsupport.tasks.corpus import Corpus
from labsupport.train import Recipe, make_optimizer, mean_loss
from labsupport.train.noise_scale import (
    NoiseScale,
    small_batch,
    two_batch_estimate,
)

GROUPS = 4
"""G: each batch is computed in so many parts, whose gradients are compared."""


@dataclass(frozen=True)
class Measured:
    """One step of a training that watches its noise.

    Attributes:
        loss: of the batch.
        batch: its sequences.
        signal, noise: this step's estimates of |G|^2 and tr(Sigma), per sequence.
    """

    loss: float
    batch: int
    signal: float
    noise: float


def watched_steps(
    model: nn.Module,
    seed: int,
    scale: Scale,
    *,
    lr: float,
    sequences: int,
    next_batch: Callable[[int], int],
    base: int,
) -> Iterator[Measured]:
    """Train until so many sequences are read; each batch is computed in groups.

    The learning rate follows the sequences read, not the steps, and the square root
    of the batch: what suits Adam (Malladi et al. 2022, arXiv 2205.10287).

    Args:
        model: trained in place.
        lr: the highest rate, at a batch of `base`.
        sequences: how many in all.
        next_batch: the batch for a step, a multiple of GROUPS.
        base: B_0.
    """
    plan, corpus = GPT_PLANS[scale], Corpus.load()
    device = next(model.parameters()).device
    optimizer = make_optimizer(model, Recipe(sequences, lr))
    seen = step = 0
    while seen < sequences:
        B = min(next_batch(step), sequences - seen)
        batch = corpus.batch(
            "train", step, batch_size=B, length=plan.length, seed=seed
        )
        parts = list(
            zip(*(x.to(device).chunk(GROUPS) for x in batch), strict=True)
        )
        sizes = [len(tokens_BT) for tokens_BT, _ in parts]
        losses, each_GP = zip(
            *(_gradient(model, *part) for part in parts), strict=True
        )
        pairs = list(zip(sizes, each_GP, strict=True))
        mean_P = sum(size * g_P for size, g_P in pairs) / B
        small = sum(g.square().sum().item() for g in each_GP) / len(sizes)
        big = mean_P.square().sum().item()
        signal, noise = two_batch_estimate(small, big, small_batch(sizes), B)
        rate = Recipe(sequences, lr * (B / base) ** 0.5)
        update(model, optimizer, mean_P, rate, seen)
        seen, step = seen + B, step + 1
        loss = sum(n * each for n, each in zip(sizes, losses, strict=True)) / B
        yield Measured(loss, B, signal, noise)


def _gradient(
    model: nn.Module, tokens_BT: Tensor, targets_BT: Tensor
) -> tuple[float, Tensor]:
    loss = model.loss(tokens_BT, targets_BT)  # type: ignore[operator]
    grads = torch.autograd.grad(loss, list(model.parameters()))
    return loss.item(), parameters_to_vector(grads)


def fresh_model(seed: int, scale: Scale) -> GPT:
    """The GPT before its training."""
    seed_everything(seed)
    model = GPT(GPT_PLANS[scale].config)
    return model.to(choose_settings(scale, seed).device)


WINDOWS = 8
"""Of the curve of a training: estimates are averaged within each."""
KNOWN = 24.0
"""B_simple of the positive control's gradients."""


def noise_row(arm: str, seed: int, scale: Scale) -> dict[str, Any]:
    """|G|^2 and tr(Sigma) of a training, averaged over windows of steps.

    "known" is the control: no model, but gradients with a known noise scale.

    Returns:
        signal, noise: by window. loss: by window, none for the control.
    """
    plan = GPT_PLANS[scale]
    steps = plan.steps - plan.steps % WINDOWS
    if arm == "known":
        found = list(known_gradients(seed, steps, plan.batch_size))
    else:
        found = list(
            watched_steps(
                fresh_model(seed, scale),
                seed,
                scale,
                lr=plan.lr,
                sequences=steps * plan.batch_size,
                next_batch=lambda step: plan.batch_size,
                base=plan.batch_size,
            )
        )
    size = steps // WINDOWS
    parts = [found[i : i + size] for i in range(0, steps, size)]
    row: dict[str, Any] = {
        "signal": [sum(m.signal for m in part) / size for part in parts],
        "noise": [sum(m.noise for m in part) / size for part in parts],
    }
    if arm != "known":
        row["loss"] = [
            round(sum(m.loss for m in part) / size, 4) for part in parts
        ]
    return row


def known_gradients(
    seed: int, steps: int, batch: int, dimensions: int = 1000
) -> Iterator[Measured]:
    """Vectors with |G|^2 = 1 and tr(Sigma) = KNOWN, in groups as a batch's."""
    generator = torch.Generator().manual_seed(seed)
    G_P = torch.full((dimensions,), dimensions**-0.5)
    each = batch / GROUPS
    for _ in range(steps):
        noise_GP = torch.randn(GROUPS, dimensions, generator=generator)
        each_GP = G_P + (KNOWN / dimensions / each) ** 0.5 * noise_GP
        small = each_GP.square().sum(1).mean().item()
        big = each_GP.mean(0).square().sum().item()
        signal, noise = two_batch_estimate(small, big, each, batch)
        yield Measured(0.0, batch, signal, noise)


LARGEST = 8
"""How many times the first batch a batch may become."""
EVERY = 8
"""Steps between changes of the adaptive batch."""


class AdaptiveBatch:
    """A batch that follows the noise scale: its nearest multiple of GROUPS.

    Args:
        base: B_0, the first batch and the smallest one.
    """

    def __init__(self, base: int) -> None:
        self.base = self.batch = base
        self.scale = NoiseScale(0.9)

    def add(self, measured: Measured) -> None:
        """Take a step's estimates."""
        # Squares that have these estimates: what NoiseScale takes.
        small, big = measured.batch / GROUPS, float(measured.batch)
        squares = (measured.signal + measured.noise / b for b in (small, big))
        self.scale.add(*squares, small, big)

    def __call__(self, step: int) -> int:
        """The batch of a step."""
        if step and step % EVERY == 0:
            wanted = min(self.scale.value, LARGEST * self.base)
            wanted = max(wanted, self.base)
            self.batch = GROUPS * round(wanted / GROUPS)
        return self.batch


def batch_row(
    arm: str, seed: int, scale: Scale, *, lr: float
) -> dict[str, Any]:
    """The same number of sequences in small, large or adaptive batches.

    Returns:
        validation: nats a byte. steps: how many updates that took.
        batches: the batch at eight places along the way.
    """
    plan = GPT_PLANS[scale]
    base = plan.batch_size
    adaptive = AdaptiveBatch(base)
    rules: dict[str, Callable[[int], int]] = {
        "small": lambda step: base,
        "large": lambda step: LARGEST * base,
        "adaptive": adaptive,
    }
    model = fresh_model(seed, scale)
    taken = []
    for measured in watched_steps(
        model,
        seed,
        scale,
        lr=lr,
        sequences=plan.steps * base,
        next_batch=rules[arm],
        base=base,
    ):
        adaptive.add(measured)
        taken.append(measured.batch)
    places = [i * (len(taken) - 1) // 7 for i in range(8)]
    return {
        "validation": round(mean_loss(model, validation(scale, 64)), 5),
        "steps": len(taken),
        "batches": [taken[i] for i in places],
    }
