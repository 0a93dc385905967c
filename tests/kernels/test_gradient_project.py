"""u = w g + e in place, and its product with a few directions."""

from dataclasses import replace

import pytest
import torch

from kernels import gradient_project as module
from kernels.gradient_project import (
    BENCHMARK_SHAPES,
    gradient_project,
    gradient_project_cost,
    gradient_project_reference,
)
from kernels.operation import KERNEL_DTYPES, Cost
from tests.kernels.cases import Case
from tests.kernels.gradient_cases import (
    BF16,
    FACTOR_SIZES,
    FP32,
    on_a_copy,
    strided,
)
from tests.kernels.harness import (
    DEVICE,
    INTERPRET,
    BadCall,
    check_bad_calls,
    needs_a_kernel,
)
from tests.kernels.harness_mixed import MixedOperation, check_specs, check_values


def refused(call, sentence):
    return BadCall(call, f"gradient_project: {sentence}")


E, Q = torch.ones(2, 3), torch.ones(3, 2)
BAD_CALLS = [
    refused(
        lambda: gradient_project(E[0], E[0], Q),
        "e must have two axes, M rows and N columns; got shape (3,).",
    ),
    refused(
        lambda: gradient_project(E.T, E.T, Q[:2]),
        "e must be contiguous, as it is changed in place; got shape (3, 2) with "
        "strides (1, 3).",
    ),
    refused(
        lambda: gradient_project(E, E.double(), Q), "e must be float32; got float64."
    ),
    refused(
        lambda: gradient_project(E.int(), E, Q),
        "g must be float32, float16 or bfloat16; got int32.",
    ),
    refused(
        lambda: gradient_project(E.T, E, Q),
        "g must have e's shape, (2, 3); got (3, 2).",
    ),
    refused(
        lambda: gradient_project(E, E, Q[:2]),
        "q must have shape (N, R) = (3, R) with R 1 to 16 for e of shape (2, 3); got "
        "(2, 2).",
    ),
    refused(
        lambda: gradient_project(E, E, torch.ones(3, 17)),
        "q must have shape (N, R) = (3, R) with R 1 to 16 for e of shape (2, 3); got "
        "(3, 17).",
    ),
    refused(
        lambda: gradient_project(E, E, Q[:, 0]),
        "q must have shape (N, R) = (3, R) with R 1 to 16 for e of shape (2, 3); got "
        "(3,).",
    ),
    refused(
        lambda: gradient_project(E, E, Q.bfloat16()),
        "q must be float32; got bfloat16.",
    ),
    refused(
        lambda: gradient_project(E, E, Q.to("meta")),
        "q must be on e's device, cpu; got meta.",
    ),
    refused(
        lambda: gradient_project(E, E, Q, float("inf")),
        "weight must be a finite number; got inf.",
    ),
]


def project(weight=0.75, module=module):
    """The operation; the state is its second input, and its first output."""

    def reference(g, e, q):
        u, p = gradient_project_reference(g, e, q, weight)
        return u, p, u

    def inputs(shape, generator):
        M, N, R = shape
        sizes = (M, N), (M, N), (N, R)
        return [torch.randn(size, generator=generator).double() for size in sizes]

    return MixedOperation(
        module=module,
        function=on_a_copy(
            lambda g, e, q, interpret: module.gradient_project(
                g, e, q, weight, interpret
            ),
            at=1,
        ),
        reference=reference,
        inputs=inputs,
        value_cases=(),
        gradient_cases=(),
        small=(3, 5, 2),
        coefficients=[1, 2],
        fixed=[0, 1, 2],
        bad_calls=BAD_CALLS,
    )


@needs_a_kernel
@pytest.mark.parametrize("shape", FACTOR_SIZES, ids=str)
def test_values(shape):
    check_values(project(), Case(shape, FP32))


@needs_a_kernel
@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
@pytest.mark.parametrize("scale", [1, 1e3, 1e-4])
def test_every_dtype_and_size_of_numbers(dtype, scale):
    check_values(project(), Case((19, 150, 4), dtype, scale=scale))


@needs_a_kernel
@pytest.mark.parametrize("case", strided((19, 150, 4)), ids=str)
def test_gradients_and_directions_that_lie_otherwise(case):
    check_values(project(), case)


@needs_a_kernel
@pytest.mark.parametrize("interpret", [INTERPRET, None], ids=["kernel", "default"])
def test_by_hand(interpret):
    g = torch.tensor([[1.0, 2], [3, 4], [0, -1]], device=DEVICE)
    e = torch.tensor([[0.5, 0], [0, 0.25], [1, 1]], device=DEVICE)
    q = torch.tensor([[1.0], [-2]], device=DEVICE)
    u, p = gradient_project(g.bfloat16(), e, q, 2.0, interpret)
    assert u.data_ptr() == e.data_ptr(), "u is written over e"
    assert torch.equal(u, e)
    assert e.tolist() == [[2.5, 4], [6, 8.25], [1, -1]]
    assert p.tolist() == [[-5.5], [-10.5], [3]]
    assert u.dtype == p.dtype == torch.float32
    gradient_project(g, e, q, interpret=interpret)
    assert e.tolist() == [[3.5, 6], [9, 12.25], [1, -2]], "left out, the weight is 1"


@needs_a_kernel
def test_all_directions_give_u_back_in_float32():
    """TF32, with 11 bits, would be off by 1e-3."""
    generator = torch.Generator().manual_seed(0)
    g, e = (torch.randn(40, 16, generator=generator) for _ in range(2))
    q, _ = torch.linalg.qr(torch.randn(16, 16, generator=generator))
    g, e, q = g.to(DEVICE), e.to(DEVICE), q.to(DEVICE)
    u, p = gradient_project(g, e, q, interpret=INTERPRET)
    assert (p.double() @ q.double().T - u).abs().max() < 2e-6


@needs_a_kernel
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("interpret", [INTERPRET, None], ids=["kernel", "default"])
def test_a_nan_shows_in_its_row_only(interpret):
    g = torch.ones(20, 150, device=DEVICE)
    g[7, 140] = torch.nan
    e, q = torch.ones_like(g), torch.ones(150, 3, device=DEVICE)
    u, p = gradient_project(g, e, q, interpret=interpret)
    assert p.isnan().nonzero().tolist() == [[7, 0], [7, 1], [7, 2]]
    assert u.isnan().sum() == 1


@needs_a_kernel
@pytest.mark.parametrize("interpret", [INTERPRET, None], ids=["kernel", "default"])
def test_nothing_has_a_gradient(interpret):
    g, q = (torch.ones(3, 3, device=DEVICE, requires_grad=True) for _ in range(2))
    e = torch.ones(3, 3, device=DEVICE)
    found = gradient_project(g, e, q, interpret=interpret)
    assert not any(x.requires_grad for x in found)


def test_bad_input():
    check_bad_calls(project())


@needs_a_kernel
def test_specs_are_what_is_launched(monkeypatch):
    ranks = {R for *_, R in BENCHMARK_SHAPES}
    assert ranks == {4, 16}
    operation = replace(project(), benchmark_shape=lambda shape: (2, 8, shape[2]))
    check_specs(operation, monkeypatch)


def test_the_cost_by_hand():
    """2 x 3, R = 4: 6 numbers of 2 + 4 + 4 bytes, 3 x 4 and 2 x 4 of 4 bytes."""
    assert gradient_project_cost(2, 3, 4, BF16) == Cost(60 + 48 + 32, 6 * 10)
