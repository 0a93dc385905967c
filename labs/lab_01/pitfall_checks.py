"""Tests that mHC implementations have, or lack, as numbers: how wrong is a part?

All but the short training run in float64, on sizes that take milliseconds. Shape
suffixes as in pitfalls.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from labs.lab_01.pitfalls import ITERATIONS, Part
from labsupport.nn import GPT, GPTConfig, ManifoldHyperConnection

CONFIG = GPTConfig(
    vocab_size=20, d_model=8, n_layers=1, n_heads=1, d_ff=16, max_len=8
)
SPREAD = 4.0
"""Of the logits: far enough for 20 iterations to end before all has converged."""
STEP = 1e-6
"""Of finite differences."""


@dataclass(frozen=True)
class Check:
    """A test of mHC: it fails where the error is above the tolerance.

    Attributes:
        name: a few words, for a table.
        error: of a part; larger is worse.
        tolerance: the largest error that passes.
    """

    name: str
    error: Callable[[Part], float]
    tolerance: float

    def catches(self, build: Part) -> bool:
        return not self.error(build) <= self.tolerance  # NaN is caught too


def error_to_paper(build: Part) -> float:
    """The module's output against equations 7 to 9 and 3, written out again."""
    part, generator = shaken(build), seeded()
    stream = torch.randn(
        1, 16, part.n, CONFIG.d_model, generator=generator, dtype=torch.double
    )
    # Lanes of different sizes: training makes them so.
    stream = stream * torch.linspace(0.5, 3, part.n).double()[:, None]
    with torch.no_grad():
        out = part(stream, torch.sin)
        expected = [paper_step(part, x_nC) for x_nC in stream[0]]
    return (out[0] - torch.stack(expected)).abs().max().item()


def paper_step(part: ManifoldHyperConnection, x_nC: Tensor) -> Tensor:
    """One token through equations 7 to 9 and 3, with F = sin."""
    n = part.n
    v_K = x_nC.flatten() / x_nC.square().mean().sqrt()
    phi_pre, phi_post, phi_res = part.phi_PK.t().split([n, n, n * n], dim=1)
    b_pre, b_post, b_res = part.bias_P.split([n, n, n * n])
    a_pre, a_post, a_res = part.alpha_3
    pre_n = torch.sigmoid(a_pre * (v_K @ phi_pre) + b_pre)
    post_n = 2 * torch.sigmoid(a_post * (v_K @ phi_post) + b_post)
    res_nn = torch.exp((a_res * (v_K @ phi_res) + b_res).view(n, n))
    for _ in range(ITERATIONS):
        res_nn = res_nn / res_nn.sum(dim=0)  # columns
        res_nn = res_nn / res_nn.sum(dim=1)[:, None]  # rows
    return res_nn @ x_nC + torch.outer(post_n, torch.sin(pre_n @ x_nC))


def error_of_rows(build: Part) -> float:
    return (projection(build).sum(1) - 1).abs().max().item()


def error_of_columns(build: Part) -> float:
    """The median token, at half the spread: columns are never quite exact."""
    worst_M = (projection(build, SPREAD / 2).sum(0) - 1).abs().amax(0)
    return worst_M.median().item()


def error_of_gradient(build: Part) -> float:
    """A random cotangent, along a random direction."""
    cotangent_nnM = torch.randn(
        logits().shape, generator=seeded(2), dtype=torch.double
    )
    return gradient_error(build, cotangent_nnM)


def error_of_sum_gradient(build: Part) -> float:
    """out.sum(): of a matrix whose rows sum to one this is n, whatever it is."""
    return gradient_error(build, torch.ones_like(logits()))


