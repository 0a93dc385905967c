"""What the harness cannot see: two programs that write one element.

The interpreter runs one program after another, so the last one wins, and it may be
the right one. On a GPU they race. Here every launch is recorded and judged.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import pytest
import torch

from kernels.access import findings, record_accesses
from tests.kernels.cases import Case
from tests.kernels.guarded_memory import GuardedMemory
from tests.kernels.harness_mixed import MixedOperation, make_inputs, numbers, run


class Judged:
    """Stands in for a kernel: launches it recorded, and keeps what looks wrong."""

    def __init__(self, kernel: Any, partly: Collection[str], found: list[str]) -> None:
        self.kernel, self.partly, self.found = kernel, partly, found

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        def launch(*arguments: Any, num_warps: int, num_stages: int, **constexprs: Any):
            log = record_accesses(self.kernel, grid, *arguments, **constexprs)
            self.found.extend(
                f"{self.kernel.fn.__name__}: {sentence}"
                for sentence in findings(log, self.partly)
            )

        return launch


def check_accesses(
    operation: MixedOperation, case: Case, partly: Collection[str] = ()
) -> None:
    """No kernel of an operation reads or writes what it should not, in either way.

    Args:
        operation: whose SPECS name its kernels.
        case: the inputs.
        partly: arguments of which something may be left unread.
    """
    found = list[str]()
    with pytest.MonkeyPatch.context() as patch:
        for name in {spec.name for spec in operation.module.SPECS}:
            kernel = getattr(operation.module, name)
            patch.setattr(operation.module, name, Judged(kernel, partly, found))
        inputs, _ = make_inputs(operation, case, GuardedMemory())
        leaves = [inputs[i].requires_grad_() for i in operation.differentiable(inputs)]
        ys = numbers(run(operation, inputs))
        torch.autograd.grad(ys, leaves, [torch.ones_like(y) for y in ys])
    assert not found, "\n".join(found)
