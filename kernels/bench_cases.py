"""What the benchmark times: each operation, and what stands beside it.

To time a new operation, add a `Bench` to `all_benches`. Beside every kernel:

- eager: PyTorch's own operator, if it has one; it may be one hand-written kernel;
- reference: the same in small PyTorch operations, one kernel for each;
- compile: `torch.compile` of the reference;
- a peer: the same operation from a public kernel library, if it is installed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import rms_norm as rms_norm_module
from kernels import sinkhorn as sinkhorn_module
from kernels import softmax as softmax_module
from kernels.bench_check import DTYPES
from kernels.bench_liger import liger_sinkhorn
from kernels.operation import Cost, KernelSpec

EPS = 1e-6
Function = Callable[..., Tensor]


@dataclass(frozen=True)
class Bench:
    """One operation to time.

    Attributes:
        name: "softmax".
        kernel: the public function; on a GPU it launches the kernel.
        reference: the oracle, float64-capable.
        eager: PyTorch's own; None if it has none.
        peer: returns the peer's function; raises ImportError without it.
        peer_name: the distribution that holds it.
        inputs: (R, N, dtype, generator) -> the arguments, all differentiable.
        cost, backward_cost: (R, N, dtype) -> Cost.
        shapes: (R, N), or whatever two sizes the operation has.
        specs: the operation's configurations.
        dtypes: those that the kernel reads.
        odd: a shape that no block size divides, to be checked too.
        axes: what the two numbers of a shape are.
    """

    name: str
    kernel: Function
    reference: Function
    eager: Function | None
    peer: Callable[[], Function]
    peer_name: str
    inputs: Callable[[int, int, torch.dtype, torch.Generator], tuple[Tensor, ...]]
    cost: Callable[[int, int, torch.dtype], Cost]
    backward_cost: Callable[[int, int, torch.dtype], Cost]
    shapes: Sequence[tuple[int, int]]
    specs: Sequence[KernelSpec]
    dtypes: Sequence[torch.dtype] = DTYPES
    odd: tuple[int, int] = (37, 1021)
    axes: str = "rows × elements of a row"


def all_benches() -> list[Bench]:
    """Every operation that is timed."""
    return [
        Bench(
            name="softmax",
            kernel=softmax_module.softmax,
            reference=softmax_module.softmax_reference,
            eager=lambda x: torch.softmax(x, -1),
            peer=_liger_softmax,
            peer_name="liger-kernel",
            inputs=lambda *size: (_normal(*size),),
            cost=softmax_module.softmax_cost,
            backward_cost=softmax_module.softmax_backward_cost,
            shapes=softmax_module.BENCHMARK_SHAPES,
            specs=softmax_module.SPECS,
        ),
        Bench(
            name="rms_norm",
            kernel=lambda x, weight: rms_norm_module.rms_norm(x, weight, EPS),
            reference=lambda x, w: rms_norm_module.rms_norm_reference(x, w, EPS),
            eager=lambda x, weight: F.rms_norm(x, weight.shape, weight, EPS),
            peer=_liger_rms_norm,
            peer_name="liger-kernel",
            inputs=_rows_and_weight,
            cost=rms_norm_module.rms_norm_cost,
            backward_cost=rms_norm_module.rms_norm_backward_cost,
            shapes=rms_norm_module.BENCHMARK_SHAPES,
            specs=rms_norm_module.SPECS,
        ),
        Bench(
            name="sinkhorn",
            kernel=sinkhorn_module.sinkhorn,
            reference=sinkhorn_module.sinkhorn_reference,
            eager=None,
            peer=liger_sinkhorn,
            peer_name="liger-kernel",
            inputs=_logits,
            cost=sinkhorn_module.sinkhorn_cost,
            backward_cost=sinkhorn_module.sinkhorn_backward_cost,
            shapes=sinkhorn_module.BENCHMARK_SHAPES,
            specs=sinkhorn_module.SPECS,
            dtypes=(torch.float32,),
            odd=(3, 1021),
            axes="streams n × matrices of n × n",
        ),
    ]


def _normal(R: int, N: int, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    x_RN = torch.randn(R, N, generator=generator, device=generator.device)
    return x_RN.to(dtype).requires_grad_()


def _rows_and_weight(
    R: int, N: int, dtype: torch.dtype, generator: torch.Generator
) -> tuple[Tensor, ...]:
    weight = 1 + 0.1 * torch.randn(N, generator=generator, device=generator.device)
    return _normal(R, N, dtype, generator), weight.to(dtype).requires_grad_()


def _logits(
    n: int, M: int, dtype: torch.dtype, generator: torch.Generator
) -> tuple[Tensor, ...]:
    logits_nnM = torch.randn(n, n, M, generator=generator, device=generator.device)
    return (logits_nnM.to(dtype).requires_grad_(),)


def _liger_softmax() -> Function:
    from liger_kernel.ops.softmax import LigerSoftmaxFunction

    function: Any = LigerSoftmaxFunction
    return lambda x: function.apply(x)


def _liger_rms_norm() -> Function:
    from liger_kernel.ops.rms_norm import LigerRMSNormFunction

    function: Any = LigerRMSNormFunction
    # offset 0; "llama": only the mean square is computed in float32. Not in place,
    # which would overwrite the gradient that the next round uses again.
    return lambda x, weight: function.apply(x, weight, EPS, 0.0, "llama", False)
