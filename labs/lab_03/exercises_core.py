"""The core exercises of lab 03, 3.1 to 3.3, and the mistakes they expect.

Shape suffixes: M tokens, K input channels, N output channels, T the side of a tile,
J = K / T tiles in a row, I = N / T blocks in a column.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from kernels.float8 import E4M3, cast
from kernels.fp8_scaling import SMALLEST_SCALE, quantise_reference
from labsupport.exercise import Exercise, WrongAnswer
from labsupport.exercise.check import CheckFailed, expect_close, same_as

Arguments = tuple[Any, ...]
LARGEST = E4M3.largest


def random(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers, each row of another size."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    return x * torch.logspace(-3, 3, shape[0])[:, None]


# --- 3.1 decode --------------------------------------------------------------


def decode(code: int) -> float:
    """The value of an E4M3 code: 1 sign, 4 exponent and 3 mantissa bits."""
    sign = -1.0 if code & 0x80 else 1.0
    exponent, mantissa = (code >> 3) & 0xF, code & 0x7
    if exponent == 15 and mantissa == 7:
        return math.nan
    if exponent == 0:
        return sign * 2**-6 * (mantissa / 8)
    return sign * 2 ** (exponent - 7) * (1 + mantissa / 8)


def value_in_torch(code: int) -> float:
    """What torch takes the byte for."""
    byte = torch.tensor([code], dtype=torch.uint8)
    return byte.view(torch.float8_e4m3fn).float().item()


def expect_value(
    candidate: Callable[..., Any], code: int, wanted: float
) -> None:
    """Fail unless the candidate decodes this code rightly.

    Raises:
        CheckFailed: it does not.
    """
    came = candidate(code)
    asked = f"code {code:08b} ({code:#04x}) to be {wanted:g}"
    try:
        value = float(came)
    except (TypeError, ValueError):
        raise CheckFailed(asked, f"{type(came).__name__}, no number") from None
    same = value == wanted or (math.isnan(value) and math.isnan(wanted))
    if not same:
        raise CheckFailed(asked, f"{value:g}")


BY_HAND = {
    0b0_0111_000: 1.0,
    0b0_1000_100: 3.0,
    0b1_0111_000: -1.0,
    0b0_1111_110: 448.0,
    0b0_0000_001: 2.0**-9,
}
"""Codes and their values: the last two are the largest and the smallest."""


def decode_by_hand(candidate: Callable[..., Any]) -> None:
    for code, value in BY_HAND.items():
        expect_value(candidate, code, value)


def decode_all(candidate: Callable[..., Any]) -> None:
    for code in range(256):
        expect_value(candidate, code, value_in_torch(code))


def decode_probes() -> Sequence[Arguments]:
    codes = (*BY_HAND, 0, 5, 7, 8, 0x78, 0x7B, 0x7F, 0x83, 0xFF, 0xC5)
    return [(code,) for code in codes]


def _decode(
    code, bias=7, least=-6, ieee=False, nan=True, hidden=True, parts=8
):  # type: ignore[no-untyped-def]
    sign = -1.0 if code & 0x80 else 1.0
    e, m = (code >> 3) & 0xF, code & 0x7
    if ieee and e == 15:
        return math.nan if m else sign * math.inf
    if nan and e == 15 and m == 7:
        return math.nan
    if hidden and e == 0:
        return sign * 2.0**least * m / parts
    return sign * 2.0 ** (e - bias) * (1 + m / parts)


DECODE = Exercise(
    id="3.1",
    title="from a byte to a number",
    minutes=10,
    difficulty=1,
    ours=decode,
    checks=(("by hand", decode_by_hand), ("all 256 codes", decode_all)),
    probes=decode_probes,
    wrong=(
        WrongAnswer(
            "no subnormals",
            lambda code: _decode(code, hidden=False),
            "exponent bits of 0 are treated like all others. There the 1 in front of "
            "the mantissa is missing, and the exponent is -6: so 0 has a code.",
            2,
        ),
        WrongAnswer(
            "subnormals are zero",
            lambda code: 0.0 if code & 0x78 == 0 else _decode(code),
            "all codes with exponent bits of 0 become 0. They are multiples of 2^-9.",
            2,
        ),
        WrongAnswer(
            "subnormals one lower",
            lambda code: _decode(code, least=-7),
            "below the smallest normal number the exponent is -7. It is -6, that of "
            "the smallest normal ones, so that the spacing goes on evenly.",
            2,
        ),
        WrongAnswer(
            "infinity",
            lambda code: _decode(code, ieee=True),
            "the largest exponent is kept for infinity and NaN, as IEEE 754 does. "
            "E4M3 has no infinity, and only 1111.111 is NaN.",
            3,
        ),
        WrongAnswer(
            "no NaN",
            lambda code: _decode(code, nan=False),
            "1111.111 becomes 480. It is NaN; the largest number is 448.",
            3,
        ),
        WrongAnswer(
            "bias of 8",
            lambda code: _decode(code, bias=8, least=-7),
            "the bias is 8. With 4 exponent bits it is 7: 0111 stands for 2^0.",
            1,
        ),
        WrongAnswer(
            "sign lost",
            lambda code: _decode(code & 0x7F),
            "negative numbers come out positive: the first bit is the sign.",
            1,
        ),
        WrongAnswer(
            "mantissa of sixteenths",
            lambda code: _decode(code, parts=16),
            "the mantissa counts sixteenths. It has 3 bits: it counts eighths.",
            1,
        ),
    ),
    hints=(
        "`code >> 3 & 15` are the exponent bits, `code & 7` the mantissa bits, "
        "`code & 128` the sign bit. A normal number is 2^(E - 7) times (1 + m / 8).",
        "E = 0 is special: 2^-6 times m / 8, without the 1.",
        "E = 15 is not special but for one code: with m = 7 it is NaN, `math.nan`.",
    ),
    otherwise={"all 256 codes": ("a special case: E = 0, or the NaN.", 2)},
)

# --- 3.2 quantise ------------------------------------------------------------


def quantise_tiles(x_MK: Tensor, T: int) -> tuple[Tensor, Tensor]:
    """Codes and scales of tiles of 1 x T (2412.19437, section 3.3.2).

    Returns:
        q_MK, float8_e4m3fn, and scale_MJ, float32.
    """
    M, K = x_MK.shape
    tiles_MJT = x_MK.float().reshape(M, K // T, T)
    scale_MJ = (tiles_MJT.abs().amax(dim=2) / LARGEST).clamp(
        min=SMALLEST_SCALE
    )
    q_MJT = cast(tiles_MJT / scale_MJ[:, :, None])
    return q_MJT.view(M, K), scale_MJ


def by_the_kernels(x_MK: Tensor, T: int) -> tuple[Tensor, Tensor]:
    """What the course's kernels are held against."""
    return quantise_reference(x_MK, (1, T))


