"""What the benchmark times: each operation, and what stands beside it.

To time a new operation, add a `Bench` to `all_benches`. Beside every kernel:

- eager: PyTorch's own operator, if it has one, which may be a hand-written kernel;
- reference: the same in small PyTorch operations, one kernel for each;
- compile: `torch.compile` of the reference;
- a peer: the same operation from a public kernel library, if it is installed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import bench_fp8_gemm, mhc_streams
from kernels import fp8_blocks as fp8_blocks_module
from kernels import fp8_both as fp8_both_module
from kernels import fp8_dequantise as fp8_dequantise_module
from kernels import fp8_gemm as fp8_gemm_module
from kernels import fp8_swiglu as fp8_swiglu_module
from kernels import fp8_tiles as fp8_tiles_module
from kernels import gradient_project as gradient_project_module
from kernels import gradient_quantise as gradient_quantise_module
from kernels import gradient_residual as gradient_residual_module
from kernels import gradient_select as gradient_select_module
from kernels import gradient_stats as gradient_stats_module
from kernels import grouped_gemm as grouped_gemm_module
from kernels import grpo_loss as grpo_loss_module
from kernels import linear_divergence as linear_divergence_module
from kernels import linear_logprob as linear_logprob_module
from kernels import mhc_post as mhc_post_module
from kernels import mhc_pre as mhc_pre_module
from kernels import mhc_project as mhc_project_module
from kernels import moe_combine as moe_combine_module
from kernels import moe_permute as moe_permute_module
from kernels import moe_router as moe_router_module
from kernels import moe_up as moe_up_module
from kernels import rms_norm as rms_norm_module
from kernels import selected_logprob as selected_logprob_module
from kernels import sinkhorn as sinkhorn_module
from kernels import softmax as softmax_module
from kernels import stream_sum as stream_sum_module
from kernels import token_divergence as token_divergence_module
from kernels.bench_liger import (
    liger_grpo_loss,
    liger_linear_divergence,
    liger_linear_logprob,
    liger_sinkhorn,
)
from kernels.chosen_tokens import IGNORED
from kernels.fp8_scaling import quantise_reference
from kernels.moe_routing import TOP_K
from kernels.operation import KERNEL_DTYPES, Cost, KernelSpec

EPS = 1e-6
BETA = 0.04
"""The weight of the KL, as in GRPO's paper."""

Function = Callable[..., Any]


@dataclass(frozen=True)
class Bench:
    """One operation to time.

    Attributes:
        name: "softmax".
        kernel: the public function; on a GPU it launches the kernel.
        reference: the oracle, float64-capable.
        inputs: (*shape, dtype, generator) -> the arguments; those that have a
            gradient require it.
        cost, backward_cost: (*shape, dtype) -> Cost; no backward_cost where nothing
            has a gradient.
        shapes: what is timed.
        specs: the operation's configurations.
        eager: PyTorch's own; None if it has none.
        peer: returns the peer's function; raises ImportError without it. None if
            no public library has the operation.
        peer_name: the distribution that holds it.
        dtypes: in which it is timed.
        odd: a shape that no block size divides, checked beside those timed.
        axes: what the numbers of a shape count.
        tolerances: how many times the gate's TOLERANCE a right result may be off.
        arithmetic: the dtype, by name, whose matrix product bounds it, if that is not
            the one in which it is timed. It is left out on a GPU without it.
    """

    name: str
    kernel: Function
    reference: Function
    inputs: Callable[..., tuple[Tensor, ...]]
    cost: Callable[..., Cost]
    backward_cost: Callable[..., Cost] | None
    shapes: Sequence[tuple[int, ...]]
    specs: Sequence[KernelSpec]
    eager: Function | None = None
    peer: Callable[[], Function] | None = None
    peer_name: str = "liger-kernel"
    dtypes: Sequence[torch.dtype] = KERNEL_DTYPES
    odd: tuple[int, ...] = (37, 1021)
    axes: str = "rows × elements of a row"
    tolerances: float = 1.0
    arithmetic: str | None = None


