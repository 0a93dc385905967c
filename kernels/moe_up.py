"""Gate and up in plain PyTorch; the kernel follows."""

import torch.nn.functional as F
from torch import Tensor

from kernels.grouped_gemm import grouped_gemm


def moe_up_reference(
    x: Tensor, gu: Tensor, slot: Tensor, row: Tensor, first: Tensor
) -> Tensor:
    g, u = grouped_gemm(x[slot.long() // row.shape[1]], gu, first).chunk(2, 1)
    return F.silu(g) * u


moe_up = moe_up_reference
