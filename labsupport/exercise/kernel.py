"""Launch a reader's kernel safely: a stray pointer becomes a sentence."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from torch import Tensor

import kernels
from kernels.access import findings, record_accesses
from labsupport.exercise.check import CheckFailed, copy_as_is


def where_kernels_run(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors as they are, or on the GPU where kernels are compiled for it."""
    if kernels.INTERPRETED or not torch.cuda.is_available():
        return tensors
    return tuple(copy_as_is(x, torch.device("cuda")) for x in tensors)


def launch_watched(
    kernel: Any,
    grid: tuple[int, ...],
    *arguments: Any,
    partly: Collection[str] = (),
    **constexprs: Any,
) -> None:
    """Run `kernel[grid](*arguments, **constexprs)`, watching what it touches.

    Interpreted, an access outside a tensor is held back, so that a missing mask
    cannot crash the notebook. Compiled, the kernel simply runs.

    Args:
        kernel, grid, arguments, constexprs: as in a launch.
        partly: arguments of which elements may be left untouched.

    Raises:
        CheckFailed: a wrong access: outside a tensor, never written, a race.
    """
    if not kernels.INTERPRETED:
        kernel[grid](*arguments, **constexprs)
        return
    # A GPU says nothing when exp overflows; numpy would.
    with np.errstate(all="ignore"):
        log = record_accesses(kernel, grid, *arguments, **constexprs)
    wrong = findings(log, partly)
    if wrong:
        raise CheckFailed("each element touched once, by its own program", wrong[0])
