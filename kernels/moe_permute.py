# mypy: allow-untyped-defs, disable-error-code="assignment"
"""Permute: number the experts' rows, so that those of one expert lie side by side.

    row(slot) = rows of smaller experts + earlier slots of the same expert

for each slot (visit of a token to an expert; see `moe_routing`): a counting sort
(D. Knuth, The Art of Computer Programming, vol. 3, section 5.2, algorithm D). It is
stable, that is, an expert's rows are in the order of their slots, so the result is
the same every time. Adding 1 to a counter with an atomic, and taking what it held as
a place, would sort as well, but in another order each time, and sums over an
expert's rows would be other bits.

Shapes: T tokens, E experts, K experts a token, R = T K. index_TK is the expert of
each slot; slot_R the slot of each row, row_TK the row of each slot, first_E1 the
first row of each expert, R at the end. All are int32.

Cost:   12 R + 4 (E + 1) bytes (read index; write slot, row, first)      no FLOPs

Nothing here has a gradient. Three kernels, as no program can know the others'
counts:

1. histogram: B programs count the experts in a block of slots each: count_EB;
2. prefix: a program for each expert replaces its B counts by those of all blocks
   before, and writes the sum: total_E;
3. scatter: each block finds its rows. Its slots' ranks within the block are sums
   over a tile of slots by experts that holds 1 where a slot is an expert's.

The tile makes work in proportion to R E, but of additions within a chip, while
comparing sorts go over memory again and again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.language import cdiv, jit, next_power_of_2, tl
from kernels.moe_routing import (
    MAX_EXPERTS,
    check_count,
    check_slots,
    looks_at_values,
)
from kernels.operation import Cost, KernelInputError, launch_spec, route

BENCHMARK_SHAPES = ((8192, 128), (32768, 128))
"""(T, E), with K = 8."""


def moe_permute_reference(index: Tensor, experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """Permute in plain PyTorch, on any device: the oracle, and what serves a CPU.

    Args:
        index: (T, K), the expert of each slot, any integer dtype.
        experts: E.

    Returns:
        slot, (R,), row, (T, K), and first, (E + 1,), int32.
    """
    expert_R = index.flatten()
    slot_R = expert_R.argsort(stable=True)
    row_R = torch.empty_like(slot_R)
    row_R[slot_R] = torch.arange(len(slot_R), device=index.device)
    ends_E1 = torch.arange(experts + 1, dtype=index.dtype, device=index.device)
    # An expert's first row comes after the rows of all smaller experts.
    first_E1 = torch.searchsorted(expert_R[slot_R], ends_E1, out_int32=True)
    return slot_R.int(), row_R.int().view(index.shape), first_E1


@jit
def moe_permute_histogram_kernel(
    index_ptr, count_ptr, R, E, B, BLOCK_R: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0)
    r = b * BLOCK_R + tl.arange(0, BLOCK_R)
    e = tl.arange(0, BLOCK_E)
    expert = tl.load(index_ptr + r, mask=r < R, other=0)
    # Masked lanes count for nobody.
    count = tl.histogram(expert, BLOCK_E, mask=r < R)
    # In 64 bits, since e * B passes 2**31 with many experts.
    tl.store(count_ptr + e.to(tl.int64) * B + b, count, mask=e < E)


@jit
def moe_permute_prefix_kernel(count_ptr, total_ptr, B, BLOCK_B: tl.constexpr):
    e = tl.program_id(0).to(tl.int64)
    before = tl.zeros((), dtype=tl.int32)
    for start in range(0, B, BLOCK_B):
        b = start + tl.arange(0, BLOCK_B)
        count_at = count_ptr + e * B + b
        count = tl.load(count_at, mask=b < B, other=0)
        # cumsum includes a block's own count; its rows begin before that.
        tl.store(count_at, before + tl.cumsum(count, axis=0) - count, mask=b < B)
        before += tl.sum(count, axis=0)
    tl.store(total_ptr + e, before)


@jit
def moe_permute_scatter_kernel(
    index_ptr, before_ptr, total_ptr, slot_ptr, row_ptr, first_ptr, R, E, B,
    BLOCK_R: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0)
    r = b * BLOCK_R + tl.arange(0, BLOCK_R)
    e = tl.arange(0, BLOCK_E)
    # Every program adds up the experts' totals: cheaper than one more kernel.
    total = tl.load(total_ptr + e, mask=e < E, other=0)
    end = tl.cumsum(total, axis=0)
    first = end - total
    if b == 0:
        tl.store(first_ptr + e, first, mask=e < E)
        tl.store(first_ptr + E, tl.sum(total, axis=0))
    before_at = before_ptr + e.to(tl.int64) * B + b
    start = first + tl.load(before_at, mask=e < E, other=0)
    expert = tl.load(index_ptr + r, mask=r < R, other=-1)  # -1 is no expert
    is_its = expert[:, None] == e[None, :]
    # The slots of the same expert up to and with this one, in this block.
    rank = tl.cumsum(is_its.to(tl.int32), axis=0)
    row = tl.sum(tl.where(is_its, start[None, :] + rank - 1, 0), axis=1)
    tl.store(row_ptr + r, row, mask=r < R)
    tl.store(slot_ptr + row, r, mask=r < R)


def block_launch(E: int) -> dict[str, Any]:
    """A tile of slots by experts: 8192 numbers, 64 a thread at 4 warps."""
    BLOCK_E = next_power_of_2(E)
    BLOCK_R = min(max(8192 // BLOCK_E, 16), 1024)
    return {"BLOCK_R": BLOCK_R, "BLOCK_E": BLOCK_E, "num_warps": 4, "num_stages": 1}


def prefix_launch() -> dict[str, Any]:
    """One program goes along an expert's counts, 1024 at a time."""
    return {"BLOCK_B": 1024, "num_warps": 4, "num_stages": 1}


