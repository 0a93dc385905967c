"""Experts spread over ranks, as one more axis of a layout.

Rows of a batch are shared out over the expert axis as over copies; what travels
between its ranks are tokens, to their experts and back (expert_parallel.py).

A rank's backward leaves two kinds of gradients. Those of a weight that all ranks have
come from its own rows: they are summed over all ranks. Those of its experts come from
the rows of the whole expert axis already: they are summed over copies alone. Both are
then divided by the number of parts, as each part's loss is a mean.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from labsupport.distributed.expert_parallel import share_of
from labsupport.errors import LabError
from labsupport.nn import GPT, MixtureOfExperts

SPREAD = ("gate_up_ED2H", "down_EHD")
"""The weights of a mixture that have a row for each expert."""


class WithinGroup:
    """The functions of torch.distributed that experts need, within one group."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group

    def get_rank(self) -> int:
        return dist.get_rank(self.group)

    def get_world_size(self) -> int:
        return dist.get_world_size(self.group)

    def all_to_all_single(
        self,
        out: Tensor,
        x: Tensor,
        received: list[int] | None = None,
        sent: list[int] | None = None,
    ) -> None:
        dist.all_to_all_single(out, x, received, sent, group=self.group)


def experts_of(model: GPT) -> int:
    """E of the model's mixtures; 0 for a dense model."""
    ffn = cast(Any, model.blocks[0]).ffn
    return ffn.experts if isinstance(ffn, MixtureOfExperts) else 0


def spread_experts(model: GPT, mesh: DeviceMesh) -> set[str]:
    """Leave each block's experts of this rank, in place.

    Returns:
        The names of the weights that are now this rank's own.

    Raises:
        LabError: a block without experts.
    """
    within = WithinGroup(mesh.get_group("expert"))
    for block in cast(Iterable[Any], model.blocks):
        if not isinstance(block.ffn, MixtureOfExperts):
            raise LabError("expert above 1 needs a mixture of experts in every block.")
        block.ffn = share_of(block.ffn, within)
    names = (name for name, _ in model.named_parameters())
    return {name for name in names if name.rsplit(".", 1)[-1] in SPREAD}


def sum_gradients(model: GPT, own: set[str], mesh: DeviceMesh, parts: int) -> None:
    """Make each gradient that of the whole batch, one message for each kind.

    Args:
        model: after the backward of this rank's rows.
        own: names of the weights that only this rank and its copies have.
        mesh: the grid of the layout.
        parts: D.
    """
    shared: list[Tensor] = []
    experts: list[Tensor] = []
    for name, p in model.named_parameters():
        if p.grad is not None:
            (experts if name in own else shared).append(p.grad)
    for grads, axes in ((shared, ("replicate", "expert")), (experts, ("replicate",))):
        message = parameters_to_vector(grads) / parts
        for axis in axes:
            if mesh[axis].size() > 1:
                dist.all_reduce(message, group=mesh.get_group(axis))
        vector_to_parameters(message, grads)
