"""The deep exercises of lab 03, 3.4 to 3.6, and the mistakes they expect.

Shape suffixes: M tokens, K input channels, N output channels.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from kernels.float8 import encode as encode_values
from kernels.fp8_scaling import round_up_to_power_of_two
from labsupport.exercise import Exercise, WrongAnswer
from labsupport.exercise.check import CheckFailed, expect_close, same_as

Arguments = tuple[Any, ...]
Rounded = Callable[[Tensor, tuple[int, int]], Tensor]
"""(matrix, (rows, columns) of a tile) -> what is left of it."""


# --- 3.4 the two products of the backward ------------------------------------


def linear_gradients(
    g_MN: Tensor, x_MK: Tensor, w_NK: Tensor, T: int, rounded: Rounded
) -> tuple[Tensor, Tensor]:
    """dx = g w and dw = g^T x, each operand in tiles along what is summed over."""
    dx_MK = rounded(g_MN, (1, T)) @ rounded(w_NK, (T, T))
    dw_NK = rounded(g_MN, (T, 1)).t() @ rounded(x_MK, (T, 1))
    return dx_MK, dw_NK


def tile_sums(matrix: Tensor, tile: tuple[int, int]) -> Tensor:
    """Stands in for rounding: adds to each number the largest size of its tile.

    Raises:
        CheckFailed: the tile is no pair, or does not divide the matrix.
    """
    if not isinstance(tile, tuple) or len(tile) != 2:
        raise CheckFailed("a tile of (rows, columns)", repr(tile))
    (R, C), (rows, columns) = matrix.shape, tile
    if R % rows or C % columns:
        asked = f"tiles that divide a matrix of {R} x {C}"
        raise CheckFailed(asked, f"{rows} x {columns}")
    tiles = matrix.reshape(R // rows, rows, C // columns, columns)
    largest = tiles.abs().amax((1, 3), keepdim=True)
    return (tiles + largest).view(R, C)


def gradient_probes() -> Sequence[Arguments]:
    generator = torch.Generator().manual_seed(0)

    def some(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return [
        (some(M, N), some(M, K), some(N, K), T, tile_sums)
        for M, K, N, T in ((4, 6, 8, 2), (6, 3, 3, 3))
    ]


def gradients_by_hand(candidate: Callable[..., Any]) -> None:
    """Without rounding: the gradients of x w^T."""
    g, x = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [4.0]])
    w = torch.tensor([[5.0]])
    wanted = (torch.tensor([[5.0], [10.0]]), torch.tensor([[11.0]]))
    came = candidate(g, x, w, 1, lambda matrix, tile: matrix)
    expect_close(
        came, wanted, "g = [1, 2], x = [3, 4], w = 5, nothing rounded"
    )


def gradients_in_tiles(candidate: Callable[..., Any]) -> None:
    """Tiles of two, each number raised by the largest size of its tile.

    dx: rows of g become [3, 4] and [8, 0], w [[3, 2], [4, 3]].
    dw: columns of g become [4, 6] and [7, 0], of x [3, 4] and [10, 6].
    """
    g, x = torch.tensor([[[1.0, 2.0], [3.0, -5.0]], [[1.0, 5.0], [2.0, 1.0]]])
    w = torch.tensor([[1.0, 0.0], [2.0, 1.0]])
    wanted = (
        torch.tensor([[25.0, 18.0], [24.0, 16.0]]),
        torch.tensor([[36.0, 76.0], [21.0, 70.0]]),
    )
    came = candidate(g, x, w, 2, tile_sums)
    asked = (
        "g = [[1, 2], [3, -5]], x = [[1, 5], [2, 1]], w = [[1, 0], [2, 1]], tiles of "
        "2, and `rounded` adds to each number the largest size of its tile"
    )
    expect_close(came, wanted, asked)


def by_autograd(
    g_MN: Tensor, x_MK: Tensor, w_NK: Tensor, T: int, rounded: Rounded
) -> tuple[Tensor, Tensor]:
    """What autograd makes of y = x w^T, with rounded operands in place of its own."""
    x = rounded(x_MK, (T, 1)).requires_grad_()
    w = rounded(w_NK, (T, T)).requires_grad_()
    y_MN = x @ w.t()
    along_N, along_M = rounded(g_MN, (1, T)), rounded(g_MN, (T, 1))
    (dx_MK,) = torch.autograd.grad(y_MN, x, along_N, retain_graph=True)
    (dw_NK,) = torch.autograd.grad(y_MN, w, along_M)
    return dx_MK, dw_NK


def _gradients(g, x, w, T, rounded, **tiles):  # type: ignore[no-untyped-def]
    row, column, block = (1, T), (T, 1), (T, T)
    use = {"g": row, "w": block, "g_t": column, "x_t": column} | tiles
    dx = rounded(g, use["g"]) @ rounded(w, use["w"])
    return dx, rounded(g, use["g_t"]).t() @ rounded(x, use["x_t"])


def _blocks(g, x, w, T, rounded):  # type: ignore[no-untyped-def]
    every = dict.fromkeys(("g", "w", "g_t", "x_t"), (T, T))
    return _gradients(g, x, w, T, rounded, **every)


GRADIENTS = Exercise(
    id="3.4",
    title="the two products of the backward",
    minutes=12,
    difficulty=2,
    ours=linear_gradients,
    checks=(
        ("by hand", gradients_by_hand),
        ("tiles by hand", gradients_in_tiles),
        ("tiles", same_as(by_autograd, gradient_probes)),
    ),
    probes=gradient_probes,
    wrong=(
        WrongAnswer(
            "forward tiles for the weights' gradient",
            lambda g, x, w, T, r: _gradients(
                g, x, w, T, r, g_t=(1, T), x_t=(1, T)
            ),
            "for dw, g and x are cut as in the forward, 1 x T. But dw sums over "
            "tokens, and a tile has to lie along what is summed over: T x 1.",
            2,
        ),
        WrongAnswer(
            "x as in the forward",
            lambda g, x, w, T, r: _gradients(g, x, w, T, r, x_t=(1, T)),
            "for dw, x is cut as in the forward, 1 x T. dw sums over tokens: T x 1.",
            2,
        ),
        WrongAnswer(
            "g once",
            lambda g, x, w, T, r: _gradients(g, x, w, T, r, g_t=(1, T)),
            "g is rounded once and used twice. In dx it is summed over output "
            "channels, in dw over tokens: it needs tiles in both directions.",
            2,
        ),
        WrongAnswer(
            "blocks everywhere",
            _blocks,
            "g and x are cut in T x T blocks. DeepSeek tried that for gradients, and a "
            "model diverged: only weights have blocks.",
            1,
        ),
        WrongAnswer(
            "tiles for the weights",
            lambda g, x, w, T, r: _gradients(g, x, w, T, r, w=(T, 1)),
            "w is cut in T x 1. Weights have blocks of T x T, the same for both "
            "products.",
            1,
        ),
    ),
    hints=(
        "dx = g w and dw = g^T x. Weights are rounded in blocks of (T, T); g and x in "
        "tiles that are 1 wide.",
        "A tile lies along what the product sums over. dx sums over the columns of g: "
        "(1, T). dw sums over the rows of g and of x: (T, 1).",
    ),
)

# --- 3.5 powers of two -------------------------------------------------------


def power_of_two(scale: Tensor) -> Tensor:
    """The smallest power of two that is at least each scale."""
    mantissa, exponent = torch.frexp(scale)  # 0.5 <= mantissa < 1
    exponent = torch.where(mantissa == 0.5, exponent - 1, exponent)
    return torch.ldexp(torch.ones_like(scale), exponent)


def power_probes() -> Sequence[Arguments]:
    """Powers of two themselves, and their neighbours."""
    powers = torch.tensor([1.0, 2.0**-9, 2.0**20])
    above = powers * (1 + 2.0**-23)
    below = powers * (1 - 2.0**-24)
    some = torch.tensor([0.3, 1.4, 1.5, 3e-5, 700.0])
    return [(powers,), (above,), (below,), (some,)]


def power_by_hand(candidate: Callable[..., Any]) -> None:
    scale = torch.tensor([0.3, 1.0, 1.1, 5.0])
    wanted = torch.tensor([0.5, 1.0, 2.0, 8.0])
    expect_close(candidate(scale), wanted, "0.3, 1, 1.1 and 5")


def power_exactly(candidate: Callable[..., Any]) -> None:
    """The kernels do it on the bits of float32, without frexp."""
    for (scale,) in power_probes():
        wanted = round_up_to_power_of_two(scale)
        asked = f"{scale.tolist()}"
        expect_close(candidate(scale.clone()), wanted, asked, tolerance=1e-9)


def _always_up(scale):  # type: ignore[no-untyped-def]
    _, e = torch.frexp(scale)
    return torch.ldexp(torch.ones_like(scale), e)


POWER = Exercise(
    id="3.5",
    title="scales that are powers of two",
    minutes=8,
    difficulty=2,
    ours=power_of_two,
    checks=(("by hand", power_by_hand), ("to the bit", power_exactly)),
    probes=power_probes,
    wrong=(
        WrongAnswer(
            "logarithm",
            lambda s: torch.exp2(torch.ceil(torch.log2(s))),
            "the logarithm is rounded: just above a power of two it gives a whole "
            "number, and the scale ends up too small. Take the number apart instead.",
            2,
        ),
        WrongAnswer(
            "down",
            lambda s: torch.exp2(torch.floor(torch.log2(s))),
            "scales are rounded down, so the largest number of the tile goes beyond "
            "448. Round up.",
            1,
        ),
        WrongAnswer(
            "nearest",
            lambda s: torch.exp2(torch.round(torch.log2(s))),
            "scales are rounded to the nearest power, so some tiles go beyond 448. "
            "Round up.",
            1,
        ),
        WrongAnswer(
            "powers doubled",
            _always_up,
            "a scale that is a power of two already is doubled: it should stay.",
            2,
        ),
    ),
    hints=(
        "Up, never down: x / scale must not pass 448.",
        "`m, e = torch.frexp(scale)` gives scale = m 2^e with 0.5 <= m < 1, exactly. "
        "So 2^e is at least the scale; and with m = 0.5, 2^(e - 1) is the scale.",
    ),
)

# --- 3.6 encode --------------------------------------------------------------


def encode(x: float) -> int:
    """The E4M3 code of a number: to nearest, ties to even, saturating."""
    if math.isnan(x):
        return 0x7F
    sign = 0x80 if math.copysign(1.0, x) < 0 else 0
    size = min(abs(x), 448.0)
    exponent = math.frexp(max(size, 2.0**-6))[1] - 1
    steps = round(size / 2.0 ** (exponent - 3))
    return sign + ((exponent + 6) << 3) + steps


def right_code(x: float) -> int:
    """The same from the course's own formats."""
    return int(encode_values(torch.tensor([x]))[0])


