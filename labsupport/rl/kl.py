"""How far a policy has gone from a reference: estimates of KL(pi || ref) from samples.

With x drawn from pi and r = ref(x) / pi(x) (Schulman, 2020, "Approximating KL
divergence"):

    k1 = -log r             right on average, noisy, may be negative
    k2 = (log r)^2 / 2      never negative, wrong on average, little noise
    k3 = r - 1 - log r      right on average, never negative

What an estimate says and where its *gradient* points are two things. For x from pi,

    E[grad k1] = 0                     as a loss, k1 does nothing at all
    E[grad k2] = grad KL(pi || ref)
    E[grad k3] = grad KL(ref || pi)    the other direction

because the sampling itself depends on the weights, which a sample does not show. With
the ratio rho = pi / pi_old in front (its value is 1 when pi_old = pi, its gradient is
not), E[grad (rho k3)] = grad KL(pi || ref): DeepSeek-V3.2, section 3.1.

All take logp_RN and ref_RN, log-probs of the same tokens, and return kl_RN.

Shape suffixes: R rows, N tokens.
"""

from __future__ import annotations

from torch import Tensor


def k1(logp_RN: Tensor, ref_RN: Tensor) -> Tensor:
    """-log r."""
    return logp_RN - ref_RN


def k2(logp_RN: Tensor, ref_RN: Tensor) -> Tensor:
    """(log r)^2 / 2."""
    return (ref_RN - logp_RN).square() / 2


def k3(logp_RN: Tensor, ref_RN: Tensor) -> Tensor:
    """r - 1 - log r; what DeepSeekMath subtracts (arXiv 2402.03300, equation 4)."""
    log_r = ref_RN - logp_RN
    # expm1 keeps the digits that exp(x) - 1 loses near 0.
    return log_r.expm1() - log_r
