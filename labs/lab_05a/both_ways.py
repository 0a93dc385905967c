"""A function with a backward of its own choice: for sums over ranks.

Autograd sees no collective: what `dist.all_reduce` does to a tensor has no gradient. So
whoever sums over ranks on the way forward has to say what happens on the way back, and
the other way round. Megatron-LM calls the two pairs f and g (Shoeybi et al. 2019, arXiv
1909.08053, section 3).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from labsupport.errors import LabError

Change = Callable[[Tensor], Tensor]


class _BothWays(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, forward: Change, backward: Change) -> Any:
        ctx.change = backward
        return changed(x, forward, "forward")

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return changed(gradient, ctx.change, "backward"), None, None


def both_ways(x: Tensor, forward: Change, backward: Change) -> Tensor:
    """`forward(x)`, whose gradient is `backward` of the gradient that arrives.

    Both are given copies, which they may change in place and return.

    Args:
        x: any shape.
        forward, backward: return a tensor of the shape that they are given.

    Raises:
        LabError: one of them returns something else.
    """
    found: Tensor = _BothWays.apply(x, forward, backward)  # type: ignore[no-untyped-call]
    return found


def changed(x: Tensor, change: Change, name: str) -> Tensor:
    """What a function makes of a copy.

    Raises:
        LabError: no tensor of the same shape.
    """
    made = change(x.clone(memory_format=torch.contiguous_format))
    if not isinstance(made, Tensor) or made.shape != x.shape:
        came = (
            f"one of shape {tuple(made.shape)}"
            if isinstance(made, Tensor)
            else repr(made)
        )
        if made is None:  # what an in-place call returns
            came += " (a collective changes its tensor and returns nothing)"
        raise LabError(
            f"both_ways: `{name}` has to return a tensor of shape {tuple(x.shape)}, "
            f"and returned {came}."
        )
    return made
