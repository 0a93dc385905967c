"""liger-kernel's operations with our axes, so that they can be timed beside ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def liger_sinkhorn(iterations: int = 20) -> Callable[[Tensor], Tensor]:
    """logits (n, n, M), float32 -> doubly stochastic matrices.

    It normalises rows first and columns last, and keeps tokens first: it works on
    the transpose of our matrices, as DeepSeek's code does. Its kernel also makes
    the sigmoids of H^pre and H^post, so its inputs hold n^2 + 2 n coefficients a
    token. Its times therefore include a copy of the logits and of the cotangent.

    Raises:
        ImportError: liger-kernel is not installed, or lacks mHC.
    """
    from liger_kernel.ops.mhc import mhc_sinkhorn_bwd, mhc_split_sinkhorn_fwd

    class Sinkhorn(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, logits_nnM: Tensor) -> Tensor:
            n, _, M = logits_nnM.shape
            mixed_MK = logits_nnM.new_zeros(M, n * n + 2 * n)
            transposed_Mnn = logits_nnM.permute(2, 1, 0)
            mixed_MK[:, 2 * n :].view(M, n, n).copy_(transposed_Mnn)
            bias_K, one = mixed_MK.new_zeros(n * n + 2 * n), mixed_MK.new_ones(1)
            _, _, out_Mnn = mhc_split_sinkhorn_fwd(
                mixed_MK,
                bias_K,
                one,
                one,
                one,
                tmax=iterations,
                pre_eps=0.0,
                sinkhorn_eps=0.0,
                post_mult=2.0,
            )
            ctx.save_for_backward(mixed_MK, bias_K, one)
            return out_Mnn.permute(2, 1, 0)

        @staticmethod
        def backward(ctx: Any, dout_nnM: Tensor) -> Tensor:
            mixed_MK, bias_K, one = ctx.saved_tensors
            dout_Mnn = dout_nnM.permute(2, 1, 0).contiguous()
            dlogits_Mnn = mhc_sinkhorn_bwd(
                mixed_MK, bias_K, one, dout_Mnn, tmax=iterations, sinkhorn_eps=0.0
            )
            return dlogits_Mnn.permute(2, 1, 0)

    function: Any = Sinkhorn
    return lambda logits_nnM: function.apply(logits_nnM)


def liger_linear_logprob() -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """hidden (N, D), weight (V, D), targets (N,) -> logp (N,), by chunks of both.

    What its GRPO loss makes of hidden states, in plain PyTorch. The name begins with an
    underscore: it is no interface, and another version may lack it.

    Raises:
        ImportError: liger-kernel is not installed, or is another version.
    """
    from liger_kernel.chunked_loss import fused_linear_ppo

    function: Any = fused_linear_ppo._ChunkedSelectiveLogProbFunction
    entries = fused_linear_ppo._SELECTIVE_LOGPROB_VOCAB_CHUNK_SIZE
    return lambda hidden_ND, weight_VD, targets_N: function.apply(
        hidden_ND, weight_VD, targets_N, None, 1.0, entries
    )


def liger_grpo_loss(beta: float) -> Callable[..., Tensor]:
    """logits, targets, advantages, old and reference log p -> loss (B, T).

    It takes the logits of one token more than there are targets, as a model gives them:
    the last of our tokens has to be ignored.

    Raises:
        ImportError: liger-kernel is not installed, or lacks GRPO.
    """
    from liger_kernel.ops.grpo_loss import GrpoLossFunction

    function: Any = GrpoLossFunction

    def losses(
        logits_BTV: Tensor, targets_BT: Tensor, advantages_B: Tensor, *policies: Tensor
    ) -> Tensor:
        old_BT, ref_BT = (logp_BT[:, :-1].contiguous() for logp_BT in policies)
        loss_BT, *_ = function.apply(
            logits_BTV,
            old_BT,
            ref_BT,
            targets_BT[:, :-1].contiguous(),
            advantages_B,
            None,  # every token counts
            1.0,  # the temperature
            beta,
            0.2,  # eps_low and eps_high
            0.2,
            False,  # not in place: the next round needs the logits
            "grpo",
            None,
            False,  # a loss for each token
        )
        return F.pad(loss_BT, (0, 1))

    return losses


def liger_linear_divergence(beta: float) -> Callable[..., Tensor]:
    """Hidden states and weights of student and teacher -> the mean over tokens.

    What its distillation makes of them by chunks of tokens, in plain PyTorch, compiled
    on a GPU. Gradients are made on the way: the way back only hands them on.

    Raises:
        ImportError: liger-kernel is not installed, or lacks distillation.
    """
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    def mean(hidden_ND: Tensor, *others: Tensor) -> Tensor:
        loss: Any = LigerFusedLinearJSDLoss(
            weight_hard_loss=0.0,
            weight_soft_loss=1.0,
            beta=beta,
            compiled=hidden_ND.is_cuda,
        )
        labels_N = torch.zeros(
            len(hidden_ND), dtype=torch.int64, device=hidden_ND.device
        )
        return loss(hidden_ND, *others, labels_N)

    return mean
