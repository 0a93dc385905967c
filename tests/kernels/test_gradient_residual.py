"""out = p r^T, and what is left of u."""

from dataclasses import replace

import pytest
import torch

from kernels import gradient_residual as module
from kernels.gradient_residual import (
    BENCHMARK_SHAPES,
    gradient_residual,
    gradient_residual_cost,
    gradient_residual_reference,
)
from kernels.operation import KERNEL_DTYPES, Cost
from tests.kernels.cases import Case
from tests.kernels.gradient_cases import BF16, FACTOR_SIZES, FP16, FP32, on_a_copy
from tests.kernels.guarded_memory import LAYOUTS
from tests.kernels.harness import (
    DEVICE,
    INTERPRET,
    BadCall,
    check_bad_calls,
    needs_a_kernel,
)
from tests.kernels.harness_mixed import MixedOperation, check_specs, check_values


def refused(call, sentence):
    return BadCall(call, f"gradient_residual: {sentence}")


U, P, R = torch.ones(2, 3), torch.ones(2, 2), torch.ones(3, 2)
BAD_CALLS = [
    refused(
        lambda: gradient_residual(U.half(), P, R), "u must be float32; got float16."
    ),
    refused(
        lambda: gradient_residual(U[None], P, R),
        "u must have two axes, M rows and N columns; got shape (1, 2, 3).",
    ),
    refused(
        lambda: gradient_residual(U, R, R),
        "p must have shape (M, R) = (2, R) with R 1 to 16 for u of shape (2, 3); got "
        "(3, 2).",
    ),
    refused(
        lambda: gradient_residual(U, P, torch.ones(3, 0)),
        "r must have shape (N, R) = (3, R) with R 1 to 16 for u of shape (2, 3); got "
        "(3, 0).",
    ),
    refused(
        lambda: gradient_residual(U, P, torch.ones(3, 17)),
        "r must have shape (N, R) = (3, R) with R 1 to 16 for u of shape (2, 3); got "
        "(3, 17).",
    ),
    refused(
        lambda: gradient_residual(U, P, R[:, :1]),
        "p and r must have the same number of columns; got 2 and 1.",
    ),
    refused(
        lambda: gradient_residual(U, P.double(), R), "p must be float32; got float64."
    ),
    refused(
        lambda: gradient_residual(U, P, R, torch.ones(3, 2)),
        "out must have u's shape, (2, 3); got (3, 2).",
    ),
    refused(
        lambda: gradient_residual(U, P, R, U.double()),
        "out must be float32, float16 or bfloat16; got float64.",
    ),
    refused(
        lambda: gradient_residual(U, P, R, R.clone().view(2, 3).T.contiguous().T),
        "out must be contiguous; got shape (2, 3) with strides (1, 2).",
    ),
    refused(
        lambda: gradient_residual(U, P, R, U),
        "out must not be u, which keeps what is left of it.",
    ),
]


def residual(dtype=FP32, module=module):
    """The operation; the state is its first input.

    What is left is compared with the reference's in float32 only: a half may be
    rounded the other way, and what is left then differs as much.
    """

    def into(u, p, r, interpret):
        out = torch.empty(u.shape, dtype=dtype, device=u.device)
        return module.gradient_residual(u, p, r, out, interpret)

    def function(u, p, r, interpret):
        found = on_a_copy(into, at=0)(u, p, r, interpret=interpret)
        return found if dtype == FP32 else found[0]

    def reference(u, p, r):
        # In float64 nothing is rounded: the harness does.
        wanted = torch.float64 if u.dtype == torch.float64 else dtype
        found = gradient_residual_reference(u, p, r, wanted)
        return found if dtype == FP32 else found[0]

    def inputs(shape, generator):
        M, N, R = shape
        sizes = (M, N), (M, R), (N, R)
        return [torch.randn(size, generator=generator).double() for size in sizes]

    return MixedOperation(
        module=module,
        function=function,
        reference=reference,
        inputs=inputs,
        value_cases=(),
        gradient_cases=(),
        small=(3, 5, 2),
        fixed=[0, 1, 2],
        bad_calls=BAD_CALLS,
        dtypes=[FP32],
        cancelled=5e-6,  # of up to 16 products of two normal numbers
    )


