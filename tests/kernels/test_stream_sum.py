"""The stream sum passes every kernel's tests, and those that only it has."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from kernels import stream_sum as module
from kernels.operation import KERNEL_DTYPES, Cost
from kernels.stream_sum import (
    stream_sum,
    stream_sum_backward_cost,
    stream_sum_cost,
    stream_sum_reference,
)
from tests.kernels.access_checks import check_accesses
from tests.kernels.cases import Case
from tests.kernels.guarded_memory import LAYOUTS
from tests.kernels.harness import DEVICE, INTERPRET, BadCall, needs_a_kernel
from tests.kernels.harness_mixed import (
    MixedKernelTests,
    MixedOperation,
    check_gradients,
    check_values,
)

SHAPES = [
    (4, 4, 256),  # whole tiles
    (4, 13, 33),
    (1, 1, 1),
    (2, 70, 9),  # more rows than a block of them holds
    (3, 5, 300),
    (5, 3, 129),
    (6, 2, 7),
    (7, 3, 5),
    (8, 2, 130),
    (4, 0, 5),
]
"""P, R, D."""

SHAPE_CASES = [Case(shape, dtype) for shape in SHAPES for dtype in KERNEL_DTYPES]
SHAPE_CASES.append(Case((4, 1, 2049), torch.bfloat16))
"""One row, as wide as in training, and a width that no block divides."""

SCALE_CASES = [Case((4, 3, 129), dtype, scale=300) for dtype in KERNEL_DTYPES]
STRIDED = [name for name in LAYOUTS if name != "contiguous"]
X_CASES = [Case((4, 5, 33), torch.bfloat16, layout=name) for name in STRIDED]
DY_CASES = [
    replace(case, layout="contiguous", dy_layout=case.layout) for case in X_CASES
]


def inputs(shape, generator):
    """x, and logits; in every other row exp of the last one overflows float32."""
    P, R, _ = shape
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    logits = 2 * torch.randn((R, P), generator=generator, dtype=torch.float64)
    logits[1::2, -1] += 200
    return [x, logits]


def refused(call, sentence):
    return BadCall(call, f"stream_sum: {sentence}")


X, LOGITS = torch.zeros(3, 2, 5), torch.zeros(2, 3)

SUM = MixedOperation(
    module=module,
    function=stream_sum,
    reference=stream_sum_reference,
    inputs=inputs,
    value_cases=[*SHAPE_CASES, *SCALE_CASES, *X_CASES],
    gradient_cases=[*SHAPE_CASES, *X_CASES, *DY_CASES],
    small=(4, 3, 5),
    coefficients=[1],
    cancelled=1e-5,  # in dlogits, of sums of up to 2049 products of size 1
    benchmark_shape=lambda shape: (shape[0], 2, shape[2]),
    bad_calls=[
        refused(
            lambda: stream_sum([1.0], LOGITS),
            "x must be a torch.Tensor; got list.",
        ),
        refused(
            lambda: stream_sum(X.double(), LOGITS),
            "x must be float32, float16 or bfloat16; got float64 "
            "(stream_sum_reference takes float64 too).",
        ),
        refused(
            lambda: stream_sum(X[0], LOGITS),
            "x must have shape (P, R, D), streams by rows by at least one element, "
            "with P 1 to 8; got (2, 5).",
        ),
        refused(
            lambda: stream_sum(X[:0], LOGITS),
            "x must have shape (P, R, D), streams by rows by at least one element, "
            "with P 1 to 8; got (0, 2, 5).",
        ),
        refused(
            lambda: stream_sum(torch.zeros(9, 2, 5), torch.zeros(2, 9)),
            "x must have shape (P, R, D), streams by rows by at least one element, "
            "with P 1 to 8; got (9, 2, 5).",
        ),
        refused(
            lambda: stream_sum(X[..., :0], LOGITS),
            "x must have shape (P, R, D), streams by rows by at least one element, "
            "with P 1 to 8; got (3, 2, 0).",
        ),
        refused(
            lambda: stream_sum(X, 0.5),
            "logits must be a torch.Tensor; got float.",
        ),
        refused(
            lambda: stream_sum(X, LOGITS.T),
            "logits must have shape (R, P) = (2, 3) for x of shape (3, 2, 5); "
            "got (3, 2).",
        ),
        refused(
            lambda: stream_sum(X.half(), LOGITS.half()),
            "logits must be float32; got float16.",
        ),
        refused(
            lambda: stream_sum(X, LOGITS.to("meta")),
            "logits must be on x's device, cpu; got meta.",
        ),
        refused(
            lambda: stream_sum(X, LOGITS, 1.5),
            "eps must be a number from 0 to 1; got 1.5.",
        ),
        refused(
            lambda: stream_sum(X, LOGITS, float("nan")),
            "eps must be a number from 0 to 1; got nan.",
        ),
        refused(
            lambda: stream_sum(X, LOGITS, True),
            "eps must be a number from 0 to 1; got True.",
        ),
        refused(
            lambda: stream_sum(X, LOGITS, None),
            "eps must be a number from 0 to 1; got None.",
        ),
    ],
)


class TestStreamSum(MixedKernelTests):
    operation = SUM


def everywhere(test):
    """By the kernel, and by the reference, which serves calls on a CPU."""

    def by_the_reference(x, logits, eps=module.EPS):
        return stream_sum(x.cpu(), logits.cpu(), eps).to(DEVICE)

    ways = [partial(stream_sum, interpret=INTERPRET), by_the_reference]
    by = pytest.mark.parametrize("summed", ways, ids=["kernel", "CPU"])
    return needs_a_kernel(by(test))


def random_inputs(P, R=6, D=37):
    generator = torch.Generator().manual_seed(2)
    return [v.float().to(DEVICE) for v in inputs((P, R, D), generator)]


@needs_a_kernel
@pytest.mark.parametrize("eps", [0.0, 0.01, 1.0])
def test_any_smoothing(eps):
    operation = replace(
        SUM,
        function=partial(stream_sum, eps=eps),
        reference=partial(stream_sum_reference, eps=eps),
    )
    for case in (Case((3, 5, 33), torch.float32), Case((4, 5, 33), torch.bfloat16)):
        check_values(operation, case)
        check_gradients(operation, case)


@needs_a_kernel
def test_no_two_programs_touch_one_element():
    check_accesses(SUM, Case((3, 9, 300), torch.float32))


def by_the_paper(x, logits, eps):
    """Row by row and stream by stream, in Python's own float64."""
    y = torch.zeros(x.shape[1:], dtype=torch.float64)
    P = len(x)
    for r, row in enumerate(logits.double().cpu()):
        total = row.exp().sum()
        for p in range(P):
            weight = row[p].exp() / total
            weight = weight * (1 - eps) + eps / P
            y[r] += weight * x[p, r].double().cpu()
    return y.to(DEVICE)


