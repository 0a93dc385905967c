"""The three stream kernels in a row are the paper's sublayer, both ways.

The other side is written from Eq. 1-4 and 7-8 of arXiv 2512.24880 alone, in float64.
Sinkhorn is left out, so that H^res is no more than asymmetric: a kernel that takes
its transpose, or reads the columns of phi in another order, gives other numbers.
"""

import pytest
import torch

from kernels.mhc_post import mhc_post
from kernels.mhc_pre import mhc_pre
from kernels.mhc_project import mhc_project
from tests.kernels.harness import DEVICE, INTERPRET, needs_a_kernel
from tests.kernels.stream_cases import normal


def layer(u_MC):
    """F: any function of the layer's input."""
    return torch.tanh(u_MC) + 0.5 * u_MC


def sublayer_of_the_paper(x, phi):
    M, n, C = x.shape
    v = x.reshape(M, n * C)  # vec(x_l)
    normalised = v / v.square().mean(-1, keepdim=True).sqrt()  # RMSNorm
    mixed = torch.einsum("mk,kp->mp", normalised, phi)
    H_pre = torch.sigmoid(mixed[:, :n])
    H_post = 2 * torch.sigmoid(mixed[:, n : 2 * n])
    H_res = mixed[:, 2 * n :].reshape(M, n, n)  # mat: row by row
    u = torch.einsum("mj,mjc->mc", H_pre, x)
    return torch.einsum("mij,mjc->mic", H_res, x) + torch.einsum(
        "mi,mc->mic", H_post, layer(u)
    )


def sublayer_of_the_kernels(x, phi):
    M, n, _ = x.shape
    h_MP, r_M = mhc_project(x, phi, interpret=INTERPRET)
    logits_PM = (h_MP / r_M[:, None]).T
    pre_nM = torch.sigmoid(logits_PM[:n])
    post_nM = 2 * torch.sigmoid(logits_PM[n : 2 * n])
    res_nnM = logits_PM[2 * n :].reshape(n, n, M)
    f_MC = layer(mhc_pre(x, pre_nM, interpret=INTERPRET))
    return mhc_post(x, f_MC, post_nM, res_nnM, interpret=INTERPRET)


@needs_a_kernel
@pytest.mark.parametrize("n", [1, 2, 4])
def test_values_and_gradients(n):
    generator = torch.Generator().manual_seed(0)
    x, phi = (
        normal(5, n, 33, generator=generator),
        normal(33 * n, n * n + 2 * n, generator=generator),
    )
    phi = phi / (33 * n) ** 0.5
    dy = normal(5, n, 33, generator=generator)
    exact = [v.float().double().requires_grad_() for v in (x, phi)]
    inputs = [v.float().to(DEVICE).requires_grad_() for v in (x, phi)]
    wanted, y = sublayer_of_the_paper(*exact), sublayer_of_the_kernels(*inputs)
    torch.testing.assert_close(y.double().cpu(), wanted, rtol=1e-5, atol=1e-5)
    grads = torch.autograd.grad(y, inputs, dy.float().to(DEVICE))
    wanted_grads = torch.autograd.grad(wanted, exact, dy.float().double())
    for found, right in zip(grads, wanted_grads, strict=True):
        torch.testing.assert_close(found.double().cpu(), right, rtol=1e-5, atol=2e-5)
