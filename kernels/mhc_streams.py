"""What the mHC stream kernels share: how streams lie, their checks, their tiles.

mHC (arXiv 2512.24880) keeps n streams for each token instead of one residual.
`mhc_project` reads them for the coefficients, `mhc_pre` gathers them into the
layer's input, `mhc_post` writes the layer's output back.

Shapes: M tokens, n streams, C elements a stream. Streams are x_MnC, float32,
float16 or bfloat16, a stream's C elements side by side. Coefficients are
pre_nM, post_nM and res_nnM, float32, tokens last: a block of tokens finds its
numbers side by side, and so does Sinkhorn's, which works on one token a lane.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.operation import (
    KernelInputError,
    KernelSpec,
    check_kernel_tensor,
    launch_spec,
)

MAX_STREAMS = 8
"""The most streams: a program holds a piece of each in registers."""

BENCHMARK_SHAPES = ((32768, 4, 1280), (8192, 4, 2560), (8192, 4, 4096), (4096, 4, 7168))
"""(M, n, C) that the benchmark times and the compile check covers."""


def stream_launch(n: int) -> dict[str, Any]:
    """How a kernel is launched whose programs hold a tile of every stream.

    A tile is 4 tokens by 256 elements, a warp for each token: a thread holds 8
    elements of each stream, which in half precision are the 16 bytes that it can
    load at once, and sums over a token's elements stay within a warp. Above 4
    streams half of that, or a thread's registers would not do.
    """
    return {
        "n": n,
        "BLOCK_M": 4,
        "BLOCK_C": 256 if n <= 4 else 128,
        "num_warps": 4,
        "num_stages": 1,
    }


def stream_spec(
    kernel: Any, dtype: torch.dtype, launch: dict[str, Any], /, **types: str
) -> KernelSpec:
    """The spec of a kernel on n streams of one dtype, launched with `**launch`."""
    return launch_spec(kernel, dtype, launch, f"n={launch['n']}", **types)


def check_streams(operation: str, x: Tensor) -> None:
    """Refuse an x that is not (M, n, C) with n from 1 to MAX_STREAMS.

    Raises:
        KernelInputError: x is no tensor, or its dtype or shape is another.
    """
    check_kernel_tensor(operation, x)
    if x.ndim != 3:
        raise KernelInputError(
            f"{operation}: x must have shape (M, n, C): tokens, streams, elements; "
            f"got {tuple(x.shape)}."
        )
    _, n, C = x.shape
    if not 1 <= n <= MAX_STREAMS:
        raise KernelInputError(
            f"{operation}: x must have 1 to {MAX_STREAMS} streams, its second axis; "
            f"got {n} in shape {tuple(x.shape)}."
        )
    if C < 1:
        raise KernelInputError(
            f"{operation}: a stream must have at least one element, the last axis of "
            f"x; got shape {tuple(x.shape)}."
        )