@everywhere
@pytest.mark.parametrize("P", [1, 2, 4, 8])
def test_it_is_the_papers_equation(summed, P):
    x, logits = random_inputs(P)
    wanted = by_the_paper(x, logits, 0.1)
    torch.testing.assert_close(summed(x, logits).double(), wanted, rtol=1e-5, atol=1e-5)


@everywhere
def test_equal_streams_come_out_as_they_went_in(summed):
    """The weights of a row add up to 1, whatever they are."""
    h, logits = random_inputs(1)[0][0], random_inputs(4)[1]
    y = summed(h.expand(4, *h.shape), logits)
    torch.testing.assert_close(y, h, rtol=1e-6, atol=1e-6)


@everywhere
def test_full_smoothing_is_the_mean_and_logits_learn_nothing(summed):
    x, logits = random_inputs(4)
    logits.requires_grad_()
    y = summed(x, logits, eps=1)
    torch.testing.assert_close(y, x.mean(0), rtol=1e-6, atol=1e-6)
    (dlogits,) = torch.autograd.grad(y.square().sum(), logits)
    assert not dlogits.any()


@everywhere
def test_a_stream_that_lost_still_learns_through_smoothing(summed):
    """Its softmax is exactly 0 in float32. eps / P of dy arrives, or nothing."""
    x, _ = random_inputs(4)
    x.requires_grad_()
    logits = torch.full((6, 4), -200.0, device=DEVICE)
    logits[:, 2] = 0.0
    dy = torch.randn(6, 37, generator=torch.Generator().manual_seed(3)).to(DEVICE)
    for eps, lost, won in ((0.0, 0.0, 1.0), (0.1, 0.025, 0.925)):
        (dx,) = torch.autograd.grad(summed(x, logits, eps), x, dy)
        torch.testing.assert_close(dx[2], won * dy)
        for p in (0, 1, 3):
            torch.testing.assert_close(dx[p], lost * dy)


@needs_a_kernel
def test_streams_are_read_where_they_lie(monkeypatch):
    """A batch of P copies, and streams that alternate: no copy, the same answer."""
    copies = []
    x, logits = random_inputs(4)
    wanted = stream_sum(x, logits, interpret=INTERPRET)
    batch = x.view(4 * 2, 3, 37)  # streams along the batch, as in ParScale's model
    alternating = x.transpose(0, 1).contiguous().transpose(0, 1)
    wide = torch.cat([logits, logits], 1)[:, :4]
    contiguous = torch.Tensor.contiguous
    monkeypatch.setattr(
        torch.Tensor, "contiguous", lambda t: copies.append(t.shape) or contiguous(t)
    )
    for same in (batch.view(4, 6, 37), alternating):
        assert torch.equal(stream_sum(same, wide, interpret=INTERPRET), wanted)
    assert not copies


@needs_a_kernel
def test_gradients_have_the_same_bits_every_time():
    x, logits = (v.requires_grad_() for v in random_inputs(4, R=13, D=300))

    def gradients():
        y = stream_sum(x, logits, interpret=INTERPRET)
        return torch.autograd.grad(y.square().sum(), (x, logits))

    once = gradients()
    assert all(torch.equal(a, b) for a, b in zip(gradients(), once, strict=True))


def test_the_costs_by_hand():
    """P = 2, R = 3, D = 5: x 30 elements, y 15, logits 6 of 4 bytes.

    A weight takes 5 FLOPs for its softmax and 2 for smoothing; 5 more on the way back.
    """
    forward = Cost(2 * (30 + 15) + 4 * 6, flops=2 * 30 + 7 * 6)
    assert stream_sum_cost(2, 3, 5, torch.float16) == forward
    backward = Cost(4 * (15 + 30 + 30) + 4 * (6 + 6), flops=3 * 30 + 12 * 6)
    assert stream_sum_backward_cost(2, 3, 5, torch.float32) == backward


def test_four_streams_in_bfloat16_move_10_and_18_bytes_an_element():
    assert stream_sum_cost(4, 1, 2048, torch.bfloat16).bytes == 10 * 2048 + 16
    backward = stream_sum_backward_cost(4, 1, 2048, torch.bfloat16)
    assert backward.bytes == 18 * 2048 + 32
