"""The projection passes every kernel's tests, and those that only it has."""

import pytest
import torch

from kernels import mhc_project as module
from kernels.mhc_project import (
    mhc_project,
    mhc_project_backward_cost,
    mhc_project_cost,
    mhc_project_reference,
)
from kernels.operation import Cost
from tests.kernels.harness import (
    ARITHMETIC,
    COMPILED,
    DEVICE,
    INTERPRET,
    BadCall,
    needs_a_kernel,
)
from tests.kernels.harness_mixed import MixedKernelTests, MixedOperation
from tests.kernels.stream_cases import STREAMS, normal


def inputs(shape, generator):
    """x and phi."""
    _, n, C = shape
    phi_KP = normal(n * C, n * n + 2 * n, generator=generator)
    return [normal(*shape, generator=generator), phi_KP]


def product_error(dtype):
    """On a GPU halves are multiplied in TF32: each factor loses up to 2^-10."""
    in_tf32 = COMPILED and dtype is not torch.float32
    return ARITHMETIC + (2 * 2**-10 if in_tf32 else 0.0)


X, PHI = torch.zeros(2, 4, 3), torch.zeros(12, 24)

PROJECTION = MixedOperation(
    module=module,
    function=mhc_project,
    reference=mhc_project_reference,
    inputs=inputs,
    **STREAMS,
    coefficients=[1],
    product_error=product_error,
    bad_calls=[
        BadCall(
            lambda: mhc_project("x", PHI),  # type: ignore[arg-type]
            "mhc_project: x must be a torch.Tensor; got str.",
        ),
        BadCall(
            lambda: mhc_project(X.double(), PHI),
            "mhc_project: x must be float32, float16 or bfloat16; got float64 "
            "(mhc_project_reference takes float64 too).",
        ),
        BadCall(
            lambda: mhc_project(X.flatten(1), PHI),
            "mhc_project: x must have shape (M, n, C): tokens, streams, elements; got "
            "(2, 12).",
        ),
        BadCall(
            lambda: mhc_project(X[:, :0], PHI),
            "mhc_project: x must have 1 to 8 streams, its second axis; got 0 in shape "
            "(2, 0, 3).",
        ),
        BadCall(
            lambda: mhc_project(X, [PHI]),  # type: ignore[arg-type]
            "mhc_project: phi must be a torch.Tensor; got list.",
        ),
        BadCall(
            lambda: mhc_project(X, PHI[:11]),
            "mhc_project: phi must have shape (n C, n n + 2 n) = (12, 24) for x of "
            "shape (2, 4, 3); got (11, 24).",
        ),
        BadCall(
            lambda: mhc_project(X, PHI.T),
            "mhc_project: phi must have shape (n C, n n + 2 n) = (12, 24) for x of "
            "shape (2, 4, 3); got (24, 12).",
        ),
        BadCall(
            lambda: mhc_project(X.half(), PHI.half()),
            "mhc_project: phi must be float32; got float16.",
        ),
        BadCall(
            lambda: mhc_project(X, PHI.to("meta")),
            "mhc_project: phi must be on x's device, cpu; got meta.",
        ),
    ],
)


class TestProject(MixedKernelTests):
    operation = PROJECTION


@needs_a_kernel
@pytest.mark.parametrize("n", [1, 4])
def test_it_is_the_normalised_row_times_phi(n):
    """Eq. 14-16 against Eq. 7: x phi / r = RMSNorm(x) phi, in float64."""
    x, phi = inputs((3, n, 50), torch.Generator().manual_seed(0))
    h, r = mhc_project(
        x.float().to(DEVICE), phi.float().to(DEVICE), interpret=INTERPRET
    )
    x_MK = x.float().double().reshape(3, -1)
    rms = (x_MK @ x_MK.T).diagonal().div(50 * n).sqrt()
    normalised = (x_MK / rms[:, None]) @ phi.float().double()
    found = (h / r[:, None]).double().cpu()
    torch.testing.assert_close(found, normalised, rtol=1e-5, atol=1e-5)


