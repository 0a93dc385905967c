"""An address space of its own for every tensor argument of a recorded launch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from kernels.access.log import TensorArgument

SPACE_BITS = 48
MIDDLE = 1 << (SPACE_BITS - 1)
ALIGNMENT = 4096
"""An address keeps its low bits, so that alignment checks still hold."""


class RecordingError(ValueError):
    """A launch that cannot be recorded; the message says why."""


def tensors_in(name: str, value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors in one argument: itself, a tuple's, a descriptor's base."""
    if isinstance(value, tuple):
        for index, entry in enumerate(value):
            yield from tensors_in(f"{name}[{index}]", entry)
    elif isinstance(value, torch.Tensor):
        if value.device.type != "cpu":
            raise RecordingError(
                f"{name} is on {value.device}: the interpreter records tensors on "
                "the CPU, so pass .cpu() copies."
            )
        yield name, value
    elif isinstance(getattr(value, "base", None), torch.Tensor):
        yield from tensors_in(name, value.base)


@dataclass(frozen=True)
class Space:
    """One argument's address space."""

    argument: TensorArgument
    start: int  # the address that the kernel sees
    address: int  # the real one
    itemsize: int  # bytes


class Spaces:
    """Which address belongs to which argument."""

    def __init__(self, tensors: list[tuple[str, torch.Tensor]]) -> None:
        names: dict[tuple[Any, ...], list[str]] = {}
        seen: dict[tuple[Any, ...], torch.Tensor] = {}
        for name, tensor in tensors:
            names.setdefault(view_of(tensor), []).append(name)
            seen[view_of(tensor)] = tensor
        self.by_view: dict[tuple[Any, ...], Space] = {}
        self.by_number: dict[int, Space] = {}
        for number, (view, tensor) in enumerate(seen.items(), start=1):
            argument = TensorArgument(
                " = ".join(names[view]),
                tuple(tensor.shape),
                tensor.stride(),
                str(tensor.dtype).removeprefix("torch."),
            )
            low = tensor.data_ptr() % ALIGNMENT
            start = (number << SPACE_BITS) + MIDDLE + low
            space = Space(argument, start, tensor.data_ptr(), tensor.element_size())
            self.by_view[view] = self.by_number[number] = space
        self.arguments = tuple(s.argument for s in self.by_number.values())


def view_of(tensor: torch.Tensor) -> tuple[Any, ...]:
    """What tells two arguments apart; the interpreter makes new views of them."""
    return tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()
