"""Record every load and store of a kernel, from Triton's own interpreter.

The interpreter passes a kernel raw addresses. While recording, each tensor
argument gets an address space of its own instead, 2^48 bytes wide with the
tensor in the middle, so that a pointer that has run off `x` can never be taken
for one into `y`. The masked load and store, which block pointers and
descriptors also end in, and the two atomics are wrapped: they look up the
element, note it, switch off every lane that is outside its tensor (a segfault
otherwise), and turn the rest back into real addresses.

It is a launch like any other: the kernel's outputs are written.
"""

from __future__ import annotations

import inspect
import linecache
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import numpy as np
import torch

import kernels
from kernels.access.log import NOWHERE, Access, AccessLog
from kernels.access.spaces import (
    SPACE_BITS,
    RecordingError,
    Spaces,
    tensors_in,
    view_of,
)

Grid = int | tuple[int, ...] | Callable[[dict[str, Any]], tuple[int, ...]]

_recording = threading.Lock()


def record_accesses(kernel: Any, grid: Grid, *args: Any, **kwargs: Any) -> AccessLog:
    """Launch a kernel in the interpreter and record what it does to memory.

    Args:
        kernel: a function decorated with `triton.jit`.
        grid: as in `kernel[grid](...)`; one number will do.
        args: the kernel's arguments; tensors on the CPU.
        kwargs: arguments by name, constexprs among them.

    Returns:
        The log. Accesses outside a tensor are in it but did not happen: such
        a load gave its `other` value (0 if it has none).

    Raises:
        RecordingError: kernels are compiled in this process, `kernel` is not
            a plain jitted function, or a tensor is not on the CPU.
    """
    if not kernels.HAS_TRITON:
        raise RecordingError("Recording runs the kernel: Triton has no wheel here.")
    if not kernels.INTERPRETED:
        raise RecordingError(
            "Accesses are recorded in Triton's interpreter, and this process "
            "compiles kernels: start it with TRITON_INTERPRET=1."
        )
    from triton.runtime import interpreter

    if not isinstance(kernel, interpreter.InterpretedFunction):
        raise RecordingError(
            f"{getattr(kernel, '__name__', kernel)!r} is not a function decorated "
            "with triton.jit (of an autotuned kernel, pass kernel.fn and one "
            "configuration)."
        )
    parameters = inspect.signature(kernel.fn).parameters
    by_name = dict(zip(parameters, args, strict=False)) | kwargs
    spaces = Spaces(
        [pair for name in by_name for pair in tensors_in(name, by_name[name])]
    )
    recorder = _Recorder(interpreter, spaces, kernel.rewrite().__code__)
    with _recording, _patched(interpreter, recorder):
        kernel[(grid,) if isinstance(grid, int) else grid](*args, **kwargs)
        dims = tuple(int(side) for side in interpreter.interpreter_builder.grid_dim)
    while len(dims) > 1 and dims[-1] == 1:
        dims = dims[:-1]
    # Only now is it known how many axes a program's name needs.
    accesses = tuple(_renamed(access, len(dims)) for access in recorder.accesses)
    return AccessLog(kernel.fn.__name__, dims, spaces.arguments, accesses)


def _renamed(access: Access, axes: int) -> Access:
    return Access(**{**vars(access), "program": access.program[:axes]})


