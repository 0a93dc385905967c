"""What the kernels of a mixture of experts share: how a routing lies in memory.

A token visits K of E experts. Each visit is a *slot*, numbered t K + k as the router
fills them, and a *row* of the experts' work, numbered so that the rows of one
expert lie side by side:

    token 0: experts 2, 0      slots 0, 1      rows of expert 0: slots 1, 2
    token 1: experts 0, 1      slots 2, 3              expert 1: slot 3
                                                       expert 2: slot 0

`moe_router` chooses the experts, `moe_permute` numbers the rows, the experts compute
on rows, `moe_combine` adds each token's rows up. No token is dropped.

Suffixes: T tokens, E experts, K experts a token, R = T K slots or rows, D model width.

    index_TK  the expert of each slot           weight_TK  its share in the output
    row_TK    the row of each slot              slot_R     the slot of each row
    first_E1  the first row of each expert, R at the end: expert e has the rows
              first_E1[e] to first_E1[e + 1]

All of them are int32; weights are float32, as the router is kept in high precision
(DeepSeek-V3, arXiv 2412.19437, section 3.3.1: FP8 leaves the gating out).
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.operation import (
    KernelInputError,
    check_is_tensor,
    dtype_name,
)

MAX_EXPERTS = 1024
"""The most experts: a program holds a number for each in registers."""

MAX_TOP_K = 32
"""The most experts a token: kernels go through them one after another."""

TOP_K = 8
"""Experts a token in the benchmark, as in DeepSeek-V3 and Qwen3-30B-A3B."""


def check_count(operation: str, name: str, value: object, most: int) -> None:
    """Refuse a count that is not 1 to most.

    Raises:
        KernelInputError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise KernelInputError(
            f"{operation}: {name} must be a whole number; got {value!r}."
        )
    if not 1 <= value <= most:
        raise KernelInputError(f"{operation}: {name} must be 1 to {most}; got {value}.")


def check_slots(operation: str, value: Tensor, name: str) -> None:
    """Refuse a value that is not a number for each slot: (T, K), int32.

    Raises:
        KernelInputError: it is not.
    """
    check_is_tensor(operation, value, name)
    if value.ndim != 2 or not 1 <= value.shape[1] <= MAX_TOP_K:
        raise KernelInputError(
            f"{operation}: {name} must have shape (T, K), tokens by experts a token, "
            f"with K 1 to {MAX_TOP_K}; got {tuple(value.shape)}."
        )
    if value.dtype != torch.int32:
        raise KernelInputError(
            f"{operation}: {name} must be int32; got {dtype_name(value)}."
        )


def looks_at_values(x: Tensor, asked: bool | None) -> bool:
    """Whether to check the numbers in x, too.

    Left open: on a CPU yes, on a GPU no, as waiting for the answer takes longer than
    the kernel.
    """
    return not x.is_cuda if asked is None else asked
