"""The MoE kernels in a row are the paper's layer, both ways.

The other side is written from Eq. 12-16 of DeepSeek-V3 (arXiv 2412.19437) alone, a
token and an expert at a time, in float64.
"""

import pytest
import torch

from kernels.grouped_gemm import grouped_gemm
from kernels.moe_combine import moe_combine
from kernels.moe_permute import moe_permute
from kernels.moe_router import moe_router
from kernels.moe_up import moe_up
from tests.kernels.expert_cases import normal
from tests.kernels.harness import DEVICE, INTERPRET, needs_a_kernel

T, K, E, D, H = 11, 2, 5, 9, 6
BIAS = torch.tensor([0.3, -0.2, 0.0, 0.1, -9.0])
"""Nobody visits the last expert."""


def layer_of_the_paper(x, centroids, gate_up, down):
    tokens = []
    for u in x:
        s = torch.sigmoid(centroids @ u)
        chosen = (s + BIAS.double()).topk(K).indices
        g = s[chosen] / s[chosen].sum()
        h = torch.zeros(D, dtype=torch.float64)
        for share, i in zip(g, chosen, strict=True):
            gate, up = u @ gate_up[i, :, :H], u @ gate_up[i, :, H:]
            h = h + share * ((gate * torch.sigmoid(gate) * up) @ down[i])
        tokens.append(h)
    return torch.stack(tokens)


def layer_of_the_kernels(x, centroids, gate_up, down, interpret):
    logits = x @ centroids.T
    how = {"interpret": interpret}
    index, weight = moe_router(logits, BIAS.to(x.device), K, **how)
    slot, row, first = moe_permute(index, E, **how)
    a = moe_up(x, gate_up, slot, row, first, **how)
    z = grouped_gemm(a, down, first, **how)
    return moe_combine(z, weight, row, **how)


@needs_a_kernel
@pytest.mark.parametrize("interpret", [INTERPRET, None])
def test_values_and_gradients(interpret):
    generator = torch.Generator().manual_seed(0)
    shapes = ((T, D), (E, D), (E, D, 2 * H), (E, H, D))
    values = [normal(*shape, generator=generator) for shape in shapes]
    dy = normal(T, D, generator=generator).float()
    exact = [v.float().double().requires_grad_() for v in values]
    inputs = [v.float().to(DEVICE).requires_grad_() for v in values]
    wanted = layer_of_the_paper(*exact)
    y = layer_of_the_kernels(*inputs, interpret)
    torch.testing.assert_close(y.double().cpu(), wanted, rtol=1e-5, atol=1e-5)
    grads = torch.autograd.grad(y, inputs, dy.to(DEVICE))
    right = torch.autograd.grad(wanted, exact, dy.double())
    for found, each in zip(grads, right, strict=True):
        torch.testing.assert_close(found.double().cpu(), each, rtol=1e-5, atol=1e-4)
    assert not grads[2][4].any() and not grads[3][4].any()