def all_benches() -> list[Bench]:
    """Every operation that is timed."""
    return [
        Bench(
            name="softmax",
            kernel=softmax_module.softmax,
            reference=softmax_module.softmax_reference,
            eager=lambda x: torch.softmax(x, -1),
            peer=_liger_softmax,
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
            peer=liger_sinkhorn,
            inputs=_logits,
            cost=sinkhorn_module.sinkhorn_cost,
            backward_cost=sinkhorn_module.sinkhorn_backward_cost,
            shapes=sinkhorn_module.BENCHMARK_SHAPES,
            specs=sinkhorn_module.SPECS,
            dtypes=(torch.float32,),
            odd=(3, 1021),
            axes="streams n × matrices of n × n",
        ),
        *_mhc_benches(),
        *_routing_benches(),
        *_expert_benches(),
        *_fp8_gemm_benches(),
        *_quantiser_benches(),
        *_gradient_benches(),
        Bench(
            name="stream_sum",
            kernel=stream_sum_module.stream_sum,
            reference=stream_sum_module.stream_sum_reference,
            inputs=_parallel_streams,
            cost=stream_sum_module.stream_sum_cost,
            backward_cost=stream_sum_module.stream_sum_backward_cost,
            shapes=stream_sum_module.BENCHMARK_SHAPES,
            specs=stream_sum_module.SPECS,
            dtypes=(torch.bfloat16,),
            odd=(3, 37, 1021),
            axes="streams × rows × elements",
        ),
        *_logprob_benches(),
        *_divergence_benches(),
    ]


def _mhc_benches() -> list[Bench]:
    """The stream kernels of mHC, as it trains: bfloat16 streams, n = 4.

    liger-kernel's projection is another operation: it returns h / r.
    """
    streams: dict[str, Any] = {
        "dtypes": (torch.bfloat16,),
        "odd": (37, 4, 1021),
        "axes": "tokens × streams × elements",
    }
    return [
        Bench(
            name="mhc_project",
            kernel=mhc_project_module.mhc_project,
            reference=mhc_project_module.mhc_project_reference,
            inputs=_streams_and_phi,
            cost=mhc_project_module.mhc_project_cost,
            backward_cost=mhc_project_module.mhc_project_backward_cost,
            shapes=mhc_streams.BENCHMARK_SHAPES,
            specs=mhc_project_module.SPECS,
            **streams,
        ),
        Bench(
            name="mhc_pre",
            kernel=mhc_pre_module.mhc_pre,
            reference=mhc_pre_module.mhc_pre_reference,
            inputs=_streams_and_pre,
            cost=mhc_pre_module.mhc_pre_cost,
            backward_cost=mhc_pre_module.mhc_pre_backward_cost,
            shapes=mhc_streams.BENCHMARK_SHAPES,
            specs=mhc_pre_module.SPECS,
            peer=_liger_mhc_pre,
            **streams,
        ),
        Bench(
            name="mhc_post",
            kernel=mhc_post_module.mhc_post,
            reference=mhc_post_module.mhc_post_reference,
            inputs=_streams_output_and_maps,
            cost=mhc_post_module.mhc_post_cost,
            backward_cost=mhc_post_module.mhc_post_backward_cost,
            shapes=mhc_streams.BENCHMARK_SHAPES,
            specs=mhc_post_module.SPECS,
            peer=_liger_mhc_post,
            **streams,
        ),
    ]


def _routing_benches() -> list[Bench]:
    """To the experts and back: 8 experts a token, half of the groups kept.

    The router stays in float32. Permute has integers only, which no roofline of
    FLOPs is measured for; its float32 is a name.
    """
    return [
        Bench(
            name="moe_router",
            kernel=_routed(moe_router_module.moe_router),
            reference=_routed(moe_router_module.moe_router_reference),
            inputs=_scores_apart,
            cost=lambda T, G, N, dtype: moe_router_module.moe_router_cost(
                T, G * N, TOP_K, dtype
            ),
            backward_cost=lambda T, G, N, dtype: (
                moe_router_module.moe_router_backward_cost(T, G * N, TOP_K, dtype)
            ),
            shapes=moe_router_module.BENCHMARK_SHAPES,
            specs=moe_router_module.SPECS,
            dtypes=(torch.float32,),
            odd=(37, 3, 21),
            axes="tokens × groups × experts of a group",
        ),
        Bench(
            name="moe_permute",
            kernel=lambda index, each: moe_permute_module.moe_permute(index, len(each)),
            reference=lambda index, each: moe_permute_module.moe_permute_reference(
                index, len(each)
            ),
            inputs=_chosen_experts,
            cost=lambda T, E, dtype: moe_permute_module.moe_permute_cost(T, E, TOP_K),
            backward_cost=None,
            shapes=moe_permute_module.BENCHMARK_SHAPES,
            specs=moe_permute_module.SPECS,
            dtypes=(torch.float32,),
            axes="tokens × experts",
        ),
        Bench(
            name="moe_combine",
            kernel=moe_combine_module.moe_combine,
            reference=moe_combine_module.moe_combine_reference,
            inputs=_rows_and_weights,
            cost=moe_combine_module.moe_combine_cost,
            backward_cost=moe_combine_module.moe_combine_backward_cost,
            shapes=moe_combine_module.BENCHMARK_SHAPES,
            specs=moe_combine_module.SPECS,
            dtypes=(torch.bfloat16,),
            odd=(37, 3, 1021),
            axes="tokens × experts of a token × elements",
        ),
    ]