class _Recorder:
    """Notes every access and makes it safe."""

    def __init__(self, interpreter: Any, spaces: Spaces, code: Any) -> None:
        self.interpreter = interpreter
        self.spaces = spaces
        self.code = code
        self.accesses: list[Access] = []

    def convert(self, original: Callable[[Any], Any], arg: Any) -> Any:
        """Hand the kernel an address of the argument's own space."""
        value = original(arg)
        tensor = getattr(arg, "base", arg)  # of a reinterpreted tensor
        if hasattr(arg, "data_ptr") and isinstance(tensor, torch.Tensor):
            start = self.spaces.by_view[view_of(tensor)].start
            value.handle.data = np.array([start], dtype=np.uint64)
        return value

    def safe(
        self, kind: Literal["read", "write", "update"], pointers: Any, mask: Any = None
    ) -> tuple[Any, Any]:
        """Record one access.

        Returns:
            The pointers, real again, and the mask without outside lanes.
        """
        seen = np.asarray(pointers.data, dtype=np.uint64)
        active = np.ones(seen.shape, dtype=bool)
        if mask is not None:
            active = np.broadcast_to(np.asarray(mask.data, dtype=bool), seen.shape)
        width = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
        numbers = (seen >> np.uint64(SPACE_BITS)).astype(np.int64)
        real = np.zeros(seen.shape, dtype=np.uint64)
        safe = np.zeros(seen.shape, dtype=bool)
        # Lanes that are switched off may point anywhere.
        for number in np.unique(numbers[active] if active.any() else numbers.flat[0]):
            space = self.spaces.by_number.get(int(number))
            mine = numbers == number
            if space is None:
                self.note(NOWHERE, kind, seen.astype(np.int64), None, active & mine)
                continue
            shift = (seen - np.uint64(space.start)).astype(np.int64)
            first = shift // space.itemsize
            # A reinterpreted pointer may cover several elements at once.
            last = (shift + width - 1) // space.itemsize
            reach = int((last - first)[mine].max()) + 1
            offsets = first[..., None] + np.arange(reach) if reach > 1 else first
            elements = space.argument.elements_at(offsets)
            here = (active & mine)[..., None] if reach > 1 else active & mine
            here = np.broadcast_to(here, offsets.shape)
            if not mine.all():  # other arguments' lanes are none of this one's
                other = ~mine[..., None] if reach > 1 else ~mine
                elements = np.where(other, -1, elements)
            self.note(space.argument.name, kind, offsets, elements, here)
            inside = (elements >= 0).all(-1) if reach > 1 else elements >= 0
            safe |= active & mine & inside
            real[mine] = (shift[mine] + space.address).astype(np.uint64)
        real[~safe] = 0
        handle = self.interpreter.TensorHandle
        mask_type = self.interpreter.tl.int1
        return handle(real, pointers.dtype), handle(safe, mask_type)

    def note(
        self, tensor: str, kind: Any, offsets: Any, elements: Any, active: Any
    ) -> None:
        if elements is None:
            elements = np.full(offsets.shape, -1, dtype=np.int64)
        program = tuple(int(i) for i in self.interpreter.interpreter_builder.grid_idx)
        line = self.line()
        self.accesses.append(
            Access(program, tensor, kind, line, offsets, elements, active.copy())
        )

    def line(self) -> str:
        """The kernel's line that is being executed."""
        frame = sys._getframe(1)
        while frame is not None and frame.f_code is not self.code:
            frame = frame.f_back  # type: ignore[assignment]
        if frame is None:
            return ""
        return linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()


@contextmanager
def _patched(interpreter: Any, recorder: _Recorder) -> Iterator[None]:
    """Put the recorder between the interpreter and memory, for one launch."""
    builder = interpreter.InterpreterBuilder
    convert = interpreter._implicit_cvt
    load, store = builder.create_masked_load, builder.create_masked_store
    rmw, cas = builder.create_atomic_rmw, builder.create_atomic_cas

    def masked_load(self: Any, ptrs: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        return load(self, *recorder.safe("read", ptrs, mask), *rest, **named)

    def masked_store(
        self: Any, ptrs: Any, value: Any, mask: Any, *rest: Any, **named: Any
    ) -> Any:
        ptrs, mask = recorder.safe("write", ptrs, mask)
        return store(self, ptrs, value, mask, *rest, **named)

    def atomic_rmw(
        self: Any, op: Any, ptr: Any, val: Any, mask: Any, sem: Any, scope: Any
    ) -> Any:
        ptr, mask = recorder.safe("update", ptr, mask)
        return rmw(self, op, ptr, val, mask, sem, scope)

    def atomic_cas(
        self: Any, ptr: Any, cmp: Any, val: Any, sem: Any, scope: Any
    ) -> Any:
        ptr, mask = recorder.safe("update", ptr)
        # It has no mask: outside lanes are sent to a place of their own.
        spare = np.zeros(ptr.data.shape, dtype=np.uint64)
        places = spare.ctypes.data + 8 * np.arange(spare.size, dtype=np.uint64)
        ptr.data = np.where(mask.data, ptr.data, places.reshape(spare.shape))
        return cas(self, ptr, cmp, val, sem, scope)

    def atomic_poll(self: Any, *rest: Any) -> Any:
        raise RecordingError(
            "atomic_poll waits for another program, and here one runs after another."
        )

    patches = [
        (interpreter, "_implicit_cvt", lambda arg: recorder.convert(convert, arg)),
        (builder, "create_masked_load", masked_load),
        (builder, "create_masked_store", masked_store),
        (builder, "create_atomic_rmw", atomic_rmw),
        (builder, "create_atomic_cas", atomic_cas),
    ]
    if hasattr(builder, "create_atomic_poll"):  # from Triton 3.9 on
        patches.append((builder, "create_atomic_poll", atomic_poll))
    with ExitStack() as restore:
        for place, name, patch in patches:
            restore.callback(setattr, place, name, getattr(place, name))
            setattr(place, name, patch)
        yield