def quantise_probes() -> Sequence[Arguments]:
    """Rows of very different sizes; the largest is negative; a tile of zeros."""
    zeros = random(3, 8, seed=4)
    zeros[1, 4:] = 0.0
    return [
        (random(4, 12, seed=1), 4),
        (-random(2, 6, seed=2).abs(), 3),
        (zeros, 4),
        (random(3, 5, seed=5), 5),
    ]


def quantise_by_hand(candidate: Callable[..., Any]) -> None:
    """Two tiles: largest 448 and 0.5."""
    x_MK = torch.tensor([[448.0, -7.0, 0.5, -0.25]])
    q_MK = torch.tensor([[448.0, -7.0, 448.0, -224.0]])
    scale_MJ = torch.tensor([[1.0, 0.5 / 448]])
    came = candidate(x_MK.clone(), 2)
    if not isinstance(came, tuple) or len(came) != 2:
        kind = type(came).__name__
        raise CheckFailed("codes and scales, two tensors", kind)
    if isinstance(came[0], Tensor) and came[0].dtype != torch.float8_e4m3fn:
        raise CheckFailed(
            "codes of dtype float8_e4m3fn",
            f"{came[0].dtype}: is `cast` missing?",
        )
    asked = "[448, -7, 0.5, -0.25] in tiles of 2"
    expect_close(came, (q_MK, scale_MJ), asked)


def quantise_tiny(candidate: Callable[..., Any]) -> None:
    """Scales far below any tolerance are compared as ratios."""
    x_MK = torch.tensor([[448.0, -7.0, 0.0, 0.0]]) * 2.0**-100
    q, scale_MJ = candidate(x_MK.clone(), 2)
    wanted_MJ = torch.tensor([[2.0**-100, 2.0**-126]])
    expect_close(
        scale_MJ / wanted_MJ,
        torch.ones_like(wanted_MJ),
        "[448, -7, 0, 0] times 2^-100 in tiles of 2: scales over "
        "[2^-100, 2^-126]",
    )
    expect_close(q, torch.tensor([[448.0, -7.0, 0.0, 0.0]]), "their codes")