def _expert_benches() -> list[Bench]:
    """The experts themselves, in bfloat16, beside PyTorch's grouped product.

    The reference goes through the experts in a loop. `moe_up` rounds on the way to
    its gradients: emulated in PyTorch with 64 experts, the worst of 1e7 elements of
    dW was off by 1.1 tolerances, and here there are 4e8.
    """
    experts: dict[str, Any] = {"dtypes": (torch.bfloat16,)}
    return [
        Bench(
            name="moe_up",
            kernel=moe_up_module.moe_up,
            reference=moe_up_module.moe_up_reference,
            eager=_grouped_mm_up,
            inputs=_tokens_and_experts,
            cost=moe_up_module.moe_up_cost,
            backward_cost=moe_up_module.moe_up_backward_cost,
            shapes=moe_up_module.BENCHMARK_SHAPES,
            # Its backward launches grouped_gemm's product too.
            specs=[*moe_up_module.SPECS, *grouped_gemm_module.SPECS],
            odd=(37, 3, 5, 141, 67),
            axes="tokens × experts of a token × experts × width × hidden width",
            tolerances=2.0,
            **experts,
        ),
        Bench(
            name="grouped_gemm",
            kernel=grouped_gemm_module.grouped_gemm,
            reference=grouped_gemm_module.grouped_gemm_reference,
            eager=_grouped_mm,
            inputs=_rows_and_experts,
            cost=grouped_gemm_module.grouped_gemm_cost,
            backward_cost=grouped_gemm_module.grouped_gemm_backward_cost,
            shapes=grouped_gemm_module.BENCHMARK_SHAPES,
            specs=grouped_gemm_module.SPECS,
            odd=(301, 5, 141, 133),
            axes="rows × experts × width in × width out",
            **experts,
        ),
    ]


def _fp8_gemm_benches() -> list[Bench]:
    """The FP8 product, c in bfloat16, with either kind of scales for b.

    Beside it stands the bfloat16 product of the same numbers.
    """
    return [
        Bench(
            name=name,
            kernel=bench_fp8_gemm.ours,
            reference=bench_fp8_gemm.reference,
            eager=bench_fp8_gemm.torch_scaled_mm,
            peer=lambda: bench_fp8_gemm.bfloat16_product,
            peer_name="bfloat16 product",
            inputs=partial(bench_fp8_gemm.operands, tile),
            cost=partial(fp8_gemm_module.fp8_gemm_cost, tile=tile),
            backward_cost=None,
            shapes=fp8_gemm_module.BENCHMARK_SHAPES,
            specs=fp8_gemm_module.SPECS,
            dtypes=(torch.bfloat16,),
            odd=(37, 141, 301),
            axes="rows of a × rows of b × columns",
            arithmetic="float8_e4m3fn",
        )
        for name, tile in (
            ("fp8_gemm", fp8_gemm_module.BLOCKS),
            ("fp8_gemm_tiles", fp8_gemm_module.TILES),
        )
    ]