def moe_permute(
    index: Tensor,
    experts: int,
    interpret: bool | None = None,
    check_index: bool | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Number the experts' rows: the kernels on a GPU, the reference on a CPU.

    Args:
        index: (T, K), the expert of each slot, as `moe_router` returns it; int32, or
            int64, which a GPU converts. K is at most MAX_TOP_K, T K below 2^30.
        experts: E, at most MAX_EXPERTS. Experts may stay without a row.
        interpret: True runs the kernels interpreted on a CPU (slow).
        check_index: whether to refuse an index that is not 0 to E - 1. Left out: on a
            CPU yes, on a GPU no, as waiting for the answer takes longer than the
            kernels. Not refused, it leaves everything undefined.

    Returns:
        slot, (T K,), row, (T, K), and first, (E + 1,), int32, as `moe_routing` has
        them.

    Raises:
        KernelInputError: index or experts are not as above.
        ValueError: interpret=True where kernels are not interpreted.
    """
    if isinstance(index, Tensor) and index.dtype == torch.int64:
        index = index.int()
    check_slots("moe_permute", index, "index")
    check_count("moe_permute", "experts", experts, MAX_EXPERTS)
    if index.numel() >= 2**30:
        raise KernelInputError(
            "moe_permute: index must have fewer than 2^30 elements, as rows are int32; "
            f"got {index.numel()}."
        )
    if looks_at_values(index, check_index):
        wrong = int(((index < 0) | (index >= experts)).sum())
        if wrong:
            raise KernelInputError(
                f"moe_permute: index must be 0 to {experts - 1} for {experts} experts; "
                f"{wrong} of {index.numel()} are not."
            )
    if route(index, interpret) == "reference":
        return moe_permute_reference(index, experts)
    with torch.cuda.device_of(index):  # Triton launches on the current GPU
        return _launch(index.contiguous(), experts)


def _launch(index_TK: Tensor, E: int) -> tuple[Tensor, Tensor, Tensor]:
    """The three kernels, one after another."""
    R, launch = index_TK.numel(), block_launch(E)
    B = cdiv(R, launch["BLOCK_R"])
    slot_R, row_TK = index_TK.new_empty(R), torch.empty_like(index_TK)
    if not R:  # a GPU refuses a grid of no programs
        return slot_R, row_TK, index_TK.new_zeros(E + 1)
    first_E1 = index_TK.new_empty(E + 1)
    count_EB, total_E = index_TK.new_empty((E, B)), index_TK.new_empty(E)
    moe_permute_histogram_kernel[(B,)](index_TK, count_EB, R, E, B, **launch)
    moe_permute_prefix_kernel[(E,)](count_EB, total_E, B, **prefix_launch())
    moe_permute_scatter_kernel[(B,)](
        index_TK, count_EB, total_E, slot_R, row_TK, first_E1, R, E, B, **launch
    )
    return slot_R, row_TK, first_E1


def moe_permute_cost(T: int, E: int, K: int) -> Cost:
    """index read once; slot, row and first written once. Counts are not in it."""
    return Cost(bytes=12 * T * K + 4 * (E + 1), flops=0)


SPECS = [
    spec
    for E in sorted({E for _, E in BENCHMARK_SHAPES})
    for spec in (
        launch_spec(
            moe_permute_histogram_kernel, torch.int32, block_launch(E), f"E={E}",
            index_ptr="*", count_ptr="*", R="i32", E="i32", B="i32",
        ),
        launch_spec(
            moe_permute_prefix_kernel, torch.int32, prefix_launch(), f"E={E}",
            count_ptr="*", total_ptr="*", B="i32",
        ),
        launch_spec(
            moe_permute_scatter_kernel, torch.int32, block_launch(E), f"E={E}",
            index_ptr="*", before_ptr="*", total_ptr="*", slot_ptr="*", row_ptr="*",
            first_ptr="*", R="i32", E="i32", B="i32",
        ),
    )
]  # fmt: skip
"""Every configuration that `moe_permute` launches at BENCHMARK_SHAPES."""
