"""Divergences and their gradients, to 1e-6, as liger-kernel's chunked loss has them.

It is plain PyTorch by other authors, and makes logits from hidden states itself: with
the identity as output matrix they are what it is given. As here beta is the teacher's
weight in M and T^2 is left out; it adds up all tokens but those with an ignored label,
and divides by their number. It gets float64, so that what is off is ours.
"""

from functools import partial

import pytest
import torch

from kernels.linear_divergence import linear_divergence
from kernels.token_divergence import token_divergence
from tests.kernels.divergence_cases import BETAS, TEMPERATURES
from tests.kernels.harness import DEVICE, INTERPRET, needs_a_kernel

IGNORED = -100
N, V, D, E = 7, 33, 6, 9

every_beta = pytest.mark.parametrize("beta", BETAS)
every_temperature = pytest.mark.parametrize("temperature", TEMPERATURES)


def both_ways(function):
    return pytest.mark.parametrize(
        "divergence",
        [partial(function, interpret=INTERPRET), function],
        ids=["kernel", "as called"],
    )


def random_layers(D, E):
    """Logits of size 1: the student's hidden states and weights, the teacher's."""
    generator = torch.Generator().manual_seed(5)
    layers = []
    for width in (D, E):
        hidden = torch.randn(N, width, generator=generator)
        weight = torch.randn(V, width, generator=generator) / width**0.5
        layers += [hidden, weight]
    return layers


MASK = torch.tensor([True, False, True, True, True, False, True])


def by_liger(layers, beta, temperature):
    """The mean over the tokens that count, and its gradients by the student's layer."""
    chunked = pytest.importorskip(
        "liger_kernel.chunked_loss",
        reason="liger-kernel is not installed here (it needs Triton: Linux only)",
    )
    theirs = chunked.LigerFusedLinearJSDLoss(
        weight_hard_loss=0.0,
        weight_soft_loss=1.0,
        beta=beta,
        ignore_index=IGNORED,
        temperature=temperature,
        compiled=False,
    )
    hidden, weight, *teacher = (x.double() for x in layers)
    leaves = hidden.requires_grad_(), weight.requires_grad_()
    labels = torch.zeros(N, dtype=torch.int64).masked_fill(~MASK, IGNORED)
    loss = theirs(*leaves, *teacher, labels)
    return loss.detach(), *torch.autograd.grad(loss, leaves)


def assert_equal(found, wanted):
    for mine, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(
            mine.cpu().double(), right.double(), rtol=0, atol=1e-6
        )


@needs_a_kernel
@both_ways(token_divergence)
@every_temperature
@every_beta
def test_the_divergence_of_logits(beta, temperature, divergence):
    s_hidden, s_weight, t_hidden, t_weight = random_layers(D, E)
    student, teacher = s_hidden @ s_weight.T, t_hidden @ t_weight.T
    identity = torch.eye(V)
    wanted = by_liger([student, identity, teacher, identity], beta, temperature)
    leaf = student.to(DEVICE).requires_grad_()
    found = divergence(leaf, teacher.to(DEVICE), MASK.to(DEVICE), beta, temperature)
    loss = found.sum() / MASK.sum()
    assert_equal((loss.detach(), *torch.autograd.grad(loss, leaf)), wanted[:2])


@needs_a_kernel
@both_ways(linear_divergence)
@every_temperature
@every_beta
def test_the_divergence_of_hidden_states(beta, temperature, divergence):
    layers = random_layers(D, E)
    wanted = by_liger(layers, beta, temperature)
    hidden, weight, *teacher = (x.to(DEVICE) for x in layers)
    leaves = hidden.requires_grad_(), weight.requires_grad_()
    found = divergence(*leaves, *teacher, MASK.to(DEVICE), beta, temperature)
    loss = found.sum() / MASK.sum()
    assert_equal((loss.detach(), *torch.autograd.grad(loss, leaves)), wanted)