def _quantiser_benches() -> list[Bench]:
    """Into FP8 and back, from bfloat16 to E4M3: activations, weights, SwiGLU.

    Nothing has a gradient. Codes and scales must be the reference's to the bit, but
    for SwiGLU's, whose exp is another.
    """
    quantisers: dict[str, Any] = {"dtypes": (torch.bfloat16,), "backward_cost": None}
    return [
        Bench(
            name="fp8_tiles",
            kernel=_bits(fp8_tiles_module.fp8_tiles),
            reference=_bits(fp8_tiles_module.fp8_tiles_reference),
            inputs=_matrices(1),
            cost=fp8_tiles_module.fp8_tiles_cost,
            shapes=fp8_tiles_module.BENCHMARK_SHAPES,
            specs=fp8_tiles_module.SPECS,
            **quantisers,
        ),
        Bench(
            name="fp8_tiles_both",
            kernel=_bits(fp8_both_module.fp8_tiles_both),
            reference=_bits(fp8_both_module.fp8_tiles_both_reference),
            inputs=_matrices(1),
            cost=fp8_both_module.fp8_tiles_both_cost,
            shapes=fp8_both_module.BENCHMARK_SHAPES,
            specs=fp8_both_module.SPECS,
            **quantisers,
        ),
        Bench(
            name="fp8_blocks",
            kernel=_bits(partial(fp8_blocks_module.fp8_blocks, transposed=True)),
            reference=_bits(
                partial(fp8_blocks_module.fp8_blocks_reference, transposed=True)
            ),
            inputs=_matrices(1),
            cost=partial(fp8_blocks_module.fp8_blocks_cost, transposed=True),
            shapes=fp8_blocks_module.BENCHMARK_SHAPES,
            specs=fp8_blocks_module.SPECS,
            **quantisers,
        ),
        Bench(
            name="fp8_swiglu",
            kernel=fp8_swiglu_module.fp8_swiglu,
            reference=fp8_swiglu_module.fp8_swiglu_reference,
            inputs=_matrices(2),
            cost=fp8_swiglu_module.fp8_swiglu_cost,
            shapes=fp8_swiglu_module.BENCHMARK_SHAPES,
            specs=fp8_swiglu_module.SPECS,
            **quantisers,
        ),
        Bench(
            name="fp8_dequantise",
            kernel=partial(fp8_dequantise_module.fp8_dequantise, dtype=torch.bfloat16),
            reference=partial(
                fp8_dequantise_module.fp8_dequantise_reference, dtype=torch.bfloat16
            ),
            inputs=lambda *size: quantise_reference(*_matrices(1)(*size)),
            cost=fp8_dequantise_module.fp8_dequantise_cost,
            shapes=fp8_dequantise_module.BENCHMARK_SHAPES,
            specs=fp8_dequantise_module.SPECS,
            **quantisers,
        ),
    ]


def _gradient_benches() -> list[Bench]:
    """Gradient fusion, of gradients in float32. Nothing has a gradient itself.

    The kernels change their input in place: each call goes on from what the one before
    it left. Their time does not depend on the numbers, but for `gradient_select`'s. The
    references leave their inputs alone and write somewhere else.
    """
    gradients: dict[str, Any] = {"dtypes": (torch.float32,), "backward_cost": None}
    flat: dict[str, Any] = {"odd": (37_777,), "axes": "elements", **gradients}
    matrix: dict[str, Any] = {
        "odd": (37, 141, 5),
        "axes": "rows × columns × directions",
        **gradients,
    }
    return [
        Bench(
            name="gradient_stats",
            kernel=gradient_stats_module.gradient_stats,
            reference=gradient_stats_module.gradient_stats_reference,
            inputs=_tensors(lambda n: ((n,), (n,), (n,))),
            cost=gradient_stats_module.gradient_stats_cost,
            shapes=gradient_stats_module.BENCHMARK_SHAPES,
            specs=gradient_stats_module.SPECS,
            **flat,
        ),
        Bench(
            name="gradient_select",
            kernel=_select_and_put_back,
            reference=lambda u, size: gradient_select_module.gradient_select_reference(
                u, 1.0, len(size), torch.bfloat16
            )[:3],
            inputs=_few_above_one,
            cost=lambda k, each, dtype: gradient_select_module.gradient_select_cost(
                k * each, k, torch.bfloat16
            ),
            shapes=gradient_select_module.BENCHMARK_SHAPES,
            specs=gradient_select_module.SPECS,
            axes="elements sent × elements for each",
            **gradients,
        ),
        Bench(
            name="gradient_quantise",
            kernel=lambda u: (*gradient_quantise_module.gradient_quantise(u), u),
            reference=gradient_quantise_module.gradient_quantise_reference,
            inputs=_tensors(lambda n: ((n,),)),
            cost=lambda n, dtype: gradient_quantise_module.gradient_quantise_cost(n),
            shapes=gradient_quantise_module.BENCHMARK_SHAPES,
            specs=gradient_quantise_module.SPECS,
            **flat,
        ),
        Bench(
            name="gradient_project",
            kernel=gradient_project_module.gradient_project,
            reference=gradient_project_module.gradient_project_reference,
            inputs=_tensors(lambda M, N, R: ((M, N), (M, N), (N, R))),
            cost=gradient_project_module.gradient_project_cost,
            shapes=gradient_project_module.BENCHMARK_SHAPES,
            specs=gradient_project_module.SPECS,
            **matrix,
        ),
        Bench(
            name="gradient_residual",
            kernel=lambda u, p, r: (
                gradient_residual_module.gradient_residual(u, p, r),
                u,
            ),
            reference=lambda u, p, r: (
                gradient_residual_module.gradient_residual_reference(u, p, r, u.dtype)
            ),
            inputs=_tensors(lambda M, N, R: ((M, N), (M, R), (N, R))),
            cost=gradient_residual_module.gradient_residual_cost,
            shapes=gradient_residual_module.BENCHMARK_SHAPES,
            specs=gradient_residual_module.SPECS,
            **matrix,
        ),
    ]


