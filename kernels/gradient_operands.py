"""What the operations of gradient fusion ask of their inputs.

Each of them changes one tensor in place, the state: the residual e that error
feedback keeps, or u, which is the gradient and the residual together. A state is
float32, since what it holds back is small beside what is sent, and contiguous, since
a copy could not be changed in its place. None has a gradient: communication begins
when the backward has ended.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.operation import KernelInputError, check_is_tensor, dtype_name

MAX_RANK = 16
"""The most columns of a factor: what the low-rank kernels pad to."""


def check_state(operation: str, state: Tensor, name: str) -> None:
    """Refuse what cannot be changed in place.

    Raises:
        KernelInputError: state is no tensor, not float32 or not contiguous.
    """
    check_is_tensor(operation, state, name)
    if state.dtype != torch.float32:
        raise KernelInputError(
            f"{operation}: {name} must be float32; got {dtype_name(state)}."
        )
    if not state.is_contiguous():
        raise KernelInputError(
            f"{operation}: {name} must be contiguous, as it is changed in place; got "
            f"shape {tuple(state.shape)} with strides {state.stride()}."
        )


def check_state_matrix(operation: str, state: Tensor, name: str) -> None:
    """Refuse a state that is no matrix.

    Raises:
        KernelInputError: it is no state, or has not two axes.
    """
    check_state(operation, state, name)
    if state.ndim != 2:
        raise KernelInputError(
            f"{operation}: {name} must have two axes, M rows and N columns; got shape "
            f"{tuple(state.shape)}."
        )


def check_like_state(
    operation: str,
    x: Tensor,
    name: str,
    state: Tensor,
    state_name: str,
    dtypes: Sequence[torch.dtype],
) -> None:
    """Refuse an x that does not lie element by element beside the state.

    Raises:
        KernelInputError: x is no tensor, or its dtype, shape or device is another.
    """
    check_is_tensor(operation, x, name)
    if x.dtype not in dtypes:
        names = [str(dtype).removeprefix("torch.") for dtype in dtypes]
        allowed = " or ".join(
            part for part in (", ".join(names[:-1]), names[-1]) if part
        )
        raise KernelInputError(
            f"{operation}: {name} must be {allowed}; got {dtype_name(x)}."
        )
    if x.shape != state.shape:
        raise KernelInputError(
            f"{operation}: {name} must have {state_name}'s shape, "
            f"{tuple(state.shape)}; got {tuple(x.shape)}."
        )
    if x.device != state.device:
        raise KernelInputError(
            f"{operation}: {name} must be on {state_name}'s device, {state.device}; "
            f"got {x.device}."
        )


def check_factor(
    operation: str, factor: Tensor, name: str, state: Tensor, state_name: str, axis: int
) -> None:
    """Refuse a factor that has not a row of 1 to MAX_RANK for each of an axis.

    Raises:
        KernelInputError: factor is no tensor, or its shape, dtype or device is
            another.
    """
    check_is_tensor(operation, factor, name)
    rows, letter = state.shape[axis], "MN"[axis]
    if (
        factor.ndim != 2
        or factor.shape[0] != rows
        or not 1 <= factor.shape[1] <= MAX_RANK
    ):
        raise KernelInputError(
            f"{operation}: {name} must have shape ({letter}, R) = ({rows}, R) with R 1 "
            f"to {MAX_RANK} for {state_name} of shape {tuple(state.shape)}; got "
            f"{tuple(factor.shape)}."
        )
    if factor.dtype != torch.float32:
        raise KernelInputError(
            f"{operation}: {name} must be float32; got {dtype_name(factor)}."
        )
    if factor.device != state.device:
        raise KernelInputError(
            f"{operation}: {name} must be on {state_name}'s device, {state.device}; "
            f"got {factor.device}."
        )