@needs_a_kernel
@pytest.mark.parametrize("function", [mhc_project, mhc_project_reference])
def test_the_columns_for_res_are_ready_for_sinkhorn(function):
    """Whichever way the call goes, so that no lab works on one machine only."""
    x, phi = inputs((6, 4, 5), torch.Generator().manual_seed(0))
    asked = {"interpret": INTERPRET} if function is mhc_project else {}
    h, _ = function(x.float().to(DEVICE), phi.float().to(DEVICE), **asked)
    logits_nnM = h.T[8:].view(4, 4, 6)
    assert logits_nnM.is_contiguous()
    assert torch.equal(logits_nnM[1, 2], h[:, 8 + 4 + 2])


@needs_a_kernel
def test_a_row_of_zeros_stays_finite_in_both_directions():
    """r has no gradient there; as in PyTorch's norms it is taken to be 0."""
    x = torch.zeros(2, 4, 5, device=DEVICE, requires_grad=True)
    phi = torch.ones(20, 24, device=DEVICE)
    h, r = mhc_project(x, phi, interpret=INTERPRET)
    (dx,) = torch.autograd.grad((h, r), x, (torch.ones_like(h), torch.ones_like(r)))
    assert not h.any() and not r.any()
    torch.testing.assert_close(dx, torch.full_like(dx, 24.0))


@needs_a_kernel
def test_h_alone_and_r_alone_have_gradients():
    x, phi = (
        v.float().to(DEVICE).requires_grad_()
        for v in inputs((3, 2, 7), torch.Generator().manual_seed(0))
    )
    h, r = mhc_project(x, phi, interpret=INTERPRET)
    wanted_h, wanted_r = mhc_project_reference(x, phi)
    for found, wanted in ((h, wanted_h), (r, wanted_r)):
        dy = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
        (dx,) = torch.autograd.grad(found, x, dy.to(DEVICE), retain_graph=True)
        (exact,) = torch.autograd.grad(wanted, x, dy.to(DEVICE), retain_graph=True)
        torch.testing.assert_close(dx, exact, rtol=1e-5, atol=1e-5)
    assert not torch.autograd.grad(r, phi, torch.ones_like(r))[0].any()


@needs_a_kernel
@pytest.mark.parametrize("M", [1, 40, 100])
def test_the_gradient_of_phi_has_the_same_bits_every_time(M):
    x, phi = (
        v.float().to(DEVICE)
        for v in inputs((M, 2, 9), torch.Generator().manual_seed(0))
    )
    phi.requires_grad_()

    def gradient():
        h, _ = mhc_project(x, phi, interpret=INTERPRET)
        return torch.autograd.grad(h.square().sum(), phi)[0]

    once = gradient()
    assert all(torch.equal(gradient(), once) for _ in range(3))


@needs_a_kernel
def test_a_phi_kept_transposed_is_read_where_it_lies(monkeypatch):
    x, phi = (
        v.float().to(DEVICE)
        for v in inputs((3, 2, 8), torch.Generator().manual_seed(0))
    )
    wanted = mhc_project(x, phi, interpret=INTERPRET)
    kept = phi.T.contiguous()

    def refuse(tensor):
        raise AssertionError(f"copied a tensor of shape {tuple(tensor.shape)}")

    monkeypatch.setattr(torch.Tensor, "contiguous", refuse)
    found = mhc_project(x, kept.T, interpret=INTERPRET)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_the_costs_by_hand():
    """x (2, 1, 5): K = 5, P = 3. h 6 numbers, r 2, phi 15, of 4 bytes each."""
    forward = Cost(2 * 10 + 4 * (6 + 2 + 15), flops=2 * (30 + 10))
    assert mhc_project_cost(2, 1, 5, torch.bfloat16) == forward
    backward = Cost(4 * (10 + 10) + 4 * (6 + 2 + 15 + 15), flops=2 * (60 + 20))
    assert mhc_project_backward_cost(2, 1, 5, torch.float32) == backward


@pytest.mark.parametrize("C", [1280, 7168])
def test_four_streams_in_bfloat16_move_8_and_16_bytes_an_element(C):
    """For each token more; phi (and its gradient) is there once."""

    def for_one_more_token(cost):
        at = [cost(M, 4, C, torch.bfloat16).bytes for M in (1, 2)]
        return at[1] - at[0]

    assert for_one_more_token(mhc_project_cost) == 8 * C + 100
    assert for_one_more_token(mhc_project_backward_cost) == 16 * C + 100
    phi = 4 * (4 * C) * 24
    assert mhc_project_cost(0, 4, C, torch.bfloat16).bytes == phi
    assert mhc_project_backward_cost(0, 4, C, torch.bfloat16).bytes == 2 * phi
