"""Training with the reader's own parts: two axes of ranks, data and tensor.

Ranks along the tensor axis compute the same samples; each holds its columns and rows of
every feed-forward layer, and all of the rest. Ranks along the data axis hold the same
weights and compute different samples; each keeps Adam's means for its part of them. So

    data = 1                              data = 2, tensor = 2
                                            tensor 0        tensor 1
    whole model, all samples      data 0    left halves     right halves     samples 0
                                  data 1    left halves     right halves     samples 1

Shape suffixes: B sequences, T tokens, N = B T, D model width, H hidden numbers of one
rank, P weights of one rank.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from labs.lab_05a.adam import Adam
from labs.lab_05a.exercises_core import (
    columns,
    rows,
    swiglu_on_ranks,
    zero_step,
)
from labs.lab_05a.opening import (
    LIVE_PLANS,
    Budget,
    budget_of,
    fresh_model,
)
from labsupport.errors import LabError
from labsupport.nn.gpt import SwiGLU
from labsupport.settings import Scale
from labsupport.tasks.corpus import Corpus

OnRanks = Callable[[Tensor, Tensor, Tensor, Tensor, Any], Tensor]
ZeroStep = Callable[[Tensor, Tensor, Adam, Any], Tensor]


class InGroup:
    """`torch.distributed` for the ranks of one group.

    Args:
        dist: `torch.distributed`.
        group: a process group that this rank belongs to.
    """

    def __init__(self, dist: Any, group: Any) -> None:
        self._dist, self._group = dist, group

    def __getattr__(self, name: str) -> Any:
        return partial(getattr(self._dist, name), group=self._group)


def two_axes(
    dist: Any, data: int, tensor: int, device_type: str = "cpu"
) -> tuple[InGroup, InGroup]:
    """This rank's groups along both axes; neighbours share the tensor axis.

    Args:
        dist: `torch.distributed`, with a process group.
        data, tensor: ranks along each axis.
        device_type: "cpu" or "cuda", where tensors live.

    Raises:
        LabError: their product is not the number of ranks.
    """
    from torch.distributed.device_mesh import init_device_mesh

    if data * tensor != dist.get_world_size():
        raise LabError(
            f"{data} x {tensor} for {dist.get_world_size()} ranks: the product has to "
            "be the number of ranks."
        )
    mesh = init_device_mesh(
        device_type, (data, tensor), mesh_dim_names=("data", "tensor")
    )
    return (
        InGroup(dist, mesh.get_group("data")),
        InGroup(dist, mesh.get_group("tensor")),
    )


class SwiGLUOnRanks(nn.Module):
    """One rank's share of a SwiGLU layer.

    Args:
        whole: the layer to take it from.
        dist: along the tensor axis.
        swiglu: exercise 5.1.
    """

    def __init__(self, whole: SwiGLU, dist: Any, swiglu: OnRanks) -> None:
        super().__init__()
        rank, W = dist.get_rank(), dist.get_world_size()

        def own(part: Callable[..., Tensor], layer: nn.Linear) -> nn.Parameter:
            # nn.Linear holds the transposed matrix.
            matrix = layer.weight.detach().t()
            return nn.Parameter(part(matrix, rank, W).contiguous().clone())

        self.gate_DH = own(columns, whole.gate)  # type: ignore[arg-type]
        self.up_DH = own(columns, whole.up)  # type: ignore[arg-type]
        self.down_HD = own(rows, whole.down)  # type: ignore[arg-type]
        self.dist, self.swiglu = dist, swiglu

    def forward(self, x_BTD: Tensor) -> Tensor:
        y_ND = self.swiglu(
            x_BTD.flatten(0, 1),
            self.gate_DH,
            self.up_DH,
            self.down_HD,
            self.dist,
        )
        return y_ND.view_as(x_BTD)


@dataclass
class Course:
    """What one rank did.

    Attributes:
        loss: of every step, over the whole batch; the same on all ranks.
        weights: how many this rank holds.
        held: bytes of weights, gradients and Adam's means.
        limit: its budget, in bytes.
    """

    loss: list[float] = field(default_factory=list)
    weights: int = 0
    held: dict[str, int] = field(default_factory=dict)
    limit: int = 0


def train_on_axes(
    data: Any,
    tensor: Any,
    scale: Scale,
    seed: int = 0,
    *,
    swiglu: OnRanks = swiglu_on_ranks,
    step: ZeroStep = zero_step,
    budget: Budget | None = None,
    device: torch.device | str = "cpu",
    watch: Callable[..., None] | None = None,
) -> Course:
    """Train the lab's GPT over two axes of ranks; every rank calls this.

    Args:
        data, tensor: `dist` along each axis; see `two_axes`.
        scale: chooses the plan.
        seed: of weights and data, the same on all ranks.
        swiglu: exercise 5.1.
        step: exercise 5.2.
        budget: what the rank may hold; the lab's own if absent.
        device: where the model lives.
        watch: called after each step with `step` and `loss`.

    Raises:
        LabError: a batch that the data axis does not divide, a hidden width that the
            tensor axis does not divide, or more bytes than the budget.
    """
    plan = LIVE_PLANS[scale]
    W = tensor.get_world_size()
    if plan.config.ffn_width % W:
        raise LabError(
            f"A hidden width of {plan.config.ffn_width} over {W} ranks: use a divisor "
            "of it."
        )
    model = fresh_model(scale, seed)
    for block in model.blocks:
        block.ffn = SwiGLUOnRanks(block.ffn, tensor, swiglu)  # type: ignore[arg-type]
    model.to(device)
    weights = list(model.parameters())
    budget = budget or Budget(budget_of(plan.config))
    course = Course(weights=sum(w.numel() for w in weights))
    budget.hold("weights", 4 * course.weights)
    adam, corpus = Adam(plan.lr), Corpus.load()
    for number in range(plan.steps):
        tokens_BT, targets_BT = corpus.batch(
            "train",
            number,
            batch_size=plan.batch_size,
            length=plan.length,
            seed=seed,
            rank=data.get_rank(),
            world=data.get_world_size(),
        )
        loss = model.loss(tokens_BT.to(device), targets_BT.to(device))
        gradients = torch.autograd.grad(loss, weights)
        gradient_P = torch.cat([g.reshape(-1) for g in gradients])
        if number == 0:
            budget.hold("gradients", 4 * gradient_P.numel())
        with torch.no_grad():
            old_P = parameters_to_vector(weights)
            vector_to_parameters(step(old_P, gradient_P, adam, data), weights)
        if number == 0:
            budget.hold("Adam's means", adam.bytes)
        total = loss.detach().clone()
        data.all_reduce(total)
        course.loss.append(total.item() / data.get_world_size())
        if watch is not None:
            watch(number, loss=course.loss[-1])
    course.held, course.limit = dict(budget.held), budget.limit
    return course
