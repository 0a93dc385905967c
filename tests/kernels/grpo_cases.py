"""Inputs of GRPO's losses, and the losses once more, as their papers write them."""

import torch

from kernels.chosen_tokens import IGNORED
from kernels.selected_logprob import selected_logprob_reference
from tests.kernels.logprob_cases import chosen


def inputs(shape, generator):
    """Logits, targets, advantages of both signs, and log p of two other policies: the
    one that sampled is near enough that some ratios are clipped and some are not."""

    def near(logp, distance):
        noise = torch.randn(logp.shape, generator=generator, dtype=torch.float64)
        return logp + distance * noise

    B, _, V = shape
    logits = 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
    targets = chosen(shape[:2], V, generator)
    advantages = torch.randn((B,), generator=generator, dtype=torch.float64)
    logp, _ = selected_logprob_reference(logits, targets)
    return [logits, targets, advantages, near(logp, 0.3), near(logp, 0.5)]


def loss_by_the_papers(
    kind, logits, targets, advantages, old, ref, eps, beta, corrected, longest
):
    """One number, in float64: token by token, averaged as each paper does.

    Args:
        kind: "grpo", "dr_grpo", "dapo", "gspo" or "cispo".
        eps: (low, high).
        longest: what Dr. GRPO divides by.
    """
    total, all_tokens = 0.0, (targets != IGNORED).sum()
    for z_TV, y_T, A, old_T, ref_T in zip(
        logits, targets, advantages, old, ref, strict=True
    ):
        at = [t for t, y in enumerate(y_T.tolist()) if y != IGNORED]
        logp = z_TV.log_softmax(-1)[at, y_T[at]]
        rho = (logp - old_T[at]).exp()
        if kind == "gspo":
            rho = rho.log().mean().exp().expand(len(at))
        bounded = rho.clip(1 - eps[0], 1 + eps[1])
        gain = torch.minimum(rho * A, bounded * A)
        if kind == "cispo":
            gain = bounded.detach() * A * logp
        k3 = (ref_T[at] - logp).exp() - (ref_T[at] - logp) - 1
        loss = (beta * (rho * k3 if corrected else k3) - gain).sum()
        of_one = {"dr_grpo": len(logits) * longest, "dapo": all_tokens}
        of_one |= {"cispo": all_tokens}
        total = total + loss / of_one.get(kind, len(logits) * max(len(at), 1))
    return total


def averaged(kind, loss_BT, targets, longest):
    """The same averages, of the losses that the operation gives."""
    n_B = (targets != IGNORED).sum(1)
    if kind == "dr_grpo":
        return loss_BT.sum() / (len(loss_BT) * longest)
    if kind in ("dapo", "cispo"):
        return loss_BT.sum() / n_B.sum()
    return (loss_BT.sum(1) / n_B.clamp(min=1)).mean()