def gradient_error(build: Part, cotangent_nnM: Tensor) -> float:
    """Autograd against a central difference: the worst of M tokens."""
    part = build(CONFIG, 0).double()
    at_nnM = logits().requires_grad_()
    to_nnM = torch.randn(at_nnM.shape, generator=seeded(1), dtype=torch.double)
    (gradient_nnM,) = torch.autograd.grad(
        part.projected(at_nnM), at_nnM, cotangent_nnM
    )
    slope_M = (gradient_nnM * to_nnM).sum((0, 1))
    with torch.no_grad():
        after_nnM = part.projected(at_nnM + STEP * to_nnM)
        before_nnM = part.projected(at_nnM - STEP * to_nnM)
    change_M = ((after_nnM - before_nnM) * cotangent_nnM).sum((0, 1))
    return (slope_M - change_M / (2 * STEP)).abs().max().item()


def error_at_start(build: Part) -> float:
    """A new model against the plain residual model with the same weights."""
    torch.manual_seed(0)
    plain = GPT(CONFIG).double()
    wide = GPT(CONFIG, residual=build).double()
    wide.load_state_dict(plain.state_dict(), strict=False)
    with torch.no_grad():
        return (plain(tokens()) - wide(tokens())).abs().max().item()


def missing_lanes(build: Part) -> float:
    """How far the stream between two branches is from n lanes that differ.

    Returns:
        0 for lanes that differ, 1 for lanes that are equal or not there.
    """
    torch.manual_seed(0)
    model = GPT(CONFIG, residual=build).double()
    for module in model.modules():
        if isinstance(module, ManifoldHyperConnection):
            shake_(module)
    block = model.blocks[0]
    with torch.no_grad():
        stream = block.attention_residual.expand(model.embedding(tokens()))
        stream = block.attention_residual(stream, block.attend)
    if stream.ndim < 4:
        return 1.0
    return float(stream.std(dim=-2).max() < 1e-3)


def last_loss(build: Part) -> float:
    """The last loss of a short training on one batch, as a share of the first."""
    torch.manual_seed(0)
    model = GPT(CONFIG, residual=build)
    losses = []
    for _ in range(5):
        loss = model.loss(tokens(), tokens())
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for weight, gradient in zip(
                model.parameters(), gradients, strict=True
            ):
                weight -= 0.5 * gradient
        losses.append(loss.item())
    return losses[-1] / losses[0]


def projection(build: Part, spread: float = SPREAD) -> Tensor:
    """What the part makes of logits that it did not choose."""
    with torch.no_grad():
        return build(CONFIG, 0).double().projected(logits(spread))


def logits(spread: float = SPREAD) -> Tensor:
    """logits_nnM of 64 tokens."""
    return spread * torch.randn(
        4, 4, 64, generator=seeded(), dtype=torch.double
    )


def tokens() -> Tensor:
    return torch.randint(0, CONFIG.vocab_size, (2, 8), generator=seeded())


def shaken(build: Part) -> ManifoldHyperConnection:
    torch.manual_seed(0)
    part = build(CONFIG, 0).double()
    shake_(part)
    return part


def shake_(part: ManifoldHyperConnection) -> None:
    """Random weights, so that logits spread by about SPREAD, tokens differ, and
    nothing is right by accident of a special start.
    """
    generator = seeded(3)
    with torch.no_grad():
        for parameter in (part.phi_PK, part.bias_P):
            noise = torch.randn(
                parameter.shape, generator=generator, dtype=torch.double
            )
            parameter.copy_(noise)
        part.bias_P.mul_(SPREAD / 2)
        part.alpha_3.fill_(SPREAD / 2 / math.sqrt(part.phi_PK.shape[1]))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


CHECKS = (
    Check("equals the paper", error_to_paper, 1e-9),
    Check("gradient, random cotangent", error_of_gradient, 1e-6),
    Check("rows sum to one", error_of_rows, 1e-5),
    Check("columns nearly", error_of_columns, 1e-4),
    Check("equals the residual at the start", error_at_start, 1e-6),
    Check("lanes differ between branches", missing_lanes, 0.5),
    Check("gradient of .sum()", error_of_sum_gradient, 1e-6),
    Check("training loss falls", last_loss, 0.9),
)
"""The last two are weak on purpose. `.sum()` of a matrix whose rows sum to one is
n whatever the logits are: its gradient is zero, and so is a wrong one.
"""