def _logprob_benches() -> list[Bench]:
    """The output layer in reinforcement learning, in bfloat16, at T = 1.

    What is compared with liger-kernel is what both return: no entropy.
    """
    tokens: dict[str, Any] = {"dtypes": (torch.bfloat16,)}
    return [
        Bench(
            name="selected_logprob",
            kernel=selected_logprob_module.selected_logprob,
            reference=selected_logprob_module.selected_logprob_reference,
            inputs=_logits_and_chosen,
            cost=selected_logprob_module.selected_logprob_cost,
            backward_cost=selected_logprob_module.selected_logprob_backward_cost,
            shapes=selected_logprob_module.BENCHMARK_SHAPES,
            specs=selected_logprob_module.SPECS,
            axes="tokens × entries of the vocabulary",
            **tokens,
        ),
        Bench(
            name="linear_logprob",
            kernel=lambda *given: linear_logprob_module.linear_logprob(*given)[0],
            reference=lambda *given: linear_logprob_module.linear_logprob_reference(
                *given
            )[0],
            peer=liger_linear_logprob,
            inputs=_hidden_and_chosen,
            cost=linear_logprob_module.linear_logprob_cost,
            backward_cost=linear_logprob_module.linear_logprob_backward_cost,
            shapes=linear_logprob_module.BENCHMARK_SHAPES,
            specs=linear_logprob_module.SPECS,
            odd=(37, 1021, 67),
            axes="tokens × entries of the vocabulary × width",
            tolerances=2.0,  # the gradient of logits is rounded on the way
            **tokens,
        ),
        Bench(
            name="grpo_loss",
            kernel=lambda *given: grpo_loss_module.grpo_loss(*given, beta=BETA)[0],
            reference=lambda *given: grpo_loss_module.grpo_loss_reference(
                *given, beta=BETA
            )[0],
            peer=partial(liger_grpo_loss, BETA),
            inputs=_answers_of_a_group,
            cost=grpo_loss_module.grpo_loss_cost,
            backward_cost=grpo_loss_module.grpo_loss_backward_cost,
            shapes=grpo_loss_module.BENCHMARK_SHAPES,
            specs=[*grpo_loss_module.SPECS, *selected_logprob_module.SPECS],
            odd=(3, 7, 1021),
            axes="sequences × tokens × entries of the vocabulary",
            **tokens,
        ),
    ]


