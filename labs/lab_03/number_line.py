"""One number on its way into 8 bits: bits, neighbours, the whole range."""

from __future__ import annotations

import bisect
import math
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from kernels.float8 import FORMATS, Float8, decode, encode
from labs.lab_03.number_line_picture import (
    FIELDS,
    HIGH,
    LOW,
    name_of,
    picture,
)
from labsupport.explore import Explorer, View, choose, slide

MANTISSAS = (1.0, 1.2, 1.375, 1.5625)
"""Of the slider's values in every octave. 1.375 is halfway between two values
of E5M2, 1.5625 between two of E4M3, 1.2 on no value of either."""
_SIZES = tuple(
    m * 2.0**exponent for exponent in range(LOW, HIGH + 1) for m in MANTISSAS
)
VALUES = (
    -math.inf,
    *(-size for size in reversed(_SIZES)),
    0.0,
    *_SIZES,
    math.inf,
    math.nan,
)
NAMED = {name_of(value): value for value in VALUES}
"""The slider moves over names: it finds its place by ==, which NaN is not."""


def number_line_explorer() -> Explorer:
    """A value and where it goes in E4M3 or E5M2."""
    return Explorer(
        draw,
        number=choose("format", list(FORMATS)),
        value=slide("value", list(NAMED), "1.5625"),
    )


@dataclass(frozen=True)
class Cast:
    """What became of a value.

    Attributes:
        kind: "nan", "saturated", "exact" or "rounded".
        code: the byte.
        value: what the byte stands for.
        below, above: if rounded, the format's numbers on either side.
        tie: whether both are equally near.
    """

    kind: str
    code: int
    value: float
    below: float = math.nan
    above: float = math.nan
    tie: bool = False

    @property
    def flushed(self) -> bool:
        """Whether it was rounded to zero."""
        return self.kind == "rounded" and self.value == 0


@cache
def finite_values(number: str) -> tuple[float, ...]:
    """All finite numbers of a format, in order; 0 once."""
    codes = torch.arange(256, dtype=torch.uint8)
    found = decode(codes, FORMATS[number]).tolist()
    return tuple(sorted({v + 0.0 for v in found if math.isfinite(v)}))


def cast_value(number: str, value: float) -> Cast:
    """One value in a format, and why it became what it became."""
    fmt = FORMATS[number]
    code = int(encode(torch.tensor([value]), fmt))
    got = float(decode(torch.tensor([code], dtype=torch.uint8), fmt))
    if math.isnan(value):
        return Cast("nan", code, got)
    if abs(value) > fmt.largest:
        return Cast("saturated", code, got)
    values = finite_values(number)
    at = bisect.bisect_left(values, value)
    if values[at] == value:
        return Cast("exact", code, got)
    below, above = values[at - 1], values[at]
    tie = value - below == above - value
    return Cast("rounded", code, got, below, above, tie)


def neighbours(number: str, value: float, result: Cast) -> dict[float, int]:
    """The format's numbers around a value, with their bytes; of NaN none."""
    if result.kind == "nan":
        return {}
    values = finite_values(number)
    at = min(bisect.bisect_left(values, value), len(values) - 1)
    # A value between two numbers has two on either side, as `at` is above it.
    reach = range(at - 2, at + (2 if result.kind == "rounded" else 3))
    near = [values[i] for i in reach if 0 <= i < len(values)]
    # Zero has a sign: what is flushed keeps its own.
    near = [math.copysign(v, value) if v == 0 else v for v in near]
    codes = encode(torch.tensor(near), FORMATS[number]).tolist()
    return dict(zip(near, codes, strict=True))


def draw(number: str, value: str) -> View:
    """One value, by its name, its picture, and all about it in words."""
    return view_of(number, NAMED[value])


