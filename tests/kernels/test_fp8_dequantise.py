"""Numbers of codes and scales: the reference's bits, whichever the tile."""

import pytest
import torch

from kernels import fp8_dequantise as module
from kernels.float8 import E4M3, E5M2
from kernels.fp8_dequantise import (
    TILES,
    fp8_dequantise,
    fp8_dequantise_cost,
    fp8_dequantise_reference,
)
from kernels.fp8_scaling import quantise_reference, scale_shape
from kernels.operation import KERNEL_DTYPES, Cost
from tests.kernels.cases import Case
from tests.kernels.fp8_cases import assert_same_bits, bits, numbers
from tests.kernels.guarded_memory import LAYOUTS
from tests.kernels.harness import (
    DEVICE,
    INTERPRET,
    BadCall,
    check_bad_calls,
    needs_a_kernel,
)
from tests.kernels.harness_mixed import MixedOperation, check_specs, check_values

Q, SCALE = quantise_reference(torch.ones(2, 130))


def refused(call, sentence):
    return BadCall(call, f"fp8_dequantise: {sentence}")


BAD_CALLS = [
    refused(
        lambda: fp8_dequantise(Q, SCALE, (128, 1)),
        "tile must be (1, 128) or (128, 128); got (128, 1).",
    ),
    refused(
        lambda: fp8_dequantise(Q, SCALE, dtype=torch.float64),
        "dtype must be torch.float32, torch.float16 or torch.bfloat16; got "
        "torch.float64.",
    ),
    refused(
        lambda: fp8_dequantise(Q.float(), SCALE),
        "q must be float8_e4m3fn or float8_e5m2; got float32.",
    ),
    refused(
        lambda: fp8_dequantise(Q[0], SCALE),
        "q must have two axes, rows and columns; got shape (130,).",
    ),
    refused(
        lambda: fp8_dequantise(Q, SCALE, (128, 128)),
        "scale must have shape (1, 2) for codes of shape (2, 130) in tiles of 128 x "
        "128; got (2, 2).",
    ),
    refused(
        lambda: fp8_dequantise(Q, SCALE.half()), "scale must be float32; got float16."
    ),
]


def dequantise(tile=(1, 128), fmt=E4M3, dtype=torch.float32, module=module):
    """Of codes as bytes, to the bits of the numbers."""

    def inputs(shape, generator):
        q, scale = quantise_reference(numbers(shape, generator), tile, fmt)
        return [q.view(torch.uint8), scale.double()]

    return MixedOperation(
        module=module,
        function=lambda code, scale, interpret: bits(
            module.fp8_dequantise(code.view(fmt.dtype), scale, tile, dtype, interpret)
        ),
        reference=lambda code, scale: bits(
            fp8_dequantise_reference(code.view(fmt.dtype), scale.float(), tile, dtype)
        ),
        inputs=inputs,
        value_cases=(),
        gradient_cases=(),
        small=(3, 5),
        coefficients=[1],
        fixed=[1],
        bad_calls=BAD_CALLS,
        benchmark_shape=lambda shape: (2, shape[1]),
    )


@needs_a_kernel
@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("shape", [(131, 130), (1, 300), (130, 1), (64, 256), (0, 5)])
def test_values(tile, shape):
    check_values(dequantise(tile), Case(shape, torch.float32))


@needs_a_kernel
@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "contiguous"])
def test_codes_and_scales_that_lie_otherwise(tile, layout):
    check_values(dequantise(tile), Case((5, 260), torch.float32, layout=layout))


@needs_a_kernel
@pytest.mark.parametrize("fmt", [E4M3, E5M2], ids=["E4M3", "E5M2"])
@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
def test_every_format_to_every_dtype(fmt, dtype):
    check_values(dequantise((1, 128), fmt, dtype), Case((5, 130), torch.float32))


@needs_a_kernel
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("fmt", [E4M3, E5M2], ids=["E4M3", "E5M2"])
def test_every_code_and_an_infinite_scale(fmt):
    q = torch.arange(256, dtype=torch.uint8, device=DEVICE).view(2, 128)
    q, scale = q.view(fmt.dtype), torch.ones(2, 1, device=DEVICE)
    found = fp8_dequantise(q, scale, interpret=INTERPRET)
    assert_same_bits([found], [fp8_dequantise_reference(q, scale)])
    zeros = torch.zeros_like(q.view(torch.uint8)).view(fmt.dtype)
    found = fp8_dequantise(zeros, scale * torch.inf, interpret=INTERPRET)
    assert found.isnan().all()


def test_bad_input():
    check_bad_calls(dequantise())


@needs_a_kernel
def test_specs_are_what_is_launched(monkeypatch):
    launches = MixedOperation(**{**vars(dequantise()), "function": every_compiled})
    check_specs(launches, monkeypatch)


def every_compiled(code, scale, interpret):
    outs = [(E4M3, dtype) for dtype in KERNEL_DTYPES] + [(E5M2, torch.bfloat16)]
    for tile in TILES:
        scale = torch.ones(scale_shape(code.shape, tile), device=code.device)
        for fmt, dtype in outs:
            q = code.view(fmt.dtype)
            found = fp8_dequantise(q, scale, tile, dtype, interpret)
    return bits(found)


def test_the_cost_by_hand():
    """2 x 130 to bfloat16: in tiles 4 scales, in blocks 2."""
    assert fp8_dequantise_cost(2, 130, torch.bfloat16) == Cost(260 * 3 + 16, 260)
    cost = fp8_dequantise_cost(2, 130, torch.bfloat16, (128, 128))
    assert cost == Cost(260 * 3 + 8, 260)
