"""Weights instead of gradients, and only every H steps.

    local SGD   every worker trains by itself; every H steps the weights become the
                workers' mean (arXiv 1805.09767)
    DiLoCo      how far the workers came in H steps is taken for a gradient, and an
                outer optimizer with momentum follows it (arXiv 2311.08105, Algorithm 1)

        delta = theta_0 - mean_i theta_i       v <- mu v + delta
        theta_0 <- theta_0 - outer_lr * (delta + mu v)        (Nesterov)

Local SGD is DiLoCo with outer_lr = 1 and mu = 0. The inner optimizer's moments stay
with each worker. A step sends a H-th of what an all-reduce in every step would.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from labsupport.distributed.fusion.message import all_reduce_bytes, all_reduce_mean
from labsupport.errors import LabError


class DiLoCo:
    """Call `after_step()` after every step of the inner optimizer.

    The inner optimizer works on a model that is not wrapped in DDP.

    Attributes:
        step: inner steps done.

    Args:
        model: the worker's; all workers begin with the same weights.
        every: H.
        outer_lr: of the outer optimizer.
        momentum: mu of the outer optimizer.
        dtype: what differences travel as.
        dist: `torch.distributed`.
        group: the process group; None is all ranks.

    Raises:
        LabError: H below 1.
    """

    def __init__(
        self,
        model: nn.Module,
        every: int,
        outer_lr: float = 0.7,
        momentum: float = 0.9,
        dtype: torch.dtype = torch.float32,
        dist: Any = torch.distributed,
        group: Any = None,
    ) -> None:
        if every < 1:
            raise LabError(f"every={every}: use at least 1 step between two means.")
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.every, self.outer_lr, self.momentum = every, outer_lr, momentum
        self.dtype, self.dist, self.group = dtype, dist, group
        self.step = 0
        self.theta = [p.detach().clone() for p in self.parameters]
        self.velocity = [torch.zeros_like(p) for p in self.theta]

    @torch.no_grad()
    def after_step(self) -> bool:
        """Count a step; every H-th time, meet. True if the workers met."""
        self.step += 1
        if self.step % self.every:
            return False
        deltas = [
            before - p.detach()
            for before, p in zip(self.theta, self.parameters, strict=True)
        ]
        _, mean = all_reduce_mean(deltas, self.dtype, self.dist, self.group)
        for p, before, velocity, delta in zip(
            self.parameters, self.theta, self.velocity, mean, strict=True
        ):
            velocity.mul_(self.momentum).add_(delta)
            before.sub_(self.outer_lr * (delta + self.momentum * velocity))
            p.copy_(before)
        return True

    def bytes_to_send(self) -> float:
        """Of one worker, mean over steps, by the formula."""
        W = self.dist.get_world_size(self.group)
        numbers = sum(p.numel() for p in self.parameters)
        return all_reduce_bytes(numbers, self.dtype, W) / self.every

    @property
    def memory_bytes(self) -> int:
        """What this worker keeps from step to step."""
        return sum(t.nbytes for t in [*self.theta, *self.velocity])

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint needs, beside the model and its optimizer."""
        state = {f"theta/{i}": t for i, t in enumerate(self.theta)}
        state |= {f"velocity/{i}": t for i, t in enumerate(self.velocity)}
        return state | {"step": torch.tensor(self.step)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state_dict` returned.

        Raises:
            LabError: it belongs to a model with other parameters.
        """
        if len(state) != 2 * len(self.theta) + 1:
            raise LabError(
                "the checkpoint is of a model with other parameters: load it into "
                "the model that it was saved from."
            )
        for i, (before, velocity) in enumerate(
            zip(self.theta, self.velocity, strict=True)
        ):
            before.copy_(state[f"theta/{i}"])
            velocity.copy_(state[f"velocity/{i}"])
        self.step = int(state["step"])


class LocalSGD(DiLoCo):
    """Every H steps the weights become the workers' mean.

    Args:
        model: the worker's; all workers begin with the same weights.
        every: H.
        options: dtype, dist and group of `DiLoCo`.
    """

    def __init__(self, model: nn.Module, every: int, **options: Any) -> None:
        super().__init__(model, every, outer_lr=1.0, momentum=0.0, **options)
