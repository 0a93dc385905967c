"""Step between a rank's program and its collectives, however they are issued.

    dist.all_reduce(x)      DDP's reducer (C++)      torch.ops._c10d_functional
             |                     |                            |
             +---------------------+----------------------------+
                                   |
                    the operator  c10d::allreduce_
                                   |
                  BackendSelect:  this module
                                   |
                    CPU or CUDA:   gloo or NCCL

All of them call a `ProcessGroup` method in C++, and each such method calls an
operator through torch's dispatcher. It tries its layers ("dispatch keys") in a
fixed order; BackendSelect is the last before the device's own. It is on in
every thread and every mode, inference mode included, and nothing sits there
for collectives. Nothing is replaced, so the groups, their names and types, and
what DDP or FSDP conclude from them stay as they are. NCCL's operators pass the
same point.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from labsupport.distributed.collectives import OPS, Collective, describe

BACKEND_SELECT = torch._C.DispatchKey.BackendSelect


@dataclass(frozen=True)
class Call:
    """One collective that is about to be issued on this rank.

    Attributes:
        op: the operator's name in torch's library `c10d`.
        backend: "gloo", "nccl", ...
        group: its process group.
        collective: what it moves.
        tensors: what the operator gives together with the handle; None when
            it gives the handle alone.
    """

    op: str
    backend: str
    group: dist.ProcessGroup
    collective: Collective
    tensors: Any

    def result(self, handle: dist.Work) -> Any:
        """What the operator would give with this handle."""
        boxed = handle.boxed()
        return boxed if self.tensors is None else (self.tensors, boxed)


# Given a call and what issues it: issues it, and gives what that gives.
Around = Callable[[Call, Callable[[], Any]], Any]

_arounds: list[Around] = []
_library: torch.library.Library | None = None


def intercept(around: Around, innermost: bool = False) -> None:
    """Call `around(call, issue)` for every collective of this process from now on.

    The one given last is the outermost, unless it asks to be the innermost.
    """
    global _library
    _arounds.insert(0 if innermost else len(_arounds), around)
    if _library is not None:
        return
    _library = torch.library.Library("c10d", "IMPL")
    for name in OPS:
        _library.impl(name, _kernel(name), "BackendSelect")


def stop_intercepting(around: Around) -> None:
    """Undo `intercept(around)`; with the last one torch is as it was."""
    global _library
    _arounds.remove(around)
    if not _arounds and _library is not None:
        _library._destroy()
        _library = None


def _kernel(name: str) -> Callable[..., Any]:
    operator = getattr(torch.ops.c10d, name).default
    place = OPS[name]
    # The tensors that come back are those that went in first.
    pair = len(operator._schema.returns) == 2

    def kernel(*args: Any) -> Any:
        device = _device(args) or torch.device("cpu")
        group = dist.ProcessGroup.unbox(args[place.group])
        if device.type == "meta":  # shapes only: nothing moves
            return _go_on(operator, args, "meta")
        backend = group._get_backend(device).name()
        # gloo keeps what it makes on the CPU, for tensors of a GPU as well.
        home = "cpu" if backend == "gloo" else device.type
        issue = functools.partial(_go_on, operator, args, home)
        collective = describe(name, args, group.rank(), group.size())
        tensors = args[0] if pair else None
        call = Call(name, backend, group, collective, tensors)
        step: Callable[[], Any] = issue
        for around in list(_arounds):
            step = functools.partial(around, call, step)
        return step()

    return kernel


def _device(tensors: Any) -> torch.device | None:
    """Of the first tensor in (nested) lists; they may be empty on some ranks."""
    if isinstance(tensors, torch.Tensor):
        return tensors.device
    if isinstance(tensors, (list, tuple)):
        return next(filter(None, map(_device, tensors)), None)
    return None


# All layers down to BackendSelect have had their turn.
_DONE = torch._C._dispatch_keyset_full() - torch._C._dispatch_keyset_full_after(
    BACKEND_SELECT
)


def _go_on(operator: Any, args: tuple[Any, ...], device: str) -> Any:
    """Call the operator's own implementation for the device.

    The plain way, `operator.redispatch`, would hold Python's lock meanwhile.
    gloo's threads need that lock to let go of a tensor, while they hold the
    lock of gloo's queue, for which this thread waits in turn: a deadlock, seen
    within seconds. An ordinary call gives Python's lock away. It starts again
    at the top, so the layers that are done are left out; and because BackendSelect
    is among them, which chooses the device of a new tensor, the collective's own
    device stands in for it.
    """
    with (
        torch._C._ExcludeDispatchKeyGuard(_DONE),
        torch._C._IncludeDispatchKeyGuard(_key(device)),
    ):
        return operator(*args)


@functools.cache
def _key(device: str) -> Any:
    return getattr(torch._C.DispatchKey, torch._C._dispatch_key_for_device(device))