def _quantise(x, T, size=torch.abs, least=SMALLEST_SCALE, largest=LARGEST):  # type: ignore[no-untyped-def]
    tiles = x.reshape(x.shape[0], -1, T)
    scale = (size(tiles).amax(2) / largest).clamp(min=least)
    return cast(tiles / scale[:, :, None]).view(x.shape), scale


def _by_matrix(x, T):  # type: ignore[no-untyped-def]
    scale = (x.abs().amax() / LARGEST).clamp(min=SMALLEST_SCALE)
    return cast(x / scale), scale.expand(x.shape[0], x.shape[1] // T).clone()


def _by_row(x, T):  # type: ignore[no-untyped-def]
    scale = (x.abs().amax(1, keepdim=True) / LARGEST).clamp(min=SMALLEST_SCALE)
    return cast(x / scale), scale.repeat(1, x.shape[1] // T)


def _strided(x, T):  # type: ignore[no-untyped-def]
    tiles = x.reshape(x.shape[0], T, -1)
    scale = (tiles.abs().amax(1) / LARGEST).clamp(min=SMALLEST_SCALE)
    return cast(tiles / scale[:, None]).view(x.shape), scale


def _inverse(x, T):  # type: ignore[no-untyped-def]
    q, scale = _quantise(x, T)
    return q, 1 / scale


def _one_for_zeros(x, T):  # type: ignore[no-untyped-def]
    q, scale = _quantise(x, T)
    return q, torch.where(scale > SMALLEST_SCALE, scale, 1.0)


def _not_divided(x, T):  # type: ignore[no-untyped-def]
    return cast(x), _quantise(x, T)[1]


QUANTISE = Exercise(
    id="3.2",
    title="a scale for each tile",
    minutes=12,
    difficulty=2,
    ours=quantise_tiles,
    checks=(
        ("by hand", quantise_by_hand),
        ("random rows", same_as(by_the_kernels, quantise_probes)),
        ("tiny numbers", quantise_tiny),
    ),
    probes=quantise_probes,
    wrong=(
        WrongAnswer(
            "one scale for all",
            _by_matrix,
            "all tiles have the same scale, that of the largest number of the matrix. "
            "Take the largest of each tile.",
            1,
        ),
        WrongAnswer(
            "one scale a row",
            _by_row,
            "all tiles of a row have the same scale. Cut the row into tiles first.",
            1,
        ),
        WrongAnswer(
            "tiles with gaps",
            _strided,
            "a tile takes every J-th number. Its T numbers are neighbours: reshape to "
            "(M, J, T), not (M, T, J).",
            1,
        ),
        WrongAnswer(
            "no abs",
            lambda x, T: _quantise(x, T, size=lambda y: y),
            "the largest number is taken, not the largest size: a large negative one "
            "goes beyond 448.",
            2,
        ),
        WrongAnswer(
            "inverse scale",
            _inverse,
            "448 / amax is returned. The scale is what a code is multiplied by to get "
            "x back: amax / 448.",
            2,
        ),
        WrongAnswer(
            "not divided",
            _not_divided,
            "the scale is computed but not used: cast x / scale.",
            2,
        ),
        WrongAnswer(
            "zero scale",
            lambda x, T: _quantise(x, T, least=0.0),
            "a tile of zeros has the scale 0, and 0 / 0 is NaN: clamp the scale to at "
            "least 2.0**-126.",
            3,
        ),
        WrongAnswer(
            "scale of 1 for zeros",
            _one_for_zeros,
            "a tile of zeros has the scale 1. Asked is 2^-126, which `clamp` gives "
            "without a case of its own.",
            3,
        ),
        WrongAnswer(
            "largest of E5M2",
            lambda x, T: _quantise(x, T, largest=57344.0),
            "scales are made for E5M2's largest number. E4M3's is 448.",
            2,
        ),
    ),
    hints=(
        "`x_MK.reshape(M, -1, T)` has the tiles of each row along its second axis.",
        "amax is the largest absolute value of a tile, `abs().amax(dim=2)`. Divided by "
        "448 it is the scale, and x / scale is at most 448.",
        "`.clamp(min=...)` keeps scales above 0. To divide, give the scale a "
        "third axis, `scale_MJ[:, :, None]`; and bring the codes back to (M, K).",
    ),
    otherwise={
        "tiny numbers": (
            "the floor under the scale is not 2.0**-126. A higher one makes zeros of "
            "small gradients.",
            3,
        )
    },
)

# --- 3.3 multiply ------------------------------------------------------------

Dot = Callable[[Tensor, Tensor], Tensor]
"""The tensor core: (a_MT, b_NT) -> a b^T, for T columns at most."""


def exact_dot(a_MT: Tensor, b_NT: Tensor) -> Tensor:
    """The product of codes, summed in float32."""
    return a_MT.float() @ b_NT.float().t()


def fp8_matmul(
    q_MK: Tensor, s_MJ: Tensor, w_NK: Tensor, t_IJ: Tensor, T: int, dot: Dot
) -> Tensor:
    """y_MN = (s q)(t w)^T, promoted after each T of K (2412.19437, section 3.3.2)."""
    y_MN = torch.zeros(len(q_MK), len(w_NK), device=q_MK.device)
    for j in range(s_MJ.shape[1]):
        k = slice(j * T, (j + 1) * T)
        part_MN = dot(q_MK[:, k], w_NK[:, k])
        t_N = t_IJ[:, j].repeat_interleave(T)
        y_MN = y_MN + part_MN * s_MJ[:, j, None] * t_N
    return y_MN


class NarrowDot:
    """A tensor core that takes at most T columns, and whose sums are coarse."""

    def __init__(self, T: int) -> None:
        self.T = T

    def __call__(self, a_MT: Tensor, b_NT: Tensor) -> Tensor:
        for operand in (a_MT, b_NT):
            if operand.dtype != E4M3.dtype:
                asked = "codes in `dot`, of dtype float8_e4m3fn"
                raise CheckFailed(asked, f"{operand.dtype}")
        shapes = f"{tuple(a_MT.shape)} and {tuple(b_NT.shape)}"
        if a_MT.ndim != 2 or b_NT.ndim != 2:
            raise CheckFailed("two matrices in `dot`", f"shapes {shapes}")
        if a_MT.shape[1] != b_NT.shape[1]:
            asked = "two matrices with as many columns in `dot`"
            raise CheckFailed(asked, shapes)
        if a_MT.shape[1] > self.T:
            asked = f"products of at most {self.T} columns"
            raise CheckFailed(asked, f"one of {a_MT.shape[1]}")
        return self.coarse(exact_dot(a_MT, b_NT))

    @staticmethod
    def coarse(sums: Tensor) -> Tensor:
        """What is left of sums in the register: whole numbers."""
        return torch.round(sums)


def by_the_formula(
    q_MK: Tensor,
    s_MJ: Tensor,
    w_NK: Tensor,
    t_IJ: Tensor,
    T: int,
    dot: NarrowDot,
) -> Tensor:
    """The formula as it stands in the lab, all sums at once, in float64."""
    J = s_MJ.shape[1]
    q_MJT, w_NJT = (x.double().unflatten(1, (J, T)) for x in (q_MK, w_NK))
    sum_MNJ = dot.coarse(torch.einsum("mjt,njt->mnj", q_MJT, w_NJT))
    t_NJ = t_IJ[torch.arange(len(w_NK)) // T].double()
    return torch.einsum("mj,nj,mnj->mn", s_MJ.double(), t_NJ, sum_MNJ)


def matmul_probes() -> Sequence[Arguments]:
    """Two blocks each way, and one that is all."""
    found = []
    for M, K, N, T in ((3, 8, 4, 2), (2, 6, 6, 3), (1, 4, 4, 4)):
        q, s = quantise_reference(random(M, K, seed=M), (1, T))
        w, t = quantise_reference(random(N, K, seed=N + 9), (T, T))
        found.append((q, s, w, t, T, NarrowDot(T)))
    return found


def matmul_by_hand(candidate: Callable[..., Any]) -> None:
    """Two slices of one column each."""
    q = torch.tensor([[1.0, 2.0]]).to(E4M3.dtype)
    w = torch.tensor([[4.0, 8.0]]).to(E4M3.dtype)
    s, t = torch.tensor([[10.0, 100.0]]), torch.tensor([[0.5, 2.0]])
    came = candidate(q, s, w, t, 1, NarrowDot(1))
    wanted = torch.tensor([[4 * 10 * 0.5 + 16 * 100 * 2.0]])
    expect_close(came, wanted, "1 * 4 at scales 10, 0.5 plus 2 * 8 at 100, 2")


def _parts(q, s, w, t, T, dot):  # type: ignore[no-untyped-def]
    for j in range(s.shape[1]):
        k = slice(j * T, (j + 1) * T)
        yield j, dot(q[:, k], w[:, k]), s[:, j, None], t[:, j]


def _matmul(q, s, w, t, T, dot, spread=None, weigh=None):  # type: ignore[no-untyped-def]
    spread = spread or (lambda t_I: t_I.repeat_interleave(T))
    weigh = weigh or (lambda part, a, b: part * a * b)
    return sum(
        weigh(part, s_M1, spread(t_I))
        for _, part, s_M1, t_I in _parts(q, s, w, t, T, dot)
    )


def _at_the_end(q, s, w, t, T, dot):  # type: ignore[no-untyped-def]
    total = sum(part for _, part, _, _ in _parts(q, s, w, t, T, dot))
    return total * s[:, :1] * t[:, 0].repeat_interleave(T)


def _whole(q, s, w, t, T, dot):  # type: ignore[no-untyped-def]
    return dot(q, w) * s[:, :1] * t[:, 0].repeat_interleave(T)


def _without_dot(q, s, w, t, T, dot):  # type: ignore[no-untyped-def]
    return fp8_matmul(q, s, w, t, T, exact_dot)


def _scaled_before(q, s, w, t, T, dot):  # type: ignore[no-untyped-def]
    y = 0
    for j in range(s.shape[1]):
        k = slice(j * T, (j + 1) * T)
        t_N1 = t[:, j].repeat_interleave(T)[:, None]
        y = y + dot(q[:, k].float() * s[:, j, None], w[:, k].float() * t_N1)
    return y


def _transposed(q, s, w, t, T, dot):  # type: ignore[no-untyped-def]
    return fp8_matmul(q, s, w, t, T, lambda a, b: dot(a, b.t()))


def _last_only(q, s, w, t, T, dot):  # type: ignore[no-untyped-def]
    last = None
    for _, part, s_M1, t_I in _parts(q, s, w, t, T, dot):
        last = part * s_M1 * t_I.repeat_interleave(T)
    return last


MATMUL = Exercise(
    id="3.3",
    title="multiply codes, add in float32",
    minutes=15,
    difficulty=2,
    ours=fp8_matmul,
    checks=(
        ("by hand", matmul_by_hand),
        ("random codes", same_as(by_the_formula, matmul_probes)),
    ),
    probes=matmul_probes,
    wrong=(
        WrongAnswer(
            "scales at the end",
            _at_the_end,
            "all parts are multiplied by the first tile's scales. Each slice of K has "
            "its own: multiply before you add.",
            2,
        ),
        WrongAnswer(
            "whole K at once",
            _whole,
            "`dot` is called once, on all of K. Its accumulator is coarse: call it for "
            "T columns at a time, and add the results in float32.",
            1,
        ),
        WrongAnswer(
            "without dot",
            _without_dot,
            "the product is computed without `dot`: on the hardware nobody else can "
            "multiply codes.",
            1,
        ),
        WrongAnswer(
            "scaled before dot",
            _scaled_before,
            "numbers are scaled before they go into `dot`. It takes codes: scale what "
            "comes back.",
            2,
        ),
        WrongAnswer(
            "transposed",
            _transposed,
            "the weights are transposed for `dot`. It takes them as they lie, N rows "
            "of T, and transposes by itself.",
            1,
        ),
        WrongAnswer(
            "no weight scale",
            lambda *a: _matmul(*a, weigh=lambda part, s, t: part * s),
            "the scales of the weights are missing.",
            2,
        ),
        WrongAnswer(
            "no input scale",
            lambda *a: _matmul(*a, weigh=lambda part, s, t: part * t),
            "the scales of the inputs are missing.",
            2,
        ),
        WrongAnswer(
            "divided by scales",
            lambda *a: _matmul(*a, weigh=lambda part, s, t: part / s / t),
            "parts are divided by their scales. A code times its scale is the number.",
            2,
        ),
        WrongAnswer(
            "repeat instead of repeat_interleave",
            lambda q, s, w, t, T, dot: _matmul(
                q, s, w, t, T, dot, spread=lambda t_I: t_I.repeat(T)
            ),
            "block scales are spread with `repeat`, so neighbours get different ones. "
            "T neighbouring outputs share a block: `repeat_interleave`.",
            3,
        ),
        WrongAnswer(
            "last slice only",
            _last_only,
            "only the last slice of K is returned: add the parts up.",
            1,
        ),
    ),
    hints=(
        "Loop over j, the slices of K: `q_MK[:, j*T : (j+1)*T]` and the same columns "
        "of `w_NK` go into `dot`, and what comes back is added to y_MN.",
        "Before it is added, each part is multiplied by the scale of its row and "
        "tile, `s_MJ[:, j, None]`, and by that of the weights' block.",
        "`t_IJ[:, j]` has one scale for each block of T outputs; "
        "`.repeat_interleave(T)` gives one for each output.",
    ),
    otherwise={"random codes": ("a scale is taken from the wrong tile.", 3)},
)
