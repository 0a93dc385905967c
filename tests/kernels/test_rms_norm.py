"""RMSNorm passes every kernel's tests, and those that only RMSNorm has."""

import pytest
import torch

from kernels import rms_norm as module
from kernels.operation import Cost
from kernels.rms_norm import rms_norm, rms_norm_backward_cost, rms_norm_cost
from tests.kernels.harness import (
    DEVICE,
    INTERPRET,
    BadCall,
    KernelTests,
    Operation,
    needs_a_kernel,
)


def inputs(shape, generator):
    """x, and a weight around 1."""
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    weight_N = torch.randn(shape[-1], generator=generator, dtype=torch.float64)
    return [x, 1 + 0.3 * weight_N]


X, WEIGHT = torch.zeros(2, 3), torch.ones(3)

RMS_NORM = Operation(
    module,
    rms_norm,
    module.rms_norm_reference,
    inputs=inputs,
    bad_calls=[
        BadCall(
            lambda: rms_norm(X.double(), WEIGHT),
            "rms_norm: x must be float32, float16 or bfloat16; got float64 "
            "(rms_norm_reference takes float64 too).",
        ),
        BadCall(
            lambda: rms_norm(torch.zeros(2, 8193), torch.ones(8193)),
            "rms_norm: the last axis of x must have 1 to 8192 elements, as one "
            "program holds a whole row; got shape (2, 8193).",
        ),
        BadCall(
            lambda: rms_norm(X, None),  # type: ignore[arg-type]
            "rms_norm: weight must be a torch.Tensor; got NoneType.",
        ),
        BadCall(
            lambda: rms_norm(X, torch.ones(2)),
            "rms_norm: weight must have shape (3,), one number for each element of "
            "a row of x; got (2,).",
        ),
        BadCall(
            lambda: rms_norm(X, WEIGHT[None]),
            "rms_norm: weight must have shape (3,), one number for each element of "
            "a row of x; got (1, 3).",
        ),
        BadCall(
            lambda: rms_norm(X, WEIGHT.half()),
            "rms_norm: weight must have x's dtype, float32; got float16.",
        ),
        BadCall(
            lambda: rms_norm(X, WEIGHT.to("meta")),
            "rms_norm: weight must be on x's device, cpu; got meta.",
        ),
        BadCall(
            lambda: rms_norm(X, WEIGHT, eps=0.0),
            "rms_norm: eps must be above 0, or a row of zeros gives NaN; got 0.0.",
        ),
    ],
)


class TestRMSNorm(KernelTests):
    operation = RMS_NORM


@needs_a_kernel
def test_a_row_of_zeros_stays_finite_in_both_directions():
    x = torch.zeros(2, 5, device=DEVICE, requires_grad=True)
    weight = torch.ones(5, device=DEVICE, requires_grad=True)
    y = rms_norm(x, weight, interpret=INTERPRET)
    dx, dw = torch.autograd.grad(y, (x, weight), torch.ones_like(y))
    assert torch.equal(y, torch.zeros_like(y))
    torch.testing.assert_close(dx, torch.full_like(dx, 1e3))  # dy / sqrt(eps)
    assert torch.equal(dw, torch.zeros_like(dw))


@needs_a_kernel
def test_eps_reaches_the_kernels():
    x = torch.ones(1, 4, device=DEVICE, requires_grad=True)
    weight = torch.ones(4, device=DEVICE)
    y = rms_norm(x, weight, eps=3.0, interpret=INTERPRET)  # 1 / sqrt(1 + 3)
    (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))  # 3 / (1 + 3)^1.5
    torch.testing.assert_close(y, torch.full_like(y, 0.5))
    torch.testing.assert_close(dx, torch.full_like(dx, 0.375))


@needs_a_kernel
@pytest.mark.parametrize("R", [1, 3, 30])
def test_the_weight_gradient_has_the_same_bits_every_time(R):
    g = torch.Generator().manual_seed(0)
    x, weight = (t.float().to(DEVICE) for t in inputs((R, 257), g))
    weight.requires_grad_()

    def gradient():
        return torch.autograd.grad(
            rms_norm(x, weight, interpret=INTERPRET).square().sum(), weight
        )[0]

    once = gradient()
    assert all(torch.equal(gradient(), once) for _ in range(3))


def test_the_costs_by_hand():
    assert rms_norm_cost(2, 3, torch.bfloat16) == Cost(bytes=30, flops=24)
    assert rms_norm_backward_cost(2, 3, torch.float32) == Cost(bytes=96, flops=66)
