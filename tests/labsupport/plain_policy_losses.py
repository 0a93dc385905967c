"""Policy losses as their papers write them, one completion and one token at a time.

Slow, and without anything of `labsupport.rl`: what the fast ones are held against.
Each takes lists: for each completion the log-probs of its tokens (0-dim tensors), those
of pi_old, those of the reference, and its advantage.
"""

from __future__ import annotations

import torch


def smaller_gain(rho, A, low, high):
    """min(rho A, clip(rho) A)."""
    if rho > 1 + high:
        kept = torch.full_like(rho, 1 + high)
    elif rho < 1 - low:
        kept = torch.full_like(rho, 1 - low)
    else:
        kept = rho
    return min(rho * A, kept * A)


def penalty(logp, ref, beta):
    """beta times ref / pi - log(ref / pi) - 1."""
    return beta * ((ref - logp).exp() - (ref - logp) - 1)


def grpo(logp, old, ref, A, beta, longest):
    total = 0.0
    for i in range(len(logp)):
        own = 0.0
        for t in range(len(logp[i])):
            rho = (logp[i][t] - old[i][t]).exp()
            gain = smaller_gain(rho, A[i], 0.2, 0.2)
            own = own + gain - penalty(logp[i][t], ref[i][t], beta)
        total = total + own / len(logp[i])
    return -total / len(logp)


def dr_grpo(logp, old, ref, A, beta, longest):
    total = 0.0
    for i in range(len(logp)):
        for t in range(len(logp[i])):
            rho = (logp[i][t] - old[i][t]).exp()
            gain = smaller_gain(rho, A[i], 0.2, 0.2)
            total = total + gain - penalty(logp[i][t], ref[i][t], beta)
    return -total / (len(logp) * longest)


def dapo(logp, old, ref, A, beta, longest):
    total, count = 0.0, 0
    for i in range(len(logp)):
        for t in range(len(logp[i])):
            rho = (logp[i][t] - old[i][t]).exp()
            gain = smaller_gain(rho, A[i], 0.2, 0.28)
            total = total + gain - penalty(logp[i][t], ref[i][t], beta)
            count += 1
    return -total / count


def gspo(logp, old, ref, A, beta, longest):
    total = 0.0
    for i in range(len(logp)):
        T = len(logp[i])
        whole = sum(logp[i][t] - old[i][t] for t in range(T))
        s = (whole / T).exp()
        far = sum(penalty(logp[i][t], ref[i][t], beta) for t in range(T)) / T
        total = total + smaller_gain(s, A[i], 3e-4, 4e-4) - far
    return -total / len(logp)


def cispo(logp, old, ref, A, beta, longest):
    total, count = 0.0, 0
    for i in range(len(logp)):
        for t in range(len(logp[i])):
            weight = min((logp[i][t] - old[i][t]).exp().item(), 5.0)
            gain = weight * A[i] * logp[i][t]
            total = total + gain - penalty(logp[i][t], ref[i][t], beta)
            count += 1
    return -total / count


def reinforce(logp, old, ref, A, beta, longest):
    total, count = 0.0, 0
    for i in range(len(logp)):
        for t in range(len(logp[i])):
            gain = A[i] * logp[i][t]
            total = total + gain - penalty(logp[i][t], ref[i][t], beta)
            count += 1
    return -total / count
