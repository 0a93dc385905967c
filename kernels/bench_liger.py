"""liger-kernel's Sinkhorn with our axes, so that it can be timed beside ours.

It normalises rows first and columns last, and keeps tokens first: it works on
the transpose of our matrices, as DeepSeek's code does. Its kernel also makes
the sigmoids of H^pre and H^post, so its inputs hold n^2 + 2 n coefficients a
token. Its times therefore include a copy of the logits and of the cotangent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def liger_sinkhorn(iterations: int = 20) -> Callable[[Tensor], Tensor]:
    """logits (n, n, M), float32 -> doubly stochastic matrices.

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
