# mypy: allow-untyped-defs
"""The elements worth sending, taken out of u; what is not sent stays in it.

    sent = {i: |u_i| >= threshold}        v_i = round(u_i)        u_i <- u_i - v_i

for each i that is sent (hard threshold: Sahu et al. 2021, arXiv 2108.00951; error
feedback: Karimireddy et al. 2019, arXiv 1901.09847, algorithm 2). The values are
rounded to the dtype in which they travel, and the rounding error stays in u with all
that is too small: v + u afterwards is u before, so that nothing is lost, only late.

Shapes: u has any shape; it is seen as a row of n elements. index_k and value_k have
room for k of them, the capacity. Tiles are of 1024 neighbours. s is the bytes per
value: 4 or 2.

Cost:   4 n + (4 + s + 4) k bytes                                       2 n + k FLOPs
        (read u; write index, value and, where something was sent, u)

Nothing here has a gradient: communication begins when the backward has ended.

To write the selected elements side by side a program must know how many others write
before it. Here that takes two passes over u and a scan between them:

1. count: each program counts what is selected in its tile: count_B;
2. a prefix sum over the counts tells where each tile's elements go;
3. write: each program selects again, numbers its elements by a cumulative sum within
   the tile, writes them and takes them out of u.

So elements come in the order of their indices, every time. The other way is one pass:
a program takes room for its count with an atomic addition to a common cursor. It saves
4 n bytes, nearly half of what moves here. But programs come to the cursor in any order,
so that the same u gives another message each time, and, where the capacity does not
suffice, sends other elements. A second pass over a bucket that fits into a GPU's cache
may find it there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.fp8_cast import size_of
from kernels.gradient_operands import check_state
from kernels.language import cdiv, jit, tl
from kernels.operation import (
    KERNEL_DTYPES,
    TRITON_TYPES,
    Cost,
    KernelInputError,
    launch_spec,
    route,
)

BENCHMARK_SHAPES = ((65_536, 100), (655_360, 100))
"""(k, elements for each that is sent): 1 % of a bucket as DDP makes it, of 25 MB in
float32, and of ten of them in one."""

Selected = tuple[Tensor, Tensor, Tensor]
"""index_k, value_k, count."""


def gradient_select_reference(
    u: Tensor, threshold: float, capacity: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same in plain PyTorch, on any device, changing nothing: the oracle.

    Args:
        u: any shape, any floating dtype; computed in float32.
        threshold: the smallest |u| that is sent.
        capacity: the most elements that are.
        dtype: of the values.

    Returns:
        index, (capacity,), int32; value, (capacity,), of dtype; count, (), int32; and
        the residual, of u's shape, float32.
    """
    residual_n = u.float().flatten().clone()
    size_n = residual_n.abs().nan_to_num(nan=torch.inf, posinf=torch.inf)
    sent_c = (size_n >= threshold).nonzero()[:capacity, 0]
    value_c = residual_n[sent_c].to(dtype)
    residual_n[sent_c] -= value_c.float()
    index_k = torch.zeros(capacity, dtype=torch.int32, device=u.device)
    value_k = torch.zeros(capacity, dtype=dtype, device=u.device)
    index_k[: len(sent_c)], value_k[: len(sent_c)] = sent_c.int(), value_c
    count = index_k.new_tensor(len(sent_c))
    return index_k, value_k, count, residual_n.view(u.shape)


@jit
def gradient_select_count_kernel(u_ptr, count_ptr, threshold, n, BLOCK: tl.constexpr):
    # In 64 bits, since the last tile may reach beyond 2**31.
    b = tl.program_id(0).to(tl.int64)
    i = b * BLOCK + tl.arange(0, BLOCK)
    u = tl.load(u_ptr + i, mask=i < n, other=0.0)
    # A NaN counts as infinite. The mask too, as a threshold of 0 selects zeros.
    selected = (size_of(u) >= threshold) & (i < n)
    tl.store(count_ptr + b, tl.sum(selected.to(tl.int32), axis=0))


