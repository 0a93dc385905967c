"""What FP8 operations ask of their inputs and of the GPU.

Shape suffixes: M rows, K columns, I rows of tiles, J columns of tiles.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.float8 import FORMATS, Float8
from kernels.fp8_scaling import Tile, scale_shape
from kernels.operation import (
    KernelInputError,
    check_is_tensor,
    check_kernel_tensor,
    dtype_name,
)

CODES = tuple(fmt.dtype for fmt in FORMATS.values())
"""Dtypes of codes."""


def format_of(q: Tensor) -> Float8:
    """The format of codes.

    Raises:
        KeyError: q is not float8.
    """
    return {fmt.dtype: fmt for fmt in FORMATS.values()}[q.dtype]


def check_matrix(operation: str, x: Tensor, name: str = "x") -> None:
    """Refuse an x, checked already to be a tensor, that is not a matrix.

    Raises:
        KernelInputError: it has not two axes.
    """
    if x.ndim != 2:
        raise KernelInputError(
            f"{operation}: {name} must have two axes, rows and columns; got shape "
            f"{tuple(x.shape)}."
        )


def check_to_quantise(operation: str, x: Tensor, fmt: Float8, name: str = "x") -> None:
    """Refuse what no quantiser takes.

    Raises:
        KernelInputError: x is no matrix of a dtype that the kernels know or lies on a
            GPU without FP8, or fmt is no format.
    """
    check_kernel_tensor(operation, x, name)
    check_matrix(operation, x, name)
    if not isinstance(fmt, Float8):
        raise KernelInputError(f"{operation}: fmt must be E4M3 or E5M2; got {fmt!r}.")
    check_gpu_has_fp8(operation, x)


def check_codes(operation: str, q: Tensor, name: str = "q") -> None:
    """Refuse a q that is no matrix of codes.

    Raises:
        KernelInputError: it is no tensor, not float8, or no matrix.
    """
    check_is_tensor(operation, q, name)
    if q.dtype not in CODES:
        raise KernelInputError(
            f"{operation}: {name} must be float8_e4m3fn or float8_e5m2; got "
            f"{dtype_name(q)}."
        )
    check_matrix(operation, q, name)


def check_scales(
    operation: str, scale: Tensor, q: Tensor, tile: Tile, name: str = "scale"
) -> None:
    """Refuse scales that do not fit the codes.

    Raises:
        KernelInputError: wrong shape, dtype or device.
    """
    check_is_tensor(operation, scale, name)
    wanted = scale_shape(q.shape, tile)
    if scale.shape != wanted:
        raise KernelInputError(
            f"{operation}: {name} must have shape {wanted} for codes of shape "
            f"{tuple(q.shape)} in tiles of {tile[0]} x {tile[1]}; got "
            f"{tuple(scale.shape)}."
        )
    if scale.dtype != torch.float32:
        raise KernelInputError(
            f"{operation}: {name} must be float32; got {dtype_name(scale)}."
        )
    if scale.device != q.device:
        raise KernelInputError(
            f"{operation}: {name} must be on the codes' device, {q.device}; got "
            f"{scale.device}."
        )


def check_gpu_has_fp8(operation: str, x: Tensor) -> None:
    """Refuse a GPU without FP8 conversions and products (before Ada and Hopper).

    Raises:
        KernelInputError: x is on such a GPU.
    """
    if not x.is_cuda:
        return
    capability = torch.cuda.get_device_capability(x.device)
    if torch.version.hip is None and capability < (8, 9):
        raise KernelInputError(
            f"{operation}: {torch.cuda.get_device_name(x.device)} (compute capability "
            f"{capability[0]}.{capability[1]}) has no FP8 units, which 8.9 and newer "
            f"have; {operation}_reference works on any device."
        )
