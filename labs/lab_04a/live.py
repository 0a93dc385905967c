"""Top-k with the reader's own error feedback, as a hook."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from labs.lab_04a.methods import SHARE
from labs.lab_04a.plan import GPT_PLANS
from labs.lab_04a.training import Worker
from labsupport.distributed.fusion import TopKFusion
from labsupport.distributed.fusion.message import all_finite
from labsupport.settings import Scale

Compress = Callable[[Tensor], Tensor]
Feedback = Callable[[Tensor, Tensor, Compress], tuple[Tensor, Tensor]]
"""(g, e, compress) -> sent, residual."""


def forget(g: Tensor, e: Tensor, compress: Compress) -> tuple[Tensor, Tensor]:
    """No feedback: what is not sent is lost."""
    return compress(g.clone()), torch.zeros_like(e)


class OwnFeedback(TopKFusion):
    """The largest numbers of what `feedback` makes of gradient and residual.

    Args:
        share: of the numbers of each parameter.
        feedback: the reader's, or `forget`.
    """

    def __init__(
        self, share: float, feedback: Feedback, **options: Any
    ) -> None:
        super().__init__(share, torch.float32, **options)
        self.feedback = feedback

    def largest(self, u: Tensor) -> Tensor:
        """All but the largest numbers are 0."""
        kept = torch.zeros_like(u)
        index_k = self.choose("", u)
        kept[index_k] = u[index_k]
        return kept

    def fuse(self, named: dict[str, Tensor]) -> bool:
        finite = all_finite(named.values())
        places, values, total = [], [], 0
        residuals: dict[str, Tensor] = {}
        for name, gradient in named.items():
            g = gradient.flatten()
            kept = self.residual(name)
            e = torch.zeros_like(g) if kept is None else kept.flatten()
            sent, residuals[name] = self.feedback(g, e, self.largest)
            index = sent.nonzero().flatten()
            places.append((total + index).to(torch.int32))
            values.append(sent[index])
            total += g.numel()
        fused = self.gather(
            torch.cat(places), torch.cat(values), total, finite
        )
        if fused is None:
            return False
        for name, residual in residuals.items():
            self.keep_residual(name, residual.view_as(named[name]))
        sizes = [gradient.numel() for gradient in named.values()]
        for gradient, piece in zip(
            named.values(), fused.split(sizes), strict=True
        ):
            gradient.copy_(piece.view_as(gradient))
        return True


def train_live(
    arm: str,
    seed: int,
    scale: Scale,
    dist: Any,
    log: Callable[..., None],
    *,
    feedback: Feedback | None = None,
    steps: int | None = None,
    share: float = SHARE,
    device: torch.device | str = "cpu",
) -> float:
    """Train on this rank, loss by loss; returns the validation loss.

    Args:
        arm: one of ARMS; with `feedback` it is top-k with that.
        log: gets step and loss.
        steps: fewer than the plan's: the rest is left out, learning rates stay.
        share: of top-k.
        device: where to train.
    """
    own = None if feedback is None else OwnFeedback(share, feedback)
    worker = Worker(
        arm, seed, GPT_PLANS[scale], dist, fusion=own, device=device
    )
    for result in worker.steps():
        log(result.step, loss=result.loss)
        if steps is not None and result.step >= steps:
            break
    return worker.validation(4 * dist.get_world_size())
