"""Averages of weights along a training: EMA and LAWA.

Both cost no gradient. The training does not see the average; it is a second set of
weights, to be evaluated or kept in place of the last ones.

    EMA    w_avg <- d w_avg + (1 - d) w        after every step
    LAWA   w_avg = mean of the last k snapshots, one every n steps

EMA is Polyak averaging with a fading memory of about 1 / (1 - d) steps. LAWA is
latest weight averaging (Kaddour 2022, arXiv 2209.14981).

Both hang on the optimizer, so that they have seen a step before it is evaluated:

    average = EMA(model, decay=0.99)
    run = train(model, ..., prepare=average.attach)
    loss = mean_loss(average.model, batches)

The model has to be on its device by then: the average is made of it as it is.
"""

from __future__ import annotations

import copy
from collections import deque

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from labsupport.errors import LabError


class EMA:
    """An exponential moving average of a model's weights.

    It begins with the weights after the first step.

    Args:
        model: what is trained; it is not changed.
        decay: d, above 0 and below 1.

    Raises:
        LabError: a decay outside that range.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise LabError(f"decay={decay}: use a number between 0 and 1.")
        self.trained = model
        self.averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))

    def update(self) -> None:
        """Take the weights after a step."""
        self.averaged.update_parameters(self.trained)

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Update after each step of the optimizer, for `train(prepare=...)`."""
        optimizer.register_step_post_hook(lambda *_: self.update())

    @property
    def model(self) -> nn.Module:
        """The model with averaged weights."""
        module: nn.Module = self.averaged.module
        return module


class LAWA:
    """The mean of the latest k snapshots of a model's weights.

    Before the first snapshot it is the model as it was handed over. k snapshots are
    kept, so it takes k times the memory of the weights.

    Args:
        model: what is trained; it is not changed.
        latest: k, how many snapshots are averaged.
        every: n, steps between snapshots.

    Raises:
        LabError: numbers below 1.
    """

    def __init__(self, model: nn.Module, latest: int, every: int) -> None:
        for name, value in (("latest", latest), ("every", every)):
            if value < 1:
                raise LabError(f"{name}={value}: use at least 1.")
        self.snapshots: deque[list[Tensor]] = deque(maxlen=latest)
        self.every, self.steps = every, 0
        self.trained, self._model = model, copy.deepcopy(model)

    def update(self) -> None:
        """Count a step, and take a snapshot if it is time for one."""
        self.steps += 1
        if self.steps % self.every == 0:
            now = [p.detach().clone() for p in self.trained.parameters()]
            self.snapshots.append(now)

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Update after each step of the optimizer, for `train(prepare=...)`."""
        optimizer.register_step_post_hook(lambda *_: self.update())

    @property
    @torch.no_grad()
    def model(self) -> nn.Module:
        """The model with averaged weights."""
        columns = zip(*self.snapshots, strict=True)
        for weight, values in zip(self._model.parameters(), columns, strict=False):
            weight.copy_(torch.stack(values).mean(0))
        return self._model