def _divergence_benches() -> list[Bench]:
    """Distillation, in bfloat16, at T = 1: the forward KL, and Jensen and Shannon's.

    The latter has half as many tokens: its reference keeps so many tensors of N V
    numbers that in float64 8192 tokens would not fit. What is compared with
    liger-kernel is what both return: the mean over tokens.
    """
    benches = []
    for suffix, beta, N in (("", 0.0, 8192), ("_jsd", 0.5, 4096)):
        settings: dict[str, Any] = {"beta": beta}
        benches += [
            Bench(
                name=f"token_divergence{suffix}",
                kernel=partial(token_divergence_module.token_divergence, **settings),
                reference=partial(
                    token_divergence_module.token_divergence_reference, **settings
                ),
                inputs=_two_logits,
                cost=partial(token_divergence_module.token_divergence_cost, **settings),
                backward_cost=partial(
                    token_divergence_module.token_divergence_backward_cost, **settings
                ),
                shapes=[
                    (N, *rest) for _, *rest in token_divergence_module.BENCHMARK_SHAPES
                ],
                specs=token_divergence_module.SPECS,
                axes="tokens × entries of the vocabulary",
                dtypes=(torch.bfloat16,),
            ),
            Bench(
                name=f"linear_divergence{suffix}",
                kernel=_mean(linear_divergence_module.linear_divergence, **settings),
                reference=_mean(
                    linear_divergence_module.linear_divergence_reference, **settings
                ),
                peer=partial(liger_linear_divergence, beta),
                inputs=_two_output_layers,
                cost=partial(
                    linear_divergence_module.linear_divergence_cost, **settings
                ),
                backward_cost=partial(
                    linear_divergence_module.linear_divergence_backward_cost, **settings
                ),
                shapes=[
                    (N, *rest) for _, *rest in linear_divergence_module.BENCHMARK_SHAPES
                ],
                specs=linear_divergence_module.SPECS,
                odd=(37, 1021, 67, 45),
                axes="tokens × entries of the vocabulary × width × teacher's width",
                tolerances=2.0,  # the gradient of logits is rounded on the way
                dtypes=(torch.bfloat16,),
            ),
        ]
    return benches


def _mean(divergence: Function, **settings: Any) -> Function:
    return lambda *given: divergence(*given, **settings).mean()


def _select_and_put_back(u: Tensor, size: Tensor) -> tuple[Tensor, ...]:
    """What is above 1 in bfloat16, put back into u for the next call.

    Otherwise that would find nothing. It is timed too, and not in the cost.
    """
    k = len(size)
    sent = gradient_select_module.gradient_select(u, 1.0, k, torch.bfloat16)
    u.index_add_(0, sent[0], sent[1].to(u.dtype))
    return sent