TRICKY = (
    *(0.0, -0.0, 1.0, -1.0, 448.0, 500.0, math.inf, 1.0625, 1.1875, 1.95, 7.8),
    *(
        2.0**-6,
        0.99 * 2.0**-6,
        2.0**-9,
        2.0**-10,
        1.01 * 2.0**-10,
        -3.1 * 2.0**-9,
    ),
)
"""Ties, carries, the ends of the range, numbers below the smallest normal one."""


def expect_code(candidate: Callable[..., Any], x: float) -> None:
    """Fail unless the candidate encodes x rightly.

    Raises:
        CheckFailed: it does not.
    """
    came, wanted = candidate(x), right_code(x)
    if came != wanted:
        text = (
            f"{came:08b}" if isinstance(came, int) and came >= 0 else f"{came}"
        )
        raise CheckFailed(f"{x!r} to become {wanted:08b}", text)


def encode_by_hand(candidate: Callable[..., Any]) -> None:
    for x in (1.0, -1.0, 3.0, 448.0):
        expect_code(candidate, x)


def encode_tricky(candidate: Callable[..., Any]) -> None:
    for x in (*TRICKY, math.nan):
        expect_code(candidate, x)


def encode_many(candidate: Callable[..., Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, generator=generator)
    for value in (x * torch.logspace(-4, 3, 500)).tolist():
        expect_code(candidate, value)


def encode_probes() -> Sequence[Arguments]:
    return [(x,) for x in TRICKY]


def _encode(x, rounding=round, largest=448.0):  # type: ignore[no-untyped-def]
    sign = 0x80 if math.copysign(1.0, x) < 0 else 0
    size = min(abs(x), largest)
    exponent = math.frexp(max(size, 2.0**-6))[1] - 1
    steps = rounding(size / 2.0 ** (exponent - 3))
    return sign + ((exponent + 6) << 3) + steps


def _zero_is_large(x):  # type: ignore[no-untyped-def]
    sign = 0x80 if math.copysign(1.0, x) < 0 else 0
    size = min(abs(x), 448.0)
    exponent = max(math.frexp(size)[1] - 1, -6)
    steps = round(size / 2.0 ** (exponent - 3))
    return sign + ((exponent + 6) << 3) + steps


def _carry_lost(x):  # type: ignore[no-untyped-def]
    sign = 0x80 if math.copysign(1.0, x) < 0 else 0
    size = min(abs(x), 448.0)
    exponent = math.frexp(max(size, 2.0**-6))[1] - 1
    steps = round(size / 2.0 ** (exponent - 3))
    if steps < 8:
        return sign + steps
    return sign + ((exponent + 7) << 3) + (steps & 7)


ENCODE = Exercise(
    id="3.6",
    title="from a number to its byte",
    minutes=15,
    difficulty=3,
    ours=encode,
    checks=(
        ("by hand", encode_by_hand),
        ("ties, carries, ends", encode_tricky),
        ("500 numbers", encode_many),
    ),
    probes=encode_probes,
    wrong=(
        WrongAnswer(
            "cut",
            lambda x: _encode(x, rounding=math.floor),
            "the mantissa is cut off: round it to the nearest whole number of steps.",
            2,
        ),
        WrongAnswer(
            "ties up",
            lambda x: _encode(x, rounding=lambda y: math.floor(y + 0.5)),
            "a number in the middle between two codes goes up. It goes to the even "
            "one, as Python's `round` does.",
            2,
        ),
        WrongAnswer(
            "carry lost",
            _carry_lost,
            "rounding up to 16 steps has to carry into the exponent: 1.95 becomes 2, "
            "not 1. Add steps to the shifted exponent, and the carry comes by itself.",
            3,
        ),
        WrongAnswer(
            "no saturation",
            lambda x: _encode(x, largest=480.0),
            "numbers beyond 448 become the code of NaN. They saturate: clamp first.",
            1,
        ),
        WrongAnswer(
            "frexp of zero",
            _zero_is_large,
            "0 comes out as a number above 0: `math.frexp(0.0)` gives the exponent 0. "
            "Take the exponent of a number that is at least 2^-6.",
            2,
        ),
        WrongAnswer(
            "no subnormals",
            lambda x: 0 if abs(x) < 2.0**-6 else _encode(x),
            "everything below the smallest normal number becomes 0. Down to 2^-9 the "
            "steps go on.",
            2,
        ),
    ),
    hints=(
        "Put NaN and the sign aside, and clamp the size to 448.",
        "`math.frexp(y)[1] - 1` is the exponent of y, with y the size or 2^-6, "
        "whichever is larger. With a mantissa of 3 bits, steps of 2^(exponent - 3) "
        "separate neighbours: `round(size / step)` counts them, ties to even.",
        "There are 8 to 15 steps for a normal number, 16 after a carry, 0 to 7 for a "
        "subnormal one. `((exponent + 6) << 3) + steps` is right for all three.",
    ),
    otherwise={
        "ties, carries, ends": ("a special case: NaN, a carry, or an end.", 3)
    },
)
