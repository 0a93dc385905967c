"""Three estimates of KL(pi || ref) from a sample, and where their gradients point.

A single token of a vocabulary of V, so every mean is a sum over V and nothing is
sampled. Source of k1 to k3: Schulman, "Approximating KL Divergence", 2020; of their
gradients: DeepSeek-V3.2 (arXiv 2512.02556), section 3.1.

Shape suffixes: V entries of the vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from labsupport.rl import k1, k2, k3

KINDS = ("k1", "k2", "k3", "rho k3")


def estimate(kind: str, logp_V: Tensor, ref_V: Tensor) -> Tensor:
    """The estimate at each token.

    Args:
        kind: one of KINDS. At the sampled policy rho is 1, but not its gradient.
        logp_V: log pi, float64.
        ref_V: log pi_ref.
    """
    if kind == "rho k3":
        return (logp_V - logp_V.detach()).exp() * k3(logp_V, ref_V)
    return {"k1": k1, "k2": k2, "k3": k3}[kind](logp_V, ref_V)


def gradients(pi_V: Tensor, ref_V: Tensor) -> dict[str, tuple[float, Tensor]]:
    """Mean value and mean gradient to the logits, of each estimate and of both KLs.

    Args:
        pi_V, ref_V: probabilities, all above 0.

    Returns:
        By KINDS, and "KL(pi || ref)", "KL(ref || pi)". The mean gradient of an
        estimate is that of samples, whose drawing does not depend on the logits.
    """
    pi_V, ref_V = pi_V.double(), ref_V.double().log()
    found = {}
    for kind in KINDS:
        logits_V = pi_V.log().requires_grad_()
        logp_V = logits_V.log_softmax(-1)
        mean = (pi_V * estimate(kind, logp_V, ref_V)).sum()
        (gradient_V,) = torch.autograd.grad(mean, logits_V)
        found[kind] = (mean.item(), gradient_V)
    for name in ("KL(pi || ref)", "KL(ref || pi)"):
        logits_V = pi_V.log().requires_grad_()
        logp_V = logits_V.log_softmax(-1)
        if name == "KL(pi || ref)":
            value = (logp_V.exp() * (logp_V - ref_V)).sum()
        else:
            value = (ref_V.exp() * (ref_V - logp_V)).sum()
        (gradient_V,) = torch.autograd.grad(value, logits_V)
        found[name] = (value.item(), gradient_V)
    return found


def estimator_lines() -> list[str]:
    """Five tokens: the mean of each estimate, and whose gradient it has."""
    pi_V = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05])
    ref_V = torch.tensor([0.2, 0.2, 0.2, 0.2, 0.2])
    found = gradients(pi_V, ref_V)
    exact = {name: found[name] for name in ("KL(pi || ref)", "KL(ref || pi)")}
    lines = [f"{'':8}{'mean':>8}   mean gradient"]
    for kind in KINDS:
        mean, gradient_V = found[kind]
        whose = [
            f"that of {name}"
            for name, (_, wanted_V) in exact.items()
            if torch.allclose(gradient_V, wanted_V, atol=1e-9)
        ]
        if gradient_V.abs().max() < 1e-9:
            whose = ["0: it teaches nothing"]
        lines.append(f"{kind:8}{mean:>8.3f}   {whose[0]}")
    values = (f"{name} = {value:.3f}" for name, (value, _) in exact.items())
    return [*lines, ", ".join(values)]