@jit
def gradient_select_write_kernel(
    u_ptr, end_ptr, index_ptr, value_ptr, threshold, n, capacity, BLOCK: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    i = b * BLOCK + tl.arange(0, BLOCK)
    u = tl.load(u_ptr + i, mask=i < n, other=0.0)
    selected = (size_of(u) >= threshold) & (i < n)
    # How many are selected up to and with each lane, and up to this tile's end.
    rank = tl.cumsum(selected.to(tl.int32), axis=0)
    end = tl.load(end_ptr + b)
    place = end - tl.sum(selected.to(tl.int32), axis=0) + rank - 1
    # What finds no room stays in u, for the next step.
    sent = selected & (place < capacity)
    value = u.to(value_ptr.dtype.element_ty)
    # The store makes i 32 bits wide, as index_ptr asks.
    tl.store(index_ptr + place, i, mask=sent)
    tl.store(value_ptr + place, value, mask=sent)
    tl.store(u_ptr + i, u - value.to(tl.float32), mask=sent)


def tile_launch() -> dict[str, Any]:
    """A program takes 1024 neighbours: 8 a thread, which it loads 4 at a time."""
    return {"BLOCK": 1024, "num_warps": 4, "num_stages": 1}


def gradient_select(
    u: Tensor,
    threshold: float,
    capacity: int,
    dtype: torch.dtype = torch.float32,
    interpret: bool | None = None,
) -> Selected:
    """Take what reaches the threshold out of u: kernels on a GPU, else reference.

    Args:
        u: any shape of fewer than 2^31 elements, float32, contiguous: keeps what is
            not sent.
        threshold: the smallest |u| that is sent, 0 or more; compared in float32.
        capacity: the most elements that are sent, 1 or more. Where more reach the
            threshold, those of the smallest indices are, and the others stay in u. At
            every step so, the last ones would wait for ever: raise the threshold.
        dtype: of the values: float32, float16 or bfloat16.
        interpret: True runs the kernels interpreted on a CPU (slow).

    Returns:
        index, (capacity,), int32, in ascending order; value, (capacity,), of dtype;
        and count, (), int32, how many of them are filled. The others are 0: adding
        value at index changes nothing there, so that all ranks can send as much. None
        has a gradient. NaN and infinity reach every threshold, are sent, and leave NaN
        in u. A number beyond the range of dtype is sent as an infinity.

    Raises:
        KernelInputError: u, threshold, capacity or dtype are not as above.
        ValueError: interpret=True where kernels are not interpreted.
    """
    check_state("gradient_select", u, "u")
    _check_limits(u, threshold, capacity, dtype)
    u, n = u.detach(), u.numel()
    if route(u, interpret) == "reference":
        *selected, residual = gradient_select_reference(u, threshold, capacity, dtype)
        u.copy_(residual)
        return selected[0], selected[1], selected[2]
    index_k = u.new_zeros(capacity, dtype=torch.int32)
    value_k = u.new_zeros(capacity, dtype=dtype)
    if not n:  # a GPU refuses a grid of no programs
        return index_k, value_k, index_k.new_zeros(())
    launch = tile_launch()
    count_B = u.new_empty(cdiv(n, launch["BLOCK"]), dtype=torch.int32)
    with torch.cuda.device_of(u):  # Triton launches on the current GPU
        grid = (len(count_B),)
        gradient_select_count_kernel[grid](u, count_B, float(threshold), n, **launch)
        end_B = count_B.cumsum(0, dtype=torch.int32)
        gradient_select_write_kernel[grid](
            u, end_B, index_k, value_k, float(threshold), n, capacity, **launch
        )
    return index_k, value_k, end_B[-1].clamp(max=capacity)


def _check_limits(
    u: Tensor, threshold: float, capacity: int, dtype: torch.dtype
) -> None:
    if not threshold >= 0:  # true for NaN as well
        raise KernelInputError(
            f"gradient_select: threshold must be 0 or more; got {threshold}."
        )
    if not isinstance(capacity, int) or not 1 <= capacity < 2**31:
        raise KernelInputError(
            "gradient_select: capacity must be a whole number from 1 to 2^31 - 1; got "
            f"{capacity!r}."
        )
    if dtype not in KERNEL_DTYPES:
        raise KernelInputError(
            "gradient_select: dtype must be torch.float32, torch.float16 or "
            f"torch.bfloat16; got {dtype}."
        )
    if u.numel() >= 2**31:
        raise KernelInputError(
            "gradient_select: u must have fewer than 2^31 elements, as indices are "
            f"int32; got {u.numel()}."
        )


def gradient_select_cost(n: int, k: int, dtype: torch.dtype) -> Cost:
    """u read once; index, value and the residual of what is sent written once.

    The second pass is not in it: another implementation could do without.
    """
    return Cost(bytes=4 * n + (8 + dtype.itemsize) * k, flops=2 * n + k)


SPECS = [
    launch_spec(
        gradient_select_count_kernel, torch.float32, tile_launch(), "tiles", u_ptr="*",
        count_ptr="*i32", threshold="fp32", n="i32",
    ),
    *(
        launch_spec(
            gradient_select_write_kernel, torch.float32, tile_launch(),
            f"values in {TRITON_TYPES[dtype]}", u_ptr="*", end_ptr="*i32",
            index_ptr="*i32", value_ptr=f"*{TRITON_TYPES[dtype]}", threshold="fp32",
            n="i32", capacity="i32",
        )
        for dtype in KERNEL_DTYPES
    ),
]  # fmt: skip
"""Every configuration that `gradient_select` launches at BENCHMARK_SHAPES."""
