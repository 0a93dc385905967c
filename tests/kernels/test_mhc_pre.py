"""Pre-apply passes every kernel's tests, and those that only it has."""

import pytest
import torch

from kernels import mhc_pre as module
from kernels.mhc_pre import mhc_pre, mhc_pre_backward_cost, mhc_pre_cost
from kernels.operation import Cost
from tests.kernels.harness import DEVICE, INTERPRET, BadCall, needs_a_kernel
from tests.kernels.harness_mixed import MixedKernelTests, MixedOperation
from tests.kernels.stream_cases import STREAMS, normal


def inputs(shape, generator):
    """x and pre."""
    M, n, _ = shape
    return [normal(*shape, generator=generator), normal(n, M, generator=generator)]


X, PRE = torch.zeros(2, 4, 3), torch.zeros(4, 2)

PRE_APPLY = MixedOperation(
    module=module,
    function=mhc_pre,
    reference=module.mhc_pre_reference,
    inputs=inputs,
    **STREAMS,
    coefficients=[1],
    bad_calls=[
        BadCall(
            lambda: mhc_pre([1.0], PRE),  # type: ignore[arg-type]
            "mhc_pre: x must be a torch.Tensor; got list.",
        ),
        BadCall(
            lambda: mhc_pre(X.double(), PRE),
            "mhc_pre: x must be float32, float16 or bfloat16; got float64 "
            "(mhc_pre_reference takes float64 too).",
        ),
        BadCall(
            lambda: mhc_pre(X.flatten(1), PRE),
            "mhc_pre: x must have shape (M, n, C): tokens, streams, elements; got "
            "(2, 12).",
        ),
        BadCall(
            lambda: mhc_pre(torch.zeros(2, 0, 3), torch.zeros(0, 2)),
            "mhc_pre: x must have 1 to 8 streams, its second axis; got 0 in shape "
            "(2, 0, 3).",
        ),
        BadCall(
            lambda: mhc_pre(torch.zeros(2, 9, 3), torch.zeros(9, 2)),
            "mhc_pre: x must have 1 to 8 streams, its second axis; got 9 in shape "
            "(2, 9, 3).",
        ),
        BadCall(
            lambda: mhc_pre(torch.zeros(2, 4, 0), PRE),
            "mhc_pre: a stream must have at least one element, the last axis of x; "
            "got shape (2, 4, 0).",
        ),
        BadCall(
            lambda: mhc_pre(X, 0.25),  # type: ignore[arg-type]
            "mhc_pre: pre must be a torch.Tensor; got float.",
        ),
        BadCall(
            lambda: mhc_pre(X, PRE.T),
            "mhc_pre: pre must have shape (n, M) = (4, 2) for x of shape (2, 4, 3); "
            "got (2, 4).",
        ),
        BadCall(
            lambda: mhc_pre(X.bfloat16(), PRE.bfloat16()),
            "mhc_pre: pre must be float32; got bfloat16.",
        ),
        BadCall(
            lambda: mhc_pre(X, PRE.to("meta")),
            "mhc_pre: pre must be on x's device, cpu; got meta.",
        ),
    ],
)


class TestPre(MixedKernelTests):
    operation = PRE_APPLY


@needs_a_kernel
@pytest.mark.parametrize("n", [1, 3, 4])
def test_equal_shares_give_the_mean_of_the_streams(n):
    x = torch.randn(5, n, 40, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    u = mhc_pre(x, torch.full((n, 5), 1 / n, device=DEVICE), interpret=INTERPRET)
    torch.testing.assert_close(u, x.mean(1))


def test_the_costs_by_hand():
    """x is (2, 3, 5): 30 elements; u 10; pre 6 numbers of 4 bytes."""
    assert mhc_pre_cost(2, 3, 5, torch.bfloat16) == Cost(2 * (30 + 10) + 24, 60)
    backward = Cost(4 * (10 + 30 + 30) + 2 * 24, 90)
    assert mhc_pre_backward_cost(2, 3, 5, torch.float32) == backward


@pytest.mark.parametrize("C", [1280, 7168])
def test_four_streams_in_bfloat16_move_10_and_18_bytes_an_element(C):
    assert mhc_pre_cost(1, 4, C, torch.bfloat16).bytes == 10 * C + 16
    assert mhc_pre_backward_cost(1, 4, C, torch.bfloat16).bytes == 18 * C + 32
