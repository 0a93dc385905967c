"""What a launch did to memory: plain data, filled by the recorder.

An *element* of a tensor argument is its row-major index, whatever the strides:
element 5 of a (2, 4) tensor is [1, 1]. An *offset* is a place in memory, in
elements from the argument's first one; for a contiguous tensor both agree.
Offsets that hold no element of the tensor are *outside*: before it, past its
end, or in a gap between its elements when it is a strided view.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Literal

import numpy as np

Program = tuple[int, ...]
"""A program's place in the grid, one number for each axis of the grid."""

NOWHERE = "no argument"
"""The `tensor` of an access whose address is near none of the arguments."""


@dataclass(frozen=True)
class TensorArgument:
    """A tensor that was passed to the kernel.

    Attributes:
        name: the kernel's parameter; "x_ptr = out_ptr" if it was passed twice.
        shape: its shape.
        strides: in elements.
        dtype: torch's name, such as "float32".
    """

    name: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def row(self) -> int:
        """Elements in one row, that is along the last axis."""
        return self.shape[-1] if self.shape else 1

    @cached_property
    def offsets(self) -> np.ndarray:
        """The offset of every element; int64, shape (size,)."""
        offsets = np.zeros(self.shape, dtype=np.int64)
        for axis, (side, stride) in enumerate(
            zip(self.shape, self.strides, strict=True)
        ):
            places = [1] * len(self.shape)
            places[axis] = side
            offsets = offsets + (np.arange(side) * stride).reshape(places)
        return offsets.reshape(-1)

    @property
    def span(self) -> int:
        """One more than the largest offset."""
        return int(self.offsets.max()) + 1 if self.size else 0

    @cached_property
    def _element_of(self) -> np.ndarray:
        element_of = np.full(self.span, -1, dtype=np.int64)
        # Backwards, so that of elements that share a place (an expanded
        # tensor) the first one stands for all.
        element_of[self.offsets[::-1]] = np.arange(self.size)[::-1]
        return element_of

    def elements_at(self, offsets: np.ndarray) -> np.ndarray:
        """The element at each offset, -1 where there is none."""
        found = np.full(offsets.shape, -1, dtype=np.int64)
        inside = (offsets >= 0) & (offsets < self.span)
        found[inside] = self._element_of[offsets[inside]]
        return found

    @cached_property
    def places(self) -> np.ndarray:
        """For every element the first element with the same place in memory."""
        return self._element_of[self.offsets]


@dataclass(frozen=True, eq=False)
class Access:
    """One load, store or atomic, executed once by one program.

    Attributes:
        program: who.
        tensor: the argument's name, or `NOWHERE`.
        kind: "update" is an atomic, which reads and writes as one step.
        line: the kernel's source line, stripped; "" if it cannot be found.
        offsets: where every lane points, shape of the block; int64.
        elements: the element there, -1 outside the tensor; same shape.
        active: False where the mask switched the lane off; same shape.
    """

    program: Program
    tensor: str
    kind: Literal["read", "write", "update"]
    line: str
    offsets: np.ndarray
    elements: np.ndarray
    active: np.ndarray

    @property
    def touched(self) -> np.ndarray:
        """Elements read or written, one entry a lane; shape (lanes,)."""
        return self.elements[self.active & (self.elements >= 0)]

    @property
    def masked(self) -> np.ndarray:
        """Elements that lanes point at which the mask switched off."""
        return self.elements[~self.active & (self.elements >= 0)]

    @property
    def outside(self) -> np.ndarray:
        """Offsets outside the tensor that no mask switched off.

        They were recorded and then left alone: the load gave its `other`
        value (0 if it has none), the store was dropped.
        """
        return self.offsets[self.active & (self.elements < 0)]


@dataclass(frozen=True)
class AccessLog:
    """Everything one launch did to its tensor arguments, in order.

    Attributes:
        kernel: the kernel's name.
        grid: programs along each axis, without trailing ones.
        tensors: the tensor arguments, in the kernel's order.
        accesses: what was executed, program by program.
    """

    kernel: str
    grid: tuple[int, ...]
    tensors: tuple[TensorArgument, ...]
    accesses: tuple[Access, ...]

    @property
    def programs(self) -> list[Program]:
        """All programs, in the order in which the interpreter runs them."""
        return list(product(*(range(side) for side in self.grid)))

    def of(
        self, tensor: TensorArgument, program: Program | None = None
    ) -> Iterator[Access]:
        """The accesses to one tensor, by all programs or by one."""
        for access in self.accesses:
            if access.tensor == tensor.name and program in (None, access.program):
                yield access


@dataclass(frozen=True, eq=False)
class Counts:
    """How often each element of a tensor was touched; int64, shape (size,).

    Attributes:
        reads: plain loads.
        writes: plain stores.
        updates: atomics.
        masked: lanes that pointed here and were switched off.
        outside: offsets touched outside the tensor, sorted, each once.
    """

    reads: np.ndarray
    writes: np.ndarray
    updates: np.ndarray
    masked: np.ndarray
    outside: np.ndarray

    @property
    def read(self) -> np.ndarray:
        return (self.reads + self.updates) > 0

    @property
    def written(self) -> np.ndarray:
        return (self.writes + self.updates) > 0

    @property
    def twice(self) -> np.ndarray:
        """Stored to more than once; a store to what atomics update counts."""
        return (self.writes > 1) | ((self.writes > 0) & (self.updates > 0))


def count(
    log: AccessLog, tensor: TensorArgument, program: Program | None = None
) -> Counts:
    """Count what all programs, or one, did to a tensor."""
    totals = {
        kind: np.zeros(tensor.size, dtype=np.int64)
        for kind in ("read", "write", "update", "masked")
    }
    outside = [np.zeros(0, dtype=np.int64)]
    for access in log.of(tensor, program):
        np.add.at(totals[access.kind], access.touched, 1)
        np.add.at(totals["masked"], access.masked, 1)
        outside.append(access.outside)
    shared = {kind: total[tensor.places] for kind, total in totals.items()}
    return Counts(
        shared["read"],
        shared["write"],
        shared["update"],
        shared["masked"],
        np.unique(np.concatenate(outside)),
    )
