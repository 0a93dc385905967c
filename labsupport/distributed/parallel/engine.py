"""A GPT on the ranks of a layout, and one step of it.

    model = apply(GPT(config), layout, mesh)
    loss = model.forward_backward(tokens_BT, targets_BT)

Every rank makes the whole model from the same seed and gives away what is not its own;
every rank is given the whole batch and computes its own rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import (
    PipelineScheduleSingle,
    get_schedule_class,
)
from torch.distributed.tensor import DTensor, Shard

from labsupport.distributed.parallel.data import spread
from labsupport.distributed.parallel.experts import (
    experts_of,
    spread_experts,
    sum_gradients,
)
from labsupport.distributed.parallel.heads import separate_qkv
from labsupport.distributed.parallel.layout import Layout, check
from labsupport.distributed.parallel.mesh import data_index
from labsupport.distributed.parallel.schedules import SCHEDULES
from labsupport.distributed.parallel.stages import Stage, blocks_of_stages
from labsupport.distributed.parallel.tensor import cut_block
from labsupport.distributed.parallel.whole import pieces, put_together
from labsupport.nn import GPT


def apply(
    model: GPT,
    layout: Layout,
    mesh: DeviceMesh,
    *,
    bucket_cap_mb: float | None = None,
) -> ParallelGPT:
    """Cut a model by a layout; all ranks call this with the same weights.

    Args:
        model: on the device of the mesh; it is taken apart.
        layout: how the work is shared.
        mesh: of this layout (mesh.py).
        bucket_cap_mb: the size of DDP's buckets in MiB; None for torch's own.

    Raises:
        LabError: a layout that does not fit the model or the ranks.
    """
    # Any batch will do here: each one is checked when it comes.
    rows = layout.data * layout.microbatches
    check(
        layout,
        model.config,
        world=mesh.size(),
        batch_size=rows,
        experts=experts_of(model),
    )
    return ParallelGPT(model, layout, mesh, bucket_cap_mb)


def token_loss(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """Mean cross-entropy in nats, in float32."""
    return F.cross_entropy(logits_BTV.float().flatten(0, 1), targets_BT.flatten())


class ParallelGPT:
    """What one rank has of a GPT; made by `apply`.

    Attributes:
        layout, mesh: as given.
        config: of the whole model.
        shapes: of every weight of the whole model, by its name.
        parts: this rank's stages; without a pipeline one, the model itself.
        own: names of the weights of experts that live on this rank.
    """

    def __init__(
        self, model: GPT, layout: Layout, mesh: DeviceMesh, bucket_cap_mb: float | None
    ) -> None:
        self.layout, self.mesh, self.config = layout, mesh, model.config
        self.experts = experts_of(model)
        self.device = next(model.parameters()).device
        separate_qkv(model)
        self.shapes = {name: p.shape for name, p in model.named_parameters()}
        if layout.tensor > 1:
            for block in model.blocks:
                cut_block(block, mesh["tensor"])
        self.own: set[str] = set()
        if layout.expert > 1:
            self.own = spread_experts(model, mesh)
        self.numbers = [0]  # of this rank's stages
        self.parts: list[nn.Module] = [model]
        if layout.pipeline > 1:
            self.numbers = SCHEDULES[layout.schedule].stages_of(
                mesh.get_local_rank("pipeline"), layout.pipeline
            )
            blocks = blocks_of_stages(self.config.n_layers, layout.stages)
            self.parts = [Stage(model, blocks[number]) for number in self.numbers]
        if layout.expert == 1:
            self.parts = [spread(p, layout, mesh, bucket_cap_mb) for p in self.parts]
        self._schedules: dict[tuple[int, ...], Any] = {}

    # --- a step ----------------------------------------------------------------

    def forward_backward(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """The loss of the whole batch, on every rank; gradients are added to `.grad`.

        Args:
            tokens_BT, targets_BT: the whole batch, the same on all ranks.

        Raises:
            LabError: rows that cannot be shared out equally.
        """
        return self.loss_of_all(self.backward(tokens_BT, targets_BT))

    def backward(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """The loss of this rank's rows; 0 where another rank has the last stage.

        Gradients are those of the whole batch, but cut as the weights are.
        """
        tokens_BT, targets_BT = self.rows_of(tokens_BT), self.rows_of(targets_BT)
        if self.layout.pipeline > 1:
            return self._run_pipeline(tokens_BT, targets_BT)
        loss = token_loss(self.parts[0](tokens_BT), targets_BT)
        loss.backward()
        if self.layout.expert > 1:
            whole = cast(GPT, self.parts[0])
            sum_gradients(whole, self.own, self.mesh, self.layout.data)
        return loss.detach()

    def loss_of_all(self, loss: Tensor) -> Tensor:
        """The mean over all rows, from what `backward` gives on each rank."""
        # Ranks of the tensor axis have the same rows, and count them once each.
        share = loss / (self.layout.data * self.layout.tensor)
        if self.layout.world > 1:
            dist.all_reduce(share)
        return share

    def loss_and_gradients(
        self, tokens_BT: Tensor, targets_BT: Tensor
    ) -> tuple[float, dict[str, Tensor]]:
        """What one process would have: the loss, and every whole gradient by name.

        For comparisons: it gathers what no rank has to hold in a training.
        """
        self.zero_grad()
        loss = self.forward_backward(tokens_BT, targets_BT)
        grads = {name: cast(Tensor, p.grad) for name, p in self.held()}
        grads = {name: self.as_cut(name, g) for name, g in grads.items()}
        return loss.item(), put_together(grads, self.shapes, self.mesh)

    def rows_of(self, x_BT: Tensor) -> Tensor:
        """This rank's rows of a batch."""
        check(
            self.layout,
            self.config,
            world=self.layout.world,
            batch_size=len(x_BT),
            experts=self.experts,
        )
        b = len(x_BT) // self.layout.data
        first = b * data_index(self.mesh)
        return x_BT[first : first + b].to(self.device)

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad()

    # --- what this rank has ----------------------------------------------------

    def held(self) -> Iterator[tuple[str, nn.Parameter]]:
        """This rank's weights, by their names in the whole model."""
        for part in self.parts:
            for name, p in part.named_parameters():
                yield name.removeprefix("module."), p  # DDP's prefix

    def as_cut(self, name: str, x: Tensor) -> Tensor:
        """A tensor that belongs to a weight, as a DTensor that knows the whole."""
        if name not in self.own:
            return x
        return DTensor.from_local(x.detach(), self.mesh["expert"], [Shard(0)])

    def pieces(self, name: str, x: Tensor) -> int:
        """Into how many different parts a weight is cut over the ranks of its stage."""
        return self.layout.expert if name in self.own else pieces(x)

    def weights(self) -> dict[str, Tensor]:
        """Every whole weight by name, on every rank."""
        held = {name: self.as_cut(name, p.detach()) for name, p in self.held()}
        return put_together(held, self.shapes, self.mesh)

    # --- a pipeline ------------------------------------------------------------

    def _run_pipeline(self, tokens_bT: Tensor, targets_bT: Tensor) -> Tensor:
        schedule = self._schedule(*tokens_bT.shape)
        first = 0 in self.numbers
        last = self.layout.stages - 1 in self.numbers
        losses: list[Tensor] = []
        schedule.step(
            *([tokens_bT] if first else []),
            target=targets_bT if last else None,
            losses=losses if last else None,
            return_outputs=False,
        )
        if not last:
            return torch.zeros((), device=self.device)
        return torch.stack([loss.detach() for loss in losses]).mean()

    def _schedule(self, b: int, T: int) -> Any:
        """torch's schedule for rows of this shape; its buffers have their sizes."""
        if (b, T) in self._schedules:
            return self._schedules[b, T]
        kind, layout = SCHEDULES[self.layout.schedule], self.layout
        stages = [
            self._stage(part, number, b // layout.microbatches, T)
            for part, number in zip(self.parts, self.numbers, strict=True)
        ]
        cls: Any = get_schedule_class(kind.torch_name)
        one = issubclass(cls, PipelineScheduleSingle)
        schedule = cls(
            stages[0] if one else stages, layout.microbatches, loss_fn=token_loss
        )
        self._schedules[b, T] = schedule
        return schedule

    def _stage(self, part: nn.Module, number: int, b: int, T: int) -> PipelineStage:
        """With the shapes of its messages, so that torch need not try them out."""
        D, V = self.config.d_model, self.config.vocab_size
        tokens_bT = torch.empty(b, T, dtype=torch.int64, device="meta")
        x_bTD = torch.empty(b, T, D, device="meta", requires_grad=True)
        logits_bTV = torch.empty(b, T, V, device="meta", requires_grad=True)
        last = number == self.layout.stages - 1
        return PipelineStage(
            part,
            number,
            self.layout.stages,
            self.device,
            input_args=x_bTD if number else tokens_bT,
            output_args=logits_bTV if last else x_bTD,
            group=self.mesh.get_group("pipeline"),
        )