def view_of(number: str, value: float) -> View:
    """Any value."""
    fmt = FORMATS[number]
    result = cast_value(number, value)
    near = neighbours(number, value, result)
    figure = picture(
        title=f"{name_of(value)} in {number}: {_outcome(result)}",
        bits=list(zip(f"{result.code:08b}", _fields(fmt), strict=True)),
        meaning=_meaning(fmt, result),
        value=value,
        rounded=result.value,
        near={v: f"{name_of(v)}<br>0x{code:02X}" for v, code in near.items()},
        sizes=[v for v in finite_values(number) if v > 0],
        flushed=fmt.smallest / 2,
        format_name=number,
    )
    listed = near or {math.nan: result.code}
    table: dict[str, list[Any]] = {
        "value": [name_of(v) for v in listed],
        "bits": [spelt(fmt, code) for code in listed.values()],
        "byte": [f"0x{code:02X}" for code in listed.values()],
        "chosen": [
            "yes" if code == result.code else "" for code in listed.values()
        ],
    }
    return View(figure, _sentence(number, value, result), table)


def _fields(fmt: Float8) -> list[str]:
    """What each of the eight bits belongs to, from the left."""
    widths = (1, fmt.exponent_bits, fmt.mantissa_bits)
    return [
        field
        for field, width in zip(FIELDS, widths, strict=True)
        for _ in range(width)
    ]


def _meaning(fmt: Float8, result: Cast) -> str:
    """ "0x3C = + 2^(7 − 7) × (1 + 4/8) = 1.5", for the picture."""
    byte = f"0x{result.code:02X} = "
    if result.kind == "nan":
        return byte + "NaN"
    # ^(...) becomes a raised exponent.
    product = re.sub(
        r"\^\(([^)]*)\)", r"<sup>\1</sup>", formula(fmt, result.code)
    )
    return f"{byte}{product} = <b>{name_of(result.value)}</b>"


def spelt(fmt: Float8, code: int) -> str:
    """ "0 0111 010": sign, exponent, mantissa."""
    bits = f"{code:08b}"
    return (
        f"{bits[0]} {bits[1 : 1 + fmt.exponent_bits]} "
        + (bits[1 + fmt.exponent_bits :])
    )


def formula(fmt: Float8, code: int) -> str:
    """What the bits say, as a product; codes of NaN have none."""
    p = fmt.mantissa_bits
    E = (code >> p) & ((1 << fmt.exponent_bits) - 1)
    m = code & ((1 << p) - 1)
    sign = "−" if code & 0x80 else "+"
    if E == 0:
        return f"{sign} 2^(1 − {fmt.bias}) × {m}/{2**p}"
    return f"{sign} 2^({E} − {fmt.bias}) × (1 + {m}/{2**p})"


def _outcome(result: Cast) -> str:
    got = name_of(result.value)
    if result.flushed:
        return "flushed to zero"
    return {
        "nan": "NaN",
        "saturated": f"saturates to {got}",
        "exact": "exact",
        "rounded": f"{'a tie, ' * result.tie}to {got}",
    }[result.kind]


def _sentence(number: str, value: float, result: Cast) -> str:
    fmt = FORMATS[number]
    got = name_of(result.value)
    between = (
        f"{name_of(result.below)} and {name_of(result.above)} of {number}"
    )
    if result.kind == "nan":
        start = f"NaN stays NaN in {number}"
    elif result.kind == "saturated":
        start = (
            f"{name_of(value)} lies beyond the ends of {number}, "
            f"±{fmt.largest:g}, and saturates to {got}"
        )
    elif result.kind == "exact":
        start = f"{name_of(value)} is a number of {number}"
    elif result.tie:
        start = (
            f"{name_of(value)} lies halfway between {between}; the tie goes "
            f"to {got}, whose last bit is 0"
        )
    else:
        start = f"{name_of(value)} lies between {between}, nearer to {got}"
    if result.flushed:
        start += ": it is flushed to zero"
    end = f"byte {spelt(fmt, result.code)} = 0x{result.code:02X}"
    if result.kind != "nan":
        kind = _kind_of_code(fmt, result.code)
        end += f", {kind}, {formula(fmt, result.code)} = {got}"
    return f"{start}; {end}{_relative(value, result)}."


def _kind_of_code(fmt: Float8, code: int) -> str:
    size = code & 0x7F
    if size == 0:
        return "zero"
    return "normal" if size >> fmt.mantissa_bits else "subnormal"


def _relative(value: float, result: Cast) -> str:
    if not math.isfinite(value) or value == 0:
        return ""
    share = abs(result.value - value) / abs(value)
    return f"; relative error {share:.3g}" if share else "; no error"
