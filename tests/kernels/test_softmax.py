"""Softmax passes every kernel's tests, and those that only softmax has."""

import pytest
import torch

from kernels import softmax as module
from kernels.operation import Cost
from kernels.softmax import MAX_N, softmax, softmax_backward_cost, softmax_cost
from tests.kernels.harness import (
    DEVICE,
    INTERPRET,
    BadCall,
    KernelTests,
    Operation,
    needs_a_kernel,
)


def reach_of_y(inputs, dy):
    """dx_n = y_n (dy_n - s), s = sum_k dy_k y_k: y_n is in front, and in s."""
    y = module.softmax_reference(inputs[0])
    s = (dy * y).sum(-1, keepdim=True)
    return [y * ((dy - s).abs() + (dy.abs() * y).sum(-1, keepdim=True))]


SOFTMAX = Operation(
    module,
    softmax,
    module.softmax_reference,
    inputs=lambda shape, g: [torch.randn(shape, generator=g, dtype=torch.float64)],
    saved=reach_of_y,
    bad_calls=[
        BadCall(
            lambda: softmax([1.0, 2.0]),  # type: ignore[arg-type]
            "softmax: x must be a torch.Tensor; got list.",
        ),
        BadCall(
            lambda: softmax(torch.arange(3)),
            "softmax: x must be float32, float16 or bfloat16; got int64 "
            "(softmax_reference takes float64 too).",
        ),
        BadCall(
            lambda: softmax(torch.zeros(3, dtype=torch.float64)),
            "softmax: x must be float32, float16 or bfloat16; got float64 "
            "(softmax_reference takes float64 too).",
        ),
        BadCall(
            lambda: softmax(torch.tensor(1.0)),
            "softmax: x must have at least one axis; got a single number.",
        ),
        BadCall(
            lambda: softmax(torch.zeros(2, 0)),
            "softmax: the last axis of x must have 1 to 16384 elements, as one "
            "program holds a whole row; got shape (2, 0).",
        ),
        BadCall(
            lambda: softmax(torch.zeros(1, MAX_N + 1)),
            "softmax: the last axis of x must have 1 to 16384 elements, as one "
            "program holds a whole row; got shape (1, 16385).",
        ),
    ],
)


class TestSoftmax(KernelTests):
    operation = SOFTMAX


@needs_a_kernel
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # inf - inf
def test_minus_infinity_takes_no_share_and_a_row_of_it_is_nan():
    """As PyTorch has it: -inf is how attention hides a position."""
    x = torch.tensor([[0.0, -torch.inf, 0.0], [-torch.inf] * 3])
    y = softmax(x.to(DEVICE), interpret=INTERPRET).cpu()
    assert y[0].tolist() == [0.5, 0.0, 0.5]
    assert y[1].isnan().all()


@needs_a_kernel
def test_a_nan_stays_in_its_row():
    x = torch.tensor([[0.0, torch.nan, 1.0], [0.0, 1.0, 2.0]], device=DEVICE)
    y = softmax(x, interpret=INTERPRET)
    assert y[0].isnan().all()
    assert y[1].isfinite().all()


def test_the_costs_by_hand():
    assert softmax_cost(2, 3, torch.bfloat16) == Cost(bytes=24, flops=30)
    assert softmax_backward_cost(2, 3, torch.float32) == Cost(bytes=72, flops=24)
