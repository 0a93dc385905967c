"""What reaches the threshold, in order, and what stays in u, bit for bit."""

from dataclasses import replace

import pytest
import torch

from kernels import gradient_select as module
from kernels.gradient_select import (
    gradient_select,
    gradient_select_cost,
    gradient_select_reference,
)
from kernels.operation import KERNEL_DTYPES, Cost
from tests.kernels.cases import Case
from tests.kernels.fp8_cases import assert_same_bits, bits
from tests.kernels.gradient_cases import BF16, FP16, FP32, on_a_copy
from tests.kernels.harness import (
    DEVICE,
    INTERPRET,
    BadCall,
    check_bad_calls,
    needs_a_kernel,
)
from tests.kernels.harness_mixed import MixedOperation, check_specs, check_values

TILE = 1024


def refused(call, sentence):
    return BadCall(call, f"gradient_select: {sentence}")


U = torch.ones(2, 3)
BAD_CALLS = [
    refused(
        lambda: gradient_select([1.0], 1, 1), "u must be a torch.Tensor; got list."
    ),
    refused(lambda: gradient_select(U.half(), 1, 1), "u must be float32; got float16."),
    refused(
        lambda: gradient_select(U.T, 1, 1),
        "u must be contiguous, as it is changed in place; got shape (3, 2) with "
        "strides (1, 3).",
    ),
    refused(
        lambda: gradient_select(U, -0.5, 1), "threshold must be 0 or more; got -0.5."
    ),
    refused(
        lambda: gradient_select(U, float("nan"), 1),
        "threshold must be 0 or more; got nan.",
    ),
    refused(
        lambda: gradient_select(U, 1, 0),
        "capacity must be a whole number from 1 to 2^31 - 1; got 0.",
    ),
    refused(
        lambda: gradient_select(U, 1, 2.5),
        "capacity must be a whole number from 1 to 2^31 - 1; got 2.5.",
    ),
    refused(
        lambda: gradient_select(U, 1, 1, torch.float64),
        "dtype must be torch.float32, torch.float16 or torch.bfloat16; got "
        "torch.float64.",
    ),
    refused(
        lambda: gradient_select(torch.empty(2**31, device="meta"), 1, 1),
        "u must have fewer than 2^31 elements, as indices are int32; got 2147483648.",
    ),
]


def select(threshold=1.0, capacity=5000, dtype=FP32, module=module):
    """The operation, its outputs as integers; the state is its only input."""
    function = on_a_copy(
        lambda u, interpret: module.gradient_select(
            u, threshold, capacity, dtype, interpret
        ),
        at=0,
    )
    return MixedOperation(
        module=module,
        function=lambda u, interpret: bits(*function(u, interpret=interpret)),
        reference=lambda u: bits(
            *gradient_select_reference(u.float(), threshold, capacity, dtype)
        ),
        inputs=lambda shape, generator: [
            torch.randn(shape, generator=generator).double()
        ],
        value_cases=(),
        gradient_cases=(),
        small=(3, 5),
        fixed=[0],
        bad_calls=BAD_CALLS,
        dtypes=[FP32],
        benchmark_shape=lambda shape: (2000,),
    )


SIZES = [(1,), (5,), (TILE,), (TILE + 1,), (3, 7, 111), (0,), (2, 0)]


@needs_a_kernel
@pytest.mark.parametrize("threshold", [0.0, 1.0, 10.0], ids=["all", "some", "none"])
@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_values(shape, threshold):
    check_values(select(threshold), Case(shape, FP32))


@needs_a_kernel
@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_every_dtype_of_values(dtype, scale):
    """float16 holds numbers of 1e-4 coarsely."""
    check_values(select(scale, dtype=dtype), Case((2500,), FP32, scale=scale))


@needs_a_kernel
@pytest.mark.parametrize("capacity", [1, 100, 330, 2500])
def test_what_finds_no_room_stays(capacity):
    """Of 2500 normal numbers about 790 are of size 1 or more, over three tiles."""
    check_values(select(capacity=capacity), Case((2500,), FP32))


