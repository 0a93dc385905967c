"""Tensors between guards, so that a kernel's stray reads and writes show.

Each tensor lies in a larger allocation, filled with two patterns of bits. Each
is a NaN as a floating-point number of any width, and a negative integer:

    OUTSIDE ... OUTSIDE | UNWRITTEN, in the gaps OUTSIDE | OUTSIDE ... OUTSIDE

So what a kernel reads outside its input poisons its output, an element that it
never writes keeps its pattern, and a write outside leaves a mark.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

GUARD = 4096
"""Elements on each side: more than a test's row, or the block that covers it."""

BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""An integer dtype for each size of element, to look at bits."""

OUTSIDE = -1
"""Every bit set."""

UNWRITTEN = {1: 0x7F, 2: -2, 4: -2, 8: -2}
"""By size of element. No processor's own NaN, and a NaN in every float8 too."""

EMPTY = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
FILLED = {"zeros", "zeros_like", "new_zeros", "ones", "ones_like", "full"}


@dataclass(frozen=True)
class Allocation:
    """One guarded tensor: its own elements, and all that surrounds them."""

    name: str
    bits: Tensor
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def stray_writes(self) -> int:
        """How many elements outside the tensor have been written."""
        around = self.bits.clone()
        around.as_strided(self.shape, self.stride, GUARD).fill_(OUTSIDE)
        return int((around != OUTSIDE).sum())


class GuardedMemory(TorchDispatchMode):
    """Inside this context every new tensor is guarded, and empty ones are NaN.

    It sees what reaches torch's dispatcher, so also what a backward allocates.
    """

    def __init__(self) -> None:
        super().__init__()
        self.allocations: list[Allocation] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name not in EMPTY | FILLED or not made.numel():
            return made
        guarded = self.allocate(f"a torch.{name}", made.shape, made.stride(), made)
        return guarded.copy_(made) if name in FILLED else guarded

    def allocate(
        self, name: str, shape: Sequence[int], stride: Sequence[int], like: Tensor
    ) -> Tensor:
        """A poisoned tensor between guards, with like's dtype and device."""
        extent = 1 + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
        bits = torch.full(
            (extent + 2 * GUARD,),
            OUTSIDE,
            dtype=BITS[like.itemsize],
            device=like.device,
        )
        bits.as_strided(shape, stride, GUARD).fill_(UNWRITTEN[like.itemsize])
        self.allocations.append(Allocation(name, bits, tuple(shape), tuple(stride)))
        return bits.view(like.dtype).as_strided(shape, stride, GUARD)

    def place(self, name: str, values: Tensor, layout: str) -> Tensor:
        """The values, copied into guarded memory, laid out as asked."""
        if not values.numel():
            return values.clone()
        if layout == "repeated":  # stride 0: what expand() makes
            once = self.allocate(name, values[:1].shape, values[:1].stride(), values)
            return once.copy_(values[:1]).expand(values.shape)
        if layout == "misaligned":  # 1 element off the 16 bytes GPUs like
            flat = self.allocate(name, (values.numel() + 1,), (1,), values)
            return flat[1:].view(values.shape).copy_(values)
        stride = LAYOUTS[layout](tuple(values.shape))
        return self.allocate(name, values.shape, stride, values).copy_(values)

    def check(self) -> None:
        """Raise AssertionError where something was written outside a tensor."""
        for allocation in self.allocations:
            stray = allocation.stray_writes()
            assert not stray, f"wrote {stray} elements outside {allocation.name}"


def unwritten(x: Tensor) -> Tensor:
    """Where x still has the pattern of memory that nothing was written to."""
    return x.contiguous().view(BITS[x.itemsize]) == UNWRITTEN[x.itemsize]


def packed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides without gaps, the last axis fastest."""
    return torch.empty(shape, device="meta").stride()


LAYOUTS: dict[str, Callable[[tuple[int, ...]], tuple[int, ...]]] = {
    "contiguous": packed,
    # A slice of a wider tensor: the rows lie apart, the rest is not ours.
    "rows apart": lambda shape: packed((*shape[:-1], shape[-1] + 3)),
    "every second": lambda shape: tuple(2 * s for s in packed(shape)),
    "transposed": lambda shape: packed(shape[::-1])[::-1],
    "repeated": packed,
    "misaligned": packed,
}
"""How a tensor may lie in memory: shape to strides."""
