"""The quantiser of activations gives the reference's bits."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from kernels import fp8_tiles as module
from kernels.float8 import E4M3
from kernels.fp8_operands import check_gpu_has_fp8
from kernels.fp8_tiles import fp8_tiles, fp8_tiles_cost, fp8_tiles_reference
from kernels.operation import KERNEL_DTYPES, Cost, KernelInputError
from tests.kernels.cases import Case
from tests.kernels.fp8_cases import (
    CASES,
    RECIPES,
    assert_same_bits,
    bits,
    quantiser,
    recipes_of,
    special,
)
from tests.kernels.harness import (
    DEVICE,
    INTERPRET,
    BadCall,
    check_bad_calls,
    needs_a_kernel,
)
from tests.kernels.harness_mixed import check_specs, check_values


def refused(call, sentence):
    return BadCall(call, f"fp8_tiles: {sentence}")


X = torch.ones(2, 3)
BAD_CALLS = [
    refused(lambda: fp8_tiles([1.0]), "x must be a torch.Tensor; got list."),
    refused(
        lambda: fp8_tiles(X.double()),
        "x must be float32, float16 or bfloat16; got float64 (fp8_tiles_reference "
        "takes float64 too).",
    ),
    refused(
        lambda: fp8_tiles(X[0]),
        "x must have two axes, rows and columns; got shape (3,).",
    ),
    refused(lambda: fp8_tiles(X, "E4M3"), "fmt must be E4M3 or E5M2; got 'E4M3'."),
]


def tiles(fmt=E4M3, power_of_two=False, module=module):
    """The operation, its outputs as bits."""
    return quantiser(
        module,
        lambda x, interpret: module.fp8_tiles(x, fmt, power_of_two, interpret),
        lambda x: fp8_tiles_reference(x, fmt, power_of_two),
        BAD_CALLS,
    )


@needs_a_kernel
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values(case):
    check_values(tiles(), case)


@needs_a_kernel
@pytest.mark.parametrize("fmt, power_of_two", RECIPES)
def test_every_recipe(fmt, power_of_two):
    check_values(tiles(fmt, power_of_two), Case((34, 300), KERNEL_DTYPES[2]))


@needs_a_kernel
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("fmt, power_of_two", RECIPES)
def test_what_is_easily_got_wrong(fmt, power_of_two):
    """Zeros, subnormal numbers, ties, numbers beyond the largest, NaN, infinity."""
    x = special(fmt).to(DEVICE)
    found = fp8_tiles(x, fmt, power_of_two, INTERPRET)
    assert_same_bits(found, fp8_tiles_reference(x, fmt, power_of_two))
    q, scale = found
    assert (scale[-2:, 0] == torch.inf).all() and scale[-2:, 1].isfinite().all()
    assert (q[-2:].float() * scale[-2:].repeat_interleave(128, 1)).isnan().tolist() == [
        [True] * 128 + [False] * 128
    ] * 2


@needs_a_kernel
def test_scales_lie_transposed():
    x = torch.ones(5, 300, device=DEVICE)
    _, scale = fp8_tiles(x, interpret=INTERPRET)
    assert scale.shape == (5, 3) and scale.T.is_contiguous()


@needs_a_kernel
@pytest.mark.parametrize("interpret", [INTERPRET, None], ids=["kernel", "default"])
def test_codes_have_no_gradient(interpret):
    x = torch.ones(2, 3, device=DEVICE, requires_grad=True)
    assert not any(y.requires_grad for y in fp8_tiles(x, interpret=interpret))


def test_bad_input():
    check_bad_calls(tiles())


def test_a_gpu_without_fp8_is_refused(monkeypatch):
    x = SimpleNamespace(is_cuda=True, device="cuda:0")
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    check_gpu_has_fp8("fp8_tiles", x)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    with pytest.raises(KernelInputError) as refused:
        check_gpu_has_fp8("fp8_tiles", x)
    assert str(refused.value) == (
        "fp8_tiles: A100 (compute capability 8.0) has no FP8 units, which 8.9 and "
        "newer have; fp8_tiles_reference works on any device."
    )


@needs_a_kernel
def test_specs_are_what_is_launched(monkeypatch):
    operation = tiles()
    launches = replace(operation, function=every_compiled, benchmark_shape=two_rows)
    check_specs(launches, monkeypatch)


def every_compiled(x, interpret):
    return bits(
        *(y for recipe in recipes_of(x.dtype) for y in fp8_tiles(x, *recipe, interpret))
    )


def two_rows(shape):
    return 2, shape[1]


def test_the_cost_by_hand():
    """2 x 130 in bfloat16: 260 numbers read and as many codes written, 4 scales."""
    assert fp8_tiles_cost(2, 130, torch.bfloat16) == Cost(260 * 3 + 4 * 4, 780)