@needs_a_kernel
@pytest.mark.parametrize("interpret", [INTERPRET, None], ids=["kernel", "default"])
def test_by_hand(interpret):
    """One in the first tile, two in the third, of which the last finds no room."""
    u = torch.full((3 * TILE,), 0.5, device=DEVICE)
    u[3], u[2 * TILE], u[2 * TILE + 9] = -2, 1 + 2.0**-9, 7
    index, value, count = gradient_select(u, 1.0, 2, BF16, interpret)
    assert index.tolist() == [3, 2 * TILE]
    assert value.tolist() == [-2, 1]  # bfloat16 has 8 bits: the last one is lost
    assert count.tolist() == 2
    assert (index.dtype, value.dtype, count.dtype) == (torch.int32, BF16, torch.int32)
    assert u[3] == 0 and u[2 * TILE] == 2.0**-9 and u[2 * TILE + 9] == 7
    assert (u == 0.5).sum() == 3 * TILE - 3
    index, value, count = gradient_select(u, 7.0, 3, FP32, interpret)
    assert (index.tolist(), value.tolist()) == ([2 * TILE + 9, 0, 0], [7, 0, 0])
    assert count.tolist() == 1 and u[2 * TILE + 9] == 0


@needs_a_kernel
@pytest.mark.parametrize("interpret", [INTERPRET, None], ids=["kernel", "default"])
@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
def test_nothing_is_lost(dtype, interpret):
    """Values and residual add up to what was there, exactly: the conservation law."""
    u = torch.randn(3000, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    before = u.clone()
    index, value, count = gradient_select(u, 0.8, 1000, dtype, interpret)
    assert 900 < count <= 1000
    assert not torch.equal(u, before)
    back = u.index_add(0, index, value.float())
    assert torch.equal(back, before)


@needs_a_kernel
@pytest.mark.parametrize("interpret", [INTERPRET, None], ids=["kernel", "default"])
def test_the_threshold_itself_is_reached(interpret):
    """Also where float32 has no such number: 0.1 is compared as float32 has it."""
    u = torch.tensor([0.1, -0.1, 0.0999], device=DEVICE)
    index, _, count = gradient_select(u, 0.1, 3, interpret=interpret)
    assert count.tolist() == 2 and index.tolist() == [0, 1, 0]


@needs_a_kernel
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("threshold", [1.0, float("inf")])
@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
def test_what_is_no_number_is_sent(dtype, threshold):
    u = torch.zeros(TILE + 5, device=DEVICE)
    u[7], u[TILE], u[TILE + 4] = torch.nan, torch.inf, -torch.inf
    wanted = gradient_select_reference(u, threshold, 9, dtype)
    found = (*gradient_select(u, threshold, 9, dtype, INTERPRET), u)
    assert_same_bits(found, wanted)
    index, value, count, left = found
    assert count == 3 and index[:3].tolist() == [7, TILE, TILE + 4]
    assert value[0].isnan() and value[1:3].tolist() == [torch.inf, -torch.inf]
    assert left.isnan().sum() == 3


@needs_a_kernel
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_number_beyond_the_range_of_float16_is_sent_as_an_infinity():
    u = torch.tensor([1e5, 1.0], device=DEVICE)
    wanted = gradient_select_reference(u, 1.0, 2, FP16)
    found = gradient_select(u, 1.0, 2, FP16, INTERPRET)
    assert_same_bits((*found, u), wanted)
    assert found[1].tolist() == [torch.inf, 1]


@needs_a_kernel
@pytest.mark.parametrize("interpret", [INTERPRET, None], ids=["kernel", "default"])
def test_nothing_has_a_gradient(interpret):
    u = torch.ones(5, device=DEVICE, requires_grad=True)
    found = gradient_select(u, 0.5, 5, interpret=interpret)
    assert not any(x.requires_grad for x in found)
    assert not u.any()


def test_bad_input():
    check_bad_calls(select())


@needs_a_kernel
def test_specs_are_what_is_launched(monkeypatch):
    def every_dtype(u, interpret):
        for dtype in KERNEL_DTYPES:
            found = gradient_select(u.clone(), 1.0, 5, dtype, interpret)
        return found

    check_specs(replace(select(), function=every_dtype), monkeypatch)


def test_the_cost_by_hand():
    """100 numbers read; of 3, index, value in 2 bytes, and residual are written."""
    assert gradient_select_cost(100, 3, BF16) == Cost(400 + 3 * 10, 203)
