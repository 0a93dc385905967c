# mypy: allow-untyped-defs
"""What the grouped matrix products of a mixture of experts share: rows, tiles, checks.

The rows of one expert lie side by side (`moe_routing.py` shows how), so its product
is one piece of a tall matrix with its own weights. How many rows that is only the GPU
knows, and asking it would make the CPU wait. So a launch starts as many programs as
the worst division of the rows needs, and each program finds its tile: with
m = min(E, R) experts that have rows,

    ceil(n_1 / B) + ... + ceil(n_E / B)  <=  m + floor((R - m) / B)

tiles of B rows: one begins with the first row of each expert, and then every B rows
more make another. Programs beyond the last tile end at once. No expert has a
capacity, no row is dropped and nothing is padded in memory; the last tile of an
expert is merely not full.

Shapes: T tokens, E experts, K experts a token, R = T K rows, B rows a block.
first_E1, slot_R and row_TK are int32, as `moe_permute` makes them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.language import jit, next_power_of_2, tl
from kernels.moe_routing import MAX_EXPERTS, check_slots, looks_at_values
from kernels.operation import KernelInputError, check_beside, check_is_tensor


@jit
def rows_of_tile(first_ptr, tile, E, BLOCK_R: tl.constexpr, BLOCK_E: tl.constexpr):
    """The expert of a tile, its first row, and where the expert's rows end.

    For a tile that there is not, all three are such that start >= stop.
    """
    e = tl.arange(0, BLOCK_E)
    # No rows, so no tiles, for experts beyond E.
    first = tl.load(first_ptr + e, mask=e < E, other=0)
    end = tl.load(first_ptr + e + 1, mask=e < E, other=0)
    tiles = (end - first + BLOCK_R - 1) // BLOCK_R
    tiles_up_to = tl.cumsum(tiles, axis=0)
    # Experts whose tiles are all before this one, those without rows among them.
    expert = tl.sum((tiles_up_to <= tile).to(tl.int32), axis=0)
    tile_of_expert = tile - (tiles_up_to - tiles)
    start = tl.sum(tl.where(e == expert, first + tile_of_expert * BLOCK_R, 0), axis=0)
    stop = tl.sum(tl.where(e == expert, end, 0), axis=0)
    # In 64 bits, since a row or an expert times its stride passes 2**31.
    return expert.to(tl.int64), start.to(tl.int64), stop.to(tl.int64)


@jit
def load_weights(
    matrix_ptr, c, n, stride, in_c, in_n, TRANSPOSED: tl.constexpr
):  # fmt: skip
    """A block of one expert's matrix, c by n, whichever axis lies side by side.

    0 outside, which adds nothing to a product. A matrix has < 2**31 numbers.
    """
    if TRANSPOSED:
        at = n[None, :] * stride + c[:, None]
    else:
        at = c[:, None] * stride + n[None, :]
    inside = in_c[:, None] & in_n[None, :]
    return tl.load(matrix_ptr + at, mask=inside, other=0.0)


def most_tiles(R: int, E: int, BLOCK_R: int) -> int:
    """Tiles that R rows of E experts need if they are divided in the worst way."""
    experts_with_rows = min(E, R)
    return experts_with_rows + (R - experts_with_rows) // BLOCK_R


def one_axis_side_by_side(weight_ECN: Tensor) -> Tensor:
    """The weights with C or N side by side, copied only if neither is.

    So weights that are kept as (E, N, C) are passed as their transpose for nothing.
    """
    is_either = weight_ECN.stride(2) == 1 or weight_ECN.stride(1) == 1
    return weight_ECN if is_either else weight_ECN.contiguous()


def lie_transposed(weight_ECN: Tensor) -> tuple[bool, int]:
    """TRANSPOSED and the stride of `load_weights`, one axis being side by side."""
    transposed = weight_ECN.stride(2) != 1
    return transposed, weight_ECN.stride(2 if transposed else 1)


def block_of_experts(E: int) -> int:
    """BLOCK_E: all experts in one block."""
    return next_power_of_2(E)


def rows_by_expert(x_RC: Tensor, first_E1: Tensor) -> tuple[Tensor, ...]:
    """The rows of each expert, as views: for the references. Waits for a GPU."""
    return x_RC.split(first_E1.diff().tolist())


def check_experts(
    operation: str, x: Tensor, name: str, weight: Tensor, axes: str
) -> None:
    """Refuse weights that are not (E, width of x, any), in x's dtype and place.

    Args:
        operation: the public function's name.
        x: rows or tokens, (any, width), checked already.
        name: what the function calls the weights.
        weight: the weights.
        axes: their shape in letters, such as "(E, C, N)".

    Raises:
        KernelInputError: they are not.
    """
    check_is_tensor(operation, weight, name)
    is_matrices = weight.ndim == 3 and weight.numel() > 0
    if not is_matrices or weight.shape[0] > MAX_EXPERTS:
        raise KernelInputError(
            f"{operation}: {name} must have shape {axes} with 1 to {MAX_EXPERTS} "
            f"experts and no empty axis; got {tuple(weight.shape)}."
        )
    shape = (weight.shape[0], x.shape[1], weight.shape[2])
    check_beside(operation, x, name, weight, shape, axes, x.dtype)


def check_first(operation: str, x: Tensor, first: Tensor, experts: int, R: int) -> None:
    """Refuse a `first` that does not divide R rows among the experts.

    Its numbers are looked at on a CPU only: a GPU would have to be waited for.

    Raises:
        KernelInputError: its shape, dtype or device is another, or it does not
            begin at 0, falls somewhere, or does not end at R.
    """
    check_beside(operation, x, "first", first, (experts + 1,), "(E + 1,)", torch.int32)
    if not looks_at_values(first, None):
        return
    if first[0] != 0 or first[-1] != R or (first.diff() < 0).any():
        raise KernelInputError(
            f"{operation}: first must begin at 0, never fall and end at the number of "
            f"rows, {R}; got {_few(first)}."
        )


def check_places(operation: str, x: Tensor, slot: Tensor, row: Tensor) -> None:
    """Refuse a `slot` and a `row` that are not each other's inverse.

    Their numbers are looked at on a CPU only.

    Args:
        operation: the public function's name.
        x: the tokens, (T, width), checked already.
        slot: t K + k of each row.
        row: the row of each t, k.

    Raises:
        KernelInputError: a shape, dtype or device is another, or a number is.
    """
    check_slots(operation, row, "row")
    T, K = x.shape[0], row.shape[1]
    check_beside(operation, x, "row", row, (T, K), "(T, K)", torch.int32)
    check_beside(operation, x, "slot", slot, (T * K,), "(T K,)", torch.int32)
    if not slot.numel() or not looks_at_values(slot, None):
        return
    in_order = torch.arange(T * K, dtype=torch.int32)
    inside = slot.min() >= 0 and slot.max() < T * K
    if not inside or not torch.equal(row.flatten()[slot.long()], in_order):
        raise KernelInputError(
            f"{operation}: slot must hold each of 0 to {T * K - 1} once and row its "
            f"inverse, as moe_permute returns them; got slot {_few(slot)} and row "
            f"{_few(row.flatten())}."
        )


def _few(numbers: Tensor) -> str:
    """The first few of many integers, for a message."""
    shown = ", ".join(str(each) for each in numbers[:8].tolist())
    return f"[{shown}, ...]" if numbers.numel() > 8 else f"[{shown}]"
