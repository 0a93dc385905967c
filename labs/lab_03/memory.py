"""What a training of lab 03 keeps in memory, counted in bytes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from labs.lab_03 import language
from labs.lab_03.moments import BYTES
from labs.lab_03.plan import GPT_PLANS
from labsupport.settings import Scale
from labsupport.tasks.corpus import Corpus


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


def memory_row(arm: str, seed: int, scale: Scale) -> dict[str, Any]:
    """Bytes of a training: what the forward keeps, and what stays all the time.

    Weights and gradients are float32 in every arm, as in V3. The optimizer's moments
    are float32 with "fp32", and bfloat16 with all others.
    """
    torch.manual_seed(seed)
    plan = GPT_PLANS[scale]
    model = language.make_gpt(arm, scale)
    batch = Corpus.load().batch(
        "train", 0, batch_size=plan.batch_size, length=plan.length, seed=seed
    )
    everything, linear = kept_for_backward(model, *batch)
    count = model.parameter_count()
    states = BYTES["fp32" if arm == "fp32" else "bf16"] * count
    return {
        "tokens": plan.batch_size * plan.length,
        "kept": everything,
        "kept_linear": linear,
        "weights": 4 * count,
        "gradients": 4 * count,
        "moments": int(states),
        "total": everything + 8 * count + int(states),
    }