@needs_a_kernel
@pytest.mark.parametrize("shape", FACTOR_SIZES, ids=str)
def test_values(shape):
    check_values(residual(), Case(shape, FP32))


@needs_a_kernel
@pytest.mark.parametrize("dtype", [FP16, BF16])
def test_gradients_in_half_precision(dtype):
    check_values(residual(dtype), Case((19, 150, 4), FP32))


@needs_a_kernel
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "contiguous"])
def test_factors_that_lie_otherwise(layout):
    check_values(residual(), Case((19, 150, 4), FP32, layout=layout))


@needs_a_kernel
@pytest.mark.parametrize("interpret", [INTERPRET, None], ids=["kernel", "default"])
@pytest.mark.parametrize("given", [True, False], ids=["out", "new"])
def test_by_hand(given, interpret):
    u = torch.tensor([[1.0, 2, 3], [4, 5, 6]], device=DEVICE)
    p = torch.tensor([[1.0, 0.5], [2, 0]], device=DEVICE)
    r = torch.tensor([[1.0, 2], [0, -2], [3, 0]], device=DEVICE)
    out = torch.empty_like(u) if given else None
    found = gradient_residual(u, p, r, out, interpret)
    assert not given or found.data_ptr() == out.data_ptr()
    assert found.tolist() == [[2, -1, 3], [2, 0, 6]]
    assert found.dtype == torch.float32
    assert u.tolist() == [[-1, 3, 0], [2, 5, 0]]


@needs_a_kernel
@pytest.mark.parametrize("interpret", [INTERPRET, None], ids=["kernel", "default"])
@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
def test_nothing_is_lost(dtype, interpret):
    """out and what is left add up to u, whatever out was rounded to."""
    generator = torch.Generator().manual_seed(0)
    u, p, r = (
        torch.randn(size, generator=generator).to(DEVICE)
        for size in ((20, 140), (20, 4), (140, 4))
    )
    before, out = u.double(), torch.empty(20, 140, dtype=dtype, device=DEVICE)
    gradient_residual(u, p, r, out, interpret)
    error = (out.double() + u.double() - before).abs()
    assert (error <= 2.0**-24 * u.abs()).all(), "the difference is rounded once"
    assert u.abs().max() > 1


@needs_a_kernel
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("interpret", [INTERPRET, None], ids=["kernel", "default"])
def test_a_nan_shows(interpret):
    u, p, r = (torch.ones(s, device=DEVICE) for s in ((20, 140), (20, 4), (140, 4)))
    p[3, 2], u[5, 6] = torch.nan, torch.nan
    out = gradient_residual(u, p, r, interpret=interpret)
    assert out.isnan().all(1).nonzero().tolist() == [[3]] and out.isnan().sum() == 140
    assert u[5, 6].isnan() and u.isnan().sum() == 141


@needs_a_kernel
@pytest.mark.parametrize("interpret", [INTERPRET, None], ids=["kernel", "default"])
def test_nothing_has_a_gradient(interpret):
    p, r = (torch.ones(3, 3, device=DEVICE, requires_grad=True) for _ in range(2))
    out = gradient_residual(torch.ones(3, 3, device=DEVICE), p, r, interpret=interpret)
    assert not out.requires_grad


def test_bad_input():
    check_bad_calls(residual())


@needs_a_kernel
def test_specs_are_what_is_launched(monkeypatch):
    assert {R for *_, R in BENCHMARK_SHAPES} == {4, 16}

    def every_dtype(u, p, r, interpret):
        for dtype in KERNEL_DTYPES:
            out = torch.empty_like(u, dtype=dtype)
            gradient_residual(u, p, r, out, interpret)
        return out

    operation = replace(
        residual(),
        function=every_dtype,
        benchmark_shape=lambda shape: (2, 8, shape[2]),
    )
    check_specs(operation, monkeypatch)


def test_the_cost_by_hand():
    """2 x 3, R = 4: 6 numbers of 4 + 4 + 2 bytes, 2 x 4 and 3 x 4 of 4 bytes."""
    assert gradient_residual_cost(2, 3, 4, BF16) == Cost(60 + 32 + 48, 6 * 9)
