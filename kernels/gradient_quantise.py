# mypy: allow-untyped-defs
"""All of u in 8 bits: every 256 neighbours share one scale, the error stays in u.

    s_j = max over group j of |u_i| / 127        q_i = round(u_i / s_j)
    u_i <- u_i - s_j q_i

(Quantisation with error feedback: Seide et al. 2014, "1-Bit Stochastic Gradient Descent
and its Application to Data-Parallel Distributed Training of Speech DNNs", section 2.
Here with 8 bits, and a scale for each group, so that one outlier coarsens no more than
its 255 neighbours.) What the receiver takes for u_i is s_j q_i, off by at most half of
s_j; that error is added to the next step's gradient.

Codes are integers from -127 to 127, equally far apart, where the codes of FP8 are
denser near 0. For scales the conventions of `fp8_scaling` hold: s is at least 2^-126,
so a group of zeros has codes 0; a group with a NaN or an infinity has s = infinity and
codes 0, so that all of it comes back as NaN, and its residual is NaN too.

Shapes: u and q have one shape, any; seen as a row of n elements they are cut into
J = ceil(n / 256) groups of neighbours, of which the last may be shorter. scale_J has
one number for each.

Cost:   9 n + 4 J bytes (read u; write q, scale, u)                    6 n FLOPs

u is read once: a group's maximum must be known before its first code, so a program
holds whole groups in registers. Nothing here has a gradient: communication begins when
the backward has ended.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.fp8_cast import scale_of, size_of
from kernels.fp8_scaling import SMALLEST_SCALE
from kernels.gradient_operands import check_state
from kernels.language import cdiv, jit, tl
from kernels.operation import Cost, launch_spec, route

GROUP = 256
"""Neighbours that share a scale."""

LARGEST = 127
"""The largest code; -128 is not used, so that u and -u have opposite codes."""

BENCHMARK_SHAPES = ((6_553_600,), (65_536_000,))
"""(n,): a bucket as DDP makes it, of 25 MB in float32, and ten of them in one."""


def gradient_quantise_reference(u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same in plain PyTorch, on any device, changing nothing: the oracle.

    Args:
        u: any shape, any floating dtype; computed in float32.

    Returns:
        q, of u's shape, int8; scale, (J,), float32; and the residual, of u's shape,
        float32.
    """
    u_n = u.float().flatten()
    n = u_n.numel()
    # A 0 at the end changes no maximum, and what becomes of it is cut off.
    u_JK = F.pad(u_n, (0, -n % GROUP)).view(-1, GROUP)
    size_JK = u_JK.abs().nan_to_num(nan=torch.inf, posinf=torch.inf)
    scale_J1 = (size_JK.amax(1, keepdim=True) / LARGEST).clamp(min=SMALLEST_SCALE)
    # To nearest, ties to even. Infinity / infinity has no integer: 0.
    q_JK = (u_JK / scale_J1).round().nan_to_num(0.0).to(torch.int8)
    # In float64 the product is exact, so that the residual is rounded once.
    left_JK = (u_JK.double() - scale_J1.double() * q_JK.double()).float()
    q_n, left_n = q_JK.flatten()[:n], left_JK.flatten()[:n]
    return q_n.view(u.shape), scale_J1[:, 0], left_n.view(u.shape)


@jit
def gradient_quantise_kernel(
    u_ptr, q_ptr, scale_ptr, n, J, LARGEST: tl.constexpr, BLOCK_J: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    # In 64 bits, since a bucket may have more than 2**31 elements.
    j = tl.program_id(0).to(tl.int64) * BLOCK_J + tl.arange(0, BLOCK_J)
    i = j[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    # 0 beyond the bucket: every group's maximum is at least that.
    u = tl.load(u_ptr + i, mask=i < n, other=0.0)
    scale = scale_of(tl.max(size_of(u), axis=1), LARGEST, False)
    tl.store(scale_ptr + j, scale, mask=j < J)
    y = tl.div_rn(u, scale[:, None])
    # Infinity / infinity is NaN, and has no integer.
    y = tl.where(y == y, y, 0.0)
    # From 2^23 to 2^24 the spacing of float32 is 1: adding 1.5 * 2^23 rounds to a whole
    # number, ties to even, and taking it away again is exact.
    q = (y + 12582912.0) - 12582912.0
    tl.store(q_ptr + i, q.to(tl.int8), mask=i < n)
    # One rounding only, whether or not a compiler fuses products and sums by itself.
    tl.store(u_ptr + i, tl.fma(-scale[:, None], q, u), mask=i < n)


def group_launch() -> dict[str, Any]:
    """A program takes 4 groups, a warp for each: 8 neighbours a thread."""
    return {
        "LARGEST": LARGEST,
        "BLOCK_J": 4,
        "GROUP": GROUP,
        "num_warps": 4,
        "num_stages": 1,
    }


def gradient_quantise(
    u: Tensor, interpret: bool | None = None
) -> tuple[Tensor, Tensor]:
    """Codes and scales of u, the error left in u: kernel on a GPU, else reference.

    Args:
        u: any shape, float32, contiguous: becomes the residual u - s q.
        interpret: True runs the kernel interpreted on a CPU (slow).

    Returns:
        q, of u's shape, int8, and scale, (J,), float32, without a gradient: bit for
        bit those of the reference, and so is the residual, but that one NaN is as good
        as another.

    Raises:
        KernelInputError: u is not as above.
        ValueError: interpret=True where kernels are not interpreted.
    """
    check_state("gradient_quantise", u, "u")
    u, n = u.detach(), u.numel()
    if route(u, interpret) == "reference":
        q, scale_J, residual = gradient_quantise_reference(u)
        u.copy_(residual)
        return q, scale_J
    launch, J = group_launch(), cdiv(n, GROUP)
    q = torch.empty(u.shape, dtype=torch.int8, device=u.device)
    scale_J = u.new_empty(J)
    if n:  # a GPU refuses a grid of no programs
        with torch.cuda.device_of(u):  # Triton launches on the current GPU
            gradient_quantise_kernel[(cdiv(J, launch["BLOCK_J"]),)](
                u, q, scale_J, n, J, **launch
            )
    return q, scale_J


def gradient_quantise_cost(n: int) -> Cost:
    """u read once, codes, scales and residual written once.

    |u|, maximum, division, rounding; a product and a difference.
    """
    return Cost(bytes=9 * n + 4 * cdiv(n, GROUP), flops=6 * n)


SPECS = [
    launch_spec(
        gradient_quantise_kernel, torch.float32, group_launch(), "to int8", u_ptr="*",
        q_ptr="*i8", scale_ptr="*fp32", n="i32", J="i32",
    )
]  # fmt: skip
"""The configuration that `gradient_quantise` launches at BENCHMARK_SHAPES."""
