"""What the tests of the quantisers share: their inputs, and how bits are compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType

import torch
from torch import Tensor

from kernels.float8 import E4M3, E5M2, Float8, decode
from kernels.fp8_cast import COMPILED
from kernels.operation import KERNEL_DTYPES
from tests.kernels.cases import Case
from tests.kernels.guarded_memory import LAYOUTS
from tests.kernels.harness import BadCall
from tests.kernels.harness_mixed import MixedOperation

RECIPES = [(fmt, power) for fmt in (E4M3, E5M2) for power in (False, True)]
"""Every format with every kind of scale."""

FP32, FP16, BF16 = KERNEL_DTYPES

CASES = [
    *(Case((35, 130), dtype) for dtype in KERNEL_DTYPES),
    *(Case(s, BF16) for s in [(1, 300), (130, 1), (1, 1), (64, 256), (0, 5), (5, 0)]),
    # Numbers of every size: subnormal ones in each dtype, and near the largest.
    Case((5, 130), FP32, scale=1e-39),
    Case((5, 130), BF16, scale=1e-39),
    Case((5, 130), FP16, scale=1e-6),
    Case((5, 130), FP32, scale=1e36),
    *(
        Case((5, 131), FP16 if name == "misaligned" else BF16, layout=name)
        for name in LAYOUTS
        if name != "contiguous"
    ),
]
"""Odd sizes and exact tiles, one row and one column, none, dtypes, sizes, layouts."""


def numbers(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Rows of sizes from 1/8 to 8, the second one all 0 (the first may be repeated).

    A row is not centred, so that its largest number may be a negative one.
    """
    M, K = shape
    size_M1 = 2.0 ** torch.randint(-3, 4, (M, 1), generator=generator)
    x_MK = torch.randn(M, K, generator=generator) - 0.5
    x_MK[1:2] = 0
    return (x_MK * size_M1).double()


def quantiser(
    module: ModuleType,
    function: Callable[..., tuple[Tensor, ...]],
    reference: Callable[[Tensor], tuple[Tensor, ...]],
    bad_calls: Sequence[BadCall],
) -> MixedOperation:
    """A quantiser of one matrix, its outputs as bits.

    Args:
        function: (x, interpret) -> codes and scales.
        reference: x -> the same.
    """
    return MixedOperation(
        module=module,
        function=lambda x, interpret: bits(*function(x, interpret)),
        reference=lambda x: bits(*reference(x)),
        inputs=lambda shape, generator: [numbers(shape, generator)],
        value_cases=CASES,
        gradient_cases=(),
        small=(3, 5),
        fixed=[0],
        bad_calls=bad_calls,
    )


def special(fmt: Float8) -> Tensor:
    """A matrix of rows of two tiles, each with what is easily got wrong, (12, 256).

    Its first tile holds numbers; the second the same the other way round, but in the
    row that has NaN or an infinity, so that one tile of that row is sound.
    """
    codes = torch.arange(fmt.nan, dtype=torch.uint8)
    value = decode(codes, fmt)
    value = value[value.isfinite()]
    middle = (value[1:] + value[:-1]) / 2
    row = torch.linspace(-1, 1, 128)
    largest = torch.tensor([fmt.largest])

    def tile(x: Tensor) -> Tensor:
        """The last 127 of x after the largest number, so that the scale is 1."""
        return torch.cat([largest, x.new_zeros(127 - len(x[-127:])), x[-127:]])

    rows = [
        torch.zeros(128),
        -torch.zeros(128),
        row * 1e-40,
        row * 2.0**-117,  # whose scale is just about the smallest
        tile(value),
        tile(middle),
        tile(torch.nextafter(middle, middle.new_tensor(torch.inf))),
        tile(-middle),
        row * 1e6,
        row * 3e38,
    ]
    twice = [torch.cat([each, each.flip(0)]) for each in rows]
    for wrong in (torch.nan, -torch.inf):
        sick = torch.cat([row, row])
        sick[5] = wrong
        twice.append(sick)
    return torch.stack(twice)


def bits(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Codes as bytes, scales as the integers of their bits: compared exactly."""
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32}
    return tuple(x.view(integers[x.itemsize]) for x in tensors)


def assert_same_bits(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
    """Equal in every bit; one NaN is as good as another."""
    for i, (y, right) in enumerate(zip(found, wanted, strict=True)):
        assert y.dtype == right.dtype and y.shape == right.shape, f"output {i}"
        y, right = y.cpu(), right.cpu()
        nan = right.float().isnan()
        assert torch.equal(y.float().isnan(), nan), f"output {i} has other NaN"
        wrong = (bits(y)[0] != bits(right)[0]) & ~nan
        assert not wrong.any(), (
            f"output {i} is wrong in {int(wrong.sum())} of {wrong.numel()} elements"
        )


def recipes_of(dtype: torch.dtype) -> list[tuple[Float8, bool]]:
    """Those in which the compile check covers inputs of this dtype."""
    return [(fmt, power) for each, fmt, power in COMPILED if each == dtype]