def _few_above_one(
    k: int, each: int, dtype: torch.dtype, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """k each elements up to 1/2, but that k anywhere are 1 to 2; and those k alone."""
    device = generator.device
    u = 0.5 * torch.rand(k * each, generator=generator, device=device)
    size = 1 + torch.rand(k, generator=generator, device=device)
    order = torch.rand(k * each, generator=generator, device=device).argsort()
    u[order[:k]] = size
    return u.to(dtype), size.to(dtype)


def _tensors(sizes: Callable[..., tuple[tuple[int, ...], ...]]) -> Function:
    """(*shape, dtype, generator) -> normal numbers, without gradients, of the sizes
    that a shape has."""

    def inputs(*size: Any) -> tuple[Tensor, ...]:
        *shape, dtype, generator = size
        return tuple(
            _normal(*each, dtype, generator).detach() for each in sizes(*shape)
        )

    return inputs


def _bits(quantiser: Function) -> Function:
    """Codes and scales as the integers of their bits, which the gate compares exactly.

    A view: nothing is computed or copied.
    """
    integers = {1: torch.uint8, 4: torch.int32}

    def quantised(x: Tensor) -> tuple[Tensor, ...]:
        return tuple(y.view(integers[y.itemsize]) for y in quantiser(x))

    return quantised


def _matrices(count: int) -> Function:
    """(*shape, dtype, generator) -> matrices of normal numbers, without gradients."""
    return lambda *size: tuple(_normal(*size).detach() for _ in range(count))


def _routed(router: Function) -> Function:
    """The router on logits_TGN and bias_GN, N experts in each of G groups."""

    def route(logits: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        G = len(bias)
        index, weight = router(
            logits.flatten(1), bias.flatten(), TOP_K, G, max(G // 2, 1)
        )
        return index, weight

    return route


def _scores_apart(
    T: int, G: int, N: int, dtype: torch.dtype, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """Logits and biases of which no two experts of a token have nearly equal scores.

    Among many random ones some differ by less than float32 can tell, and the kernel
    would be called wrong for what it cannot know. Here a token's sigmoids are E
    levels, a step of 1 / E apart, in any order. Biases are whole steps, and a part of
    a step that each expert has for itself; it is random, so that groups, whose scores
    are sums of two, are no more alike than by chance.
    """
    E, device = G * N, generator.device
    order_TE = torch.rand(T, E, generator=generator, device=device).argsort(1)
    logits_TE = torch.logit((order_TE + 0.5) / E)
    whole_E = torch.randint(-3, 4, (E,), generator=generator, device=device)
    part_E = torch.randperm(E, generator=generator, device=device)
    part_E = (part_E + 0.5 * torch.rand(E, generator=generator, device=device)) / E
    bias_E = (whole_E + part_E) / E
    logits_TGN = logits_TE.to(dtype).view(T, G, N)
    return logits_TGN.requires_grad_(), bias_E.view(G, N)


def _chosen_experts(
    T: int, E: int, dtype: torch.dtype, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """TOP_K different experts for each token, and one number for each expert."""
    order_TE = torch.rand(T, E, generator=generator, device=generator.device).argsort(1)
    return order_TE[:, :TOP_K].int().contiguous(), order_TE.new_zeros(E)


def _rows_and_weights(
    T: int, K: int, D: int, dtype: torch.dtype, generator: torch.Generator
) -> tuple[Tensor, ...]:
    row_R = torch.randperm(T * K, generator=generator, device=generator.device)
    weight_TK = _normal(T, K, torch.float32, generator)
    return _normal(T * K, D, dtype, generator), weight_TK, row_R.view(T, K).int()


def _tokens_and_experts(
    T: int, K: int, E: int, D: int, H: int, dtype: torch.dtype, generator: Any
) -> tuple[Tensor, ...]:
    """K different experts for each token, by chance, and gates of about size 1."""
    order_TE = torch.rand(T, E, generator=generator, device=generator.device).argsort(1)
    routing = moe_permute_module.moe_permute_reference(order_TE[:, :K], E)
    gate_up_ED2H = _weights(E, D, 2 * H, dtype, generator)
    return _normal(T, D, dtype, generator), gate_up_ED2H, *routing


def _rows_and_experts(
    R: int, E: int, C: int, N: int, dtype: torch.dtype, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """Rows of experts drawn by chance."""
    device = generator.device
    expert_R = torch.randint(E, (R, 1), generator=generator, device=device)
    *_, first_E1 = moe_permute_module.moe_permute_reference(expert_R, E)
    weight_ECN = _weights(E, C, N, dtype, generator)
    return _normal(R, C, dtype, generator), weight_ECN, first_E1


def _weights(
    E: int, C: int, N: int, dtype: torch.dtype, generator: torch.Generator
) -> Tensor:
    """Of a size that keeps a row's: normal numbers by 1 / sqrt(C)."""
    weight = _normal(E, C, N, torch.float32, generator).detach()
    return weight.div_(C**0.5).to(dtype).requires_grad_()


def _grouped_mm(x: Tensor, weight: Tensor, first: Tensor) -> Tensor:
    return F.grouped_mm(x, weight, offs=first[1:])


def _grouped_mm_up(
    x: Tensor, gate_up: Tensor, slot: Tensor, row: Tensor, first: Tensor
) -> Tensor:
    """The rows copied, one product for gate and up, and SwiGLU."""
    x_RD = x.index_select(0, slot // row.shape[1])
    gate, up = _grouped_mm(x_RD, gate_up, first).chunk(2, -1)
    return F.silu(gate) * up


def _normal(*size: Any) -> Tensor:
    """(*shape, dtype, generator) -> normal numbers, differentiable."""
    *shape, dtype, generator = size
    x = torch.randn(shape, generator=generator, device=generator.device)
    return x.to(dtype).requires_grad_()


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


def _streams_and_phi(
    M: int, n: int, C: int, dtype: torch.dtype, generator: torch.Generator
) -> tuple[Tensor, ...]:
    phi_PK = _normal(n * n + 2 * n, n * C, torch.float32, generator).detach()
    # Kept the way it is read, as a parameter should be.
    return _normal(M, n, C, dtype, generator), phi_PK.T.requires_grad_()


def _streams_and_pre(
    M: int, n: int, C: int, dtype: torch.dtype, generator: torch.Generator
) -> tuple[Tensor, ...]:
    pre_nM = _normal(n, M, torch.float32, generator)
    return _normal(M, n, C, dtype, generator), pre_nM


def _streams_output_and_maps(
    M: int, n: int, C: int, dtype: torch.dtype, generator: torch.Generator
) -> tuple[Tensor, ...]:
    f_MC = _normal(M, C, dtype, generator)
    post_nM = _normal(n, M, torch.float32, generator)
    res_nnM = _normal(n, n, M, torch.float32, generator)
    return _normal(M, n, C, dtype, generator), f_MC, post_nM, res_nnM


def _parallel_streams(
    P: int, R: int, D: int, dtype: torch.dtype, generator: torch.Generator
) -> tuple[Tensor, ...]:
    logits_RP = _normal(R, P, torch.float32, generator)
    return _normal(P, R, D, dtype, generator), logits_RP


def _logits_and_chosen(
    N: int, V: int, dtype: torch.dtype, generator: torch.Generator
) -> tuple[Tensor, ...]:
    return _normal(N, V, dtype, generator), _chosen((N,), V, generator)


def _hidden_and_chosen(
    N: int, V: int, D: int, dtype: torch.dtype, generator: torch.Generator
) -> tuple[Tensor, ...]:
    weight_VD = _normal(V, D, torch.float32, generator).detach()
    weight_VD = weight_VD.div_(D**0.5).to(dtype).requires_grad_()  # logits of size 1
    hidden_ND = _normal(N, D, dtype, generator)
    return hidden_ND, weight_VD, _chosen((N,), V, generator)


def _two_logits(*size: Any) -> tuple[Tensor, ...]:
    """The student's and the teacher's, which has no gradient."""
    return _normal(*size), _normal(*size).detach()


def _two_output_layers(
    N: int, V: int, D: int, E: int, dtype: torch.dtype, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """Hidden states and output matrices that make logits of size 1, the student's and
    the teacher's, which have no gradient."""
    hidden_ND, weight_VD, _ = _hidden_and_chosen(N, V, D, dtype, generator)
    hidden_NE, weight_VE, _ = _hidden_and_chosen(N, V, E, dtype, generator)
    return hidden_ND, weight_VD, hidden_NE.detach(), weight_VE.detach()


def _answers_of_a_group(
    B: int, T: int, V: int, dtype: torch.dtype, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """One update after sampling: ratios around 1, a few of them clipped.

    The last token is ignored, as liger-kernel takes none there.
    """
    device = generator.device
    logits_BTV = _normal(B, T, V, dtype, generator)
    targets_BT = _chosen((B, T), V, generator)
    targets_BT[:, -1] = IGNORED
    advantages_B = torch.randn(B, generator=generator, device=device)
    chosen_BT = logits_BTV.detach().gather(2, targets_BT.clamp(min=0)[..., None])
    lse_BT = torch.stack([z_TV.float().logsumexp(1) for z_TV in logits_BTV.detach()])
    logp_BT = chosen_BT.squeeze(2) - lse_BT
    far_BT = 0.2 * torch.randn(2, B, T, generator=generator, device=device)
    return logits_BTV, targets_BT, advantages_B, *(logp_BT + far_BT)


def _chosen(shape: tuple[int, ...], V: int, generator: torch.Generator) -> Tensor:
    return torch.randint(V, shape, generator=generator, device=generator.device)


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


def _liger_mhc_pre() -> Function:
    from liger_kernel.ops.mhc import LigerMHCPreFunction

    function: Any = LigerMHCPreFunction
    # Coefficients in its layout, tokens first: the copy is under 1 % of the bytes.
    return lambda x, pre: function.apply(x, pre.T)


def _liger_mhc_post() -> Function:
    from liger_kernel.ops.mhc import LigerMHCPostResFunction

    function: Any = LigerMHCPostResFunction
    # It too has the output stream first, so res is not transposed.
    return lambda x, f, post, res: function.apply(x, f, post.T, res.permute(2, 0, 1))
