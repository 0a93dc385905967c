"""What a forward keeps in memory for the backward, counted in bytes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def kept_for_backward(model: nn.Module, *batch: Tensor) -> tuple[int, int]:
    """Bytes that one forward keeps for the backward.

    Each piece of memory counts once, however many operations keep it; weights do not
    count.

    Returns:
        Of all operations, and of the linear layers inside the blocks.
    """
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}
    of_linear: set[int] = set()
    # Data must stay alive, or its address could be given out again.
    alive: list[Tensor] = []
    depth = 0

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            alive.append(tensor)
            kept[storage.data_ptr()] = storage.nbytes()
            if depth:
                of_linear.add(storage.data_ptr())
        return tensor

    def enter(*_: Any) -> None:
        nonlocal depth
        depth += 1

    def leave(*_: Any) -> None:
        nonlocal depth
        depth -= 1

    blocks: Any = model.blocks
    hooks = []
    for layer in blocks.modules():
        if isinstance(layer, nn.Linear):
            hooks.append(layer.register_forward_pre_hook(enter))
            hooks.append(layer.register_forward_hook(leave))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.loss(*batch)  # type: ignore[operator]
    for hook in hooks:
        hook.remove()
    return sum(kept.values()), sum(kept[each] for each in of_linear)
