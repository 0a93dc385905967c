"""Five losses of the GRPO family and their gradients, to 1e-6, by two other ways.

One is written here, in float64, token by token (`grpo_cases.py`). The other is
liger-kernel's chunked loss, plain PyTorch by other authors. It makes logits from hidden
states itself: with the identity as output matrix they are what it is given.
"""

import math
from functools import cache, partial

import pytest
import torch

from kernels.chosen_tokens import IGNORED
from kernels.grpo_loss import grpo_loss
from tests.kernels.grpo_cases import averaged, inputs, loss_by_the_papers
from tests.kernels.harness import DEVICE, INTERPRET, needs_a_kernel

SHAPE = (4, 4, 11)
LONGEST = 9
"""What Dr. GRPO divides by."""

KINDS = {
    "grpo": ("grpo", 0.2, 0.2),
    "dr_grpo": ("grpo", 0.2, 0.2),
    "dapo": ("grpo", 0.2, 0.28),
    "gspo": ("gspo", 0.05, 0.1),
    "cispo": ("cispo", math.inf, 0.3),
}
"""Loss -> surrogate, eps_low, eps_high: so that some are clipped on each side."""

KL = {
    "no KL": (0.0, False),
    "KL": (0.04, False),
    "corrected KL": (0.04, True),
}
every_loss = pytest.mark.parametrize("kind", KINDS)
every_kl = pytest.mark.parametrize("kl", KL)
both_ways = pytest.mark.parametrize(
    "losses",
    [partial(grpo_loss, interpret=INTERPRET), grpo_loss],
    ids=["kernel", "as called"],
)


def rounded_inputs():
    """In float32, on the CPU, with padding at the end of two sequences."""
    values = inputs(SHAPE, torch.Generator().manual_seed(7))
    values[1].clamp_(min=0)
    values[1][1, 3:] = values[1][2, 2:] = IGNORED
    return [x.float() if x.is_floating_point() else x for x in values]


@cache
def ours(losses, kind, kl):
    """Loss and gradient of the operation, on the CPU."""
    surrogate, eps_low, eps_high = KINDS[kind]
    beta, corrected = KL[kl]
    given = [x.to(DEVICE) for x in rounded_inputs()]
    logits = given[0].requires_grad_()
    loss_BT, *_ = losses(
        logits,
        *given[1:],
        surrogate=surrogate,
        eps_low=eps_low,
        eps_high=eps_high,
        beta=beta,
        bias_corrected=corrected,
    )
    loss = averaged(kind, loss_BT, given[1], LONGEST)
    (gradient,) = torch.autograd.grad(loss, logits)
    return loss.detach().cpu(), gradient.cpu()


def assert_equal(found, wanted):
    for mine, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine.double(), right.double(), rtol=0, atol=1e-6)


@needs_a_kernel
@both_ways
@every_kl
@every_loss
def test_equal_to_the_papers_in_float64(losses, kind, kl):
    exact = [x.double() if x.is_floating_point() else x for x in rounded_inputs()]
    logits = exact[0].requires_grad_()
    _, *eps = KINDS[kind]
    loss = loss_by_the_papers(kind, *exact, eps, *KL[kl], LONGEST)
    wanted = loss.detach(), *torch.autograd.grad(loss, logits)
    assert_equal(ours(losses, kind, kl), wanted)


@needs_a_kernel
@both_ways
@every_kl
@every_loss
def test_equal_to_liger_kernel(losses, kind, kl):
    chunked = pytest.importorskip(
        "liger_kernel.chunked_loss",
        reason="liger-kernel is not installed here (it needs Triton: Linux only)",
    )
    _, eps_low, eps_high = KINDS[kind]
    beta, corrected = KL[kl]
    # Its bound for CISPO is the weight itself, and it has no lower one.
    theirs = chunked.LigerFusedLinearGRPOLoss(
        beta=beta,
        compiled=False,
        use_ref_model=beta > 0,
        epsilon_low=eps_low,
        epsilon_high=1 + eps_high if kind == "cispo" else eps_high,
        loss_type="grpo" if kind == "gspo" else kind,
        max_completion_length=LONGEST,
        importance_sampling_level="sequence" if kind == "gspo" else "token",
        use_bias_correction_kl=corrected,
    )
    logits, targets, A_B, old, ref = rounded_inputs()
    logits.requires_grad_()
    counts = targets != IGNORED
    identity = torch.eye(SHAPE[-1])
    loss, _ = theirs(
        logits, identity, targets.clamp(min=0), counts.float(), A_B,
        ref_per_token_logps=ref if beta else None, old_per_token_logps=old,
    )  # fmt: skip
    wanted = loss.detach(), *torch.autograd.grad(loss, logits)
    assert_equal(ours(losses, kind, kl), wanted)


@every_loss
def test_the_inputs_tell_clipped_from_not(kind):
    """Otherwise the losses above would agree for too little reason."""
    surrogate, eps_low, eps_high = KINDS[kind]
    logits, targets, A_B, old, _ = rounded_inputs()
    counts = targets != IGNORED
    logp = logits.log_softmax(-1).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    log_ratio = (logp - old).where(counts, 0.0)
    if surrogate == "gspo":
        log_ratio = (log_ratio.sum(1) / counts.sum(1))[:, None].expand(counts.shape)
    rho, sign = log_ratio.exp(), A_B[:, None].sign()
    too_much = counts & (rho > 1 + eps_high)
    too_little = counts & (rho < 1 - eps_low)
    bounded = (too_much & (sign > 0)) | (too_little & (sign < 0))
    if surrogate == "cispo":
        bounded = too_much
    assert bounded.any() and (counts & ~bounded).any()
    assert (too_much | too_little).sum() > bounded.sum() or surrogate == "cispo"
