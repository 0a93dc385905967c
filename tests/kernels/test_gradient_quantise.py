"""Codes, scales and residuals of gradients, bit for bit."""

from dataclasses import replace

import pytest
import torch

from kernels import gradient_quantise as module
from kernels.fp8_scaling import SMALLEST_SCALE
from kernels.gradient_quantise import (
    GROUP,
    gradient_quantise,
    gradient_quantise_cost,
    gradient_quantise_reference,
)
from kernels.operation import Cost
from tests.kernels.cases import Case
from tests.kernels.fp8_cases import assert_same_bits, bits
from tests.kernels.gradient_cases import FP32, on_a_copy
from tests.kernels.harness import (
    DEVICE,
    INTERPRET,
    BadCall,
    check_bad_calls,
    needs_a_kernel,
)
from tests.kernels.harness_mixed import MixedOperation, check_specs, check_values


def refused(call, sentence):
    return BadCall(call, f"gradient_quantise: {sentence}")


U = torch.ones(2, 3)
BAD_CALLS = [
    refused(lambda: gradient_quantise(None), "u must be a torch.Tensor; got NoneType."),
    refused(lambda: gradient_quantise(U.double()), "u must be float32; got float64."),
    refused(
        lambda: gradient_quantise(U[:, ::2]),
        "u must be contiguous, as it is changed in place; got shape (2, 2) with "
        "strides (3, 2).",
    ),
]


def integers(q, scale, residual):
    """Codes, and scales and residuals as the integers of their bits.

    1000 more, so that no code is the -2 of an integer that was never written.
    """
    return q.int() + 1000, *bits(scale, residual)


def quantise(module=module):
    """The operation; the state is its only input."""
    function = on_a_copy(module.gradient_quantise, at=0)

    def inputs(shape, generator):
        """Neighbours of sizes 1/8 to 8, not centred, the second group all 0."""
        u = torch.randn(shape, generator=generator).flatten() - 0.5
        u *= 2.0 ** torch.randint(-3, 4, u.shape, generator=generator)
        u[GROUP : 2 * GROUP] = 0
        return [u.view(shape).double()]

    return MixedOperation(
        module=module,
        function=lambda u, interpret: integers(*function(u, interpret=interpret)),
        reference=lambda u: integers(*gradient_quantise_reference(u)),
        inputs=inputs,
        value_cases=(),
        gradient_cases=(),
        small=(3, 5),
        fixed=[0],
        bad_calls=BAD_CALLS,
        dtypes=[FP32],
        benchmark_shape=lambda shape: (2000,),
    )


SIZES = [(1,), (5,), (GROUP,), (GROUP + 1,), (4 * GROUP,), (7, 11, 41), (0,), (2, 0)]


@needs_a_kernel
@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_values(shape):
    check_values(quantise(), Case(shape, FP32))


@needs_a_kernel
@pytest.mark.parametrize("scale", [1e36, 1e-20, 1e-36, 1e-39])
def test_every_size_of_numbers(scale):
    """The last two have the smallest scale, and the last is subnormal."""
    check_values(quantise(), Case((1500,), FP32, scale=scale))


def special():
    """A group a row: ties, zeros, subnormal and largest numbers, NaN, infinity."""
    codes = torch.linspace(-127, 127, GROUP)
    rows = [
        torch.arange(GROUP) - 127.5,  # of 127.5, just above the largest code
        torch.cat([torch.tensor([127.0]), torch.arange(GROUP - 1) / 2 - 63]),  # ties
        -torch.zeros(GROUP),
        codes * 1e-41,
        codes * 2.0**-126,
        codes * 2.6e36,  # up to 3.3e38, where products could overflow
        *(codes.where(torch.arange(GROUP) != 5, x) for x in (torch.nan, -torch.inf)),
    ]
    return torch.stack(rows).to(DEVICE)


@needs_a_kernel
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("interpret", [INTERPRET, None], ids=["kernel", "default"])
def test_what_is_easily_got_wrong(interpret):
    u = special()
    wanted = gradient_quantise_reference(u)
    q, scale = gradient_quantise(u, interpret)
    assert torch.equal(q, wanted[0])
    assert_same_bits([scale, u], wanted[1:])
    assert scale[2:5].tolist() == [SMALLEST_SCALE] * 3
    assert scale[-2:].tolist() == [torch.inf] * 2
    assert not q[-2:].any() and u[-2:].isnan().all() and u[:-2].isfinite().all()
    assert (q[-2:] * scale[-2:, None]).isnan().all()


@needs_a_kernel
@pytest.mark.parametrize("interpret", [INTERPRET, None], ids=["kernel", "default"])
def test_by_hand(interpret):
    """A scale of 2; a tie goes to the even code; the second group is all 0."""
    u = torch.zeros(GROUP + 3, device=DEVICE)
    u[:6] = torch.tensor([-254.0, 3, 5, 7.5, 0.5, 253])
    q, scale = gradient_quantise(u, interpret)
    assert q[:6].tolist() == [-127, 2, 2, 4, 0, 126] and not q[6:].any()
    assert q.dtype == torch.int8 and scale.dtype == torch.float32
    assert scale.tolist() == [2, SMALLEST_SCALE]
    assert u[:6].tolist() == [0, -1, 1, -0.5, 0.5, 1] and not u[6:].any()


@needs_a_kernel
@pytest.mark.parametrize("interpret", [INTERPRET, None], ids=["kernel", "default"])
def test_nothing_is_lost(interpret):
    """What is sent and what stays add up to u: the conservation law, in float64."""
    u = torch.randn(4000, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    before = u.double()
    q, scale = gradient_quantise(u, interpret)
    each = scale.repeat_interleave(GROUP)[:4000].double()
    assert (u.abs() <= 0.50001 * each).all() and u.abs().max() > 0.4 * each.max()
    assert (each * q + u.double() - before).abs().max() <= 2.0**-24 * each.max()


@needs_a_kernel
@pytest.mark.parametrize("interpret", [INTERPRET, None], ids=["kernel", "default"])
def test_nothing_has_a_gradient(interpret):
    u = torch.ones(5, device=DEVICE, requires_grad=True)
    assert not any(x.requires_grad for x in gradient_quantise(u, interpret))


def test_bad_input():
    check_bad_calls(quantise())


@needs_a_kernel
def test_specs_are_what_is_launched(monkeypatch):
    launches = replace(
        quantise(), function=lambda u, interpret: gradient_quantise(u, interpret)
    )
    check_specs(launches, monkeypatch)


def test_the_cost_by_hand():
    """257 numbers read; 257 codes, 2 scales and 257 residuals written."""
    assert gradient_quantise_cost(257) == Cost(4 * 257 + 257 + 8 + 4 * 257, 6 * 257)
