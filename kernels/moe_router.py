# mypy: allow-untyped-defs, disable-error-code="assignment"
"""Router of a mixture of experts: which K of E a token visits, and their shares.

    s_e = sigmoid(logit_e)
    chosen = the K experts with the largest s_e + b_e
    weight_e = scale s_e / sum of s over chosen        for e in chosen

for each token: DeepSeek-V3 (arXiv 2412.19437), section 2.1.2, Eq. 13-16. The bias b
only selects; it is how loss-free balancing (arXiv 2408.15664, Alg. 1) moves load
from one expert to another without a gradient. `scale` is not in the equations, but
in V3's configuration (routed_scaling_factor, 2.5).

Group-limited routing: experts lie in groups of equal size, each on its own machines.
A group's score is the sum of its two largest s_e + b_e; only the best `kept_groups`
groups stay (section 2.1.2, "node-limited routing"; the two are K = 8 over 4 groups).
The others' scores become -inf, not 0, as a biased score may be negative.

Of equal scores the smaller index wins, among groups as well. Scores are compared in
float32: those that differ by less than it can tell are equal. The denominator is at
least 1e-20, for tokens whose sigmoids vanish. With dweight_k the gradient that
arrives, S the sum and s_k the chosen scores,

    dlogit_e = scale (dweight_k - sum_j dweight_j s_j / S) / S * s_k (1 - s_k)

for the e that was chosen as k, and 0 for all others. The choice has no gradient, so
neither has the bias.

Shapes: T tokens, E experts, K experts a token. logits_TE, bias_E (float32), index_TK
(int32, best first), weight_TK (float32). e is the bytes of a logit: 4 for float32, in
which routers are kept, 2 for float16 and bfloat16.

Cost, forward:   e T E + 4 E + 8 T K bytes                  T (E (5 + K) + 3 K) FLOPs
                 (read logits, bias; write index, weight)
      backward:  e T E + (8 + e) T K bytes                              14 T K FLOPs
                 (read dweight, index, the chosen logits; write dlogits)

A FLOP here is also a comparison: K times the largest of E. (The groups add some.) At
E = 128 and K = 8 that is 3 for each byte: only the bytes count. Sorting would do more
work, and a row of scores fits into registers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.language import cdiv, jit, next_power_of_2, tl
from kernels.moe_routing import (
    MAX_EXPERTS,
    MAX_TOP_K,
    TOP_K,
    check_count,
    looks_at_values,
)
from kernels.operation import (
    Cost,
    KernelInputError,
    accumulator,
    check_beside,
    check_kernel_tensor,
    launch_spec,
    refuse_second_derivative,
    route,
    side_by_side,
)

BENCHMARK_SHAPES = ((8192, 1, 128), (32768, 1, 128), (8192, 8, 32))
"""(T, groups, experts a group), K = 8: Qwen3-30B-A3B's, DeepSeek-V3's with 4 of 8
groups kept."""

MIN_SUM: Any = tl.constexpr(1e-20) if tl.constexpr else 1e-20
"""The least denominator of a weight."""


def moe_router_reference(
    logits: Tensor,
    bias: Tensor,
    top_k: int,
    groups: int = 1,
    kept_groups: int | None = None,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """The router in plain PyTorch, differentiable, on any device: the oracle.

    Args:
        logits: (T, E), any floating dtype. Half precisions are computed in float32.
        bias: (E,).
        top_k, groups, kept_groups, scale: as in `moe_router`.

    Returns:
        index, (T, K), int32, and weight, (T, K), float64 for float64 logits, else
        float32.
    """
    s_TE = torch.sigmoid(logits.to(accumulator(logits.dtype)))
    biased_TE = s_TE.detach() + bias.detach()
    if groups > 1:
        biased_TGN = biased_TE.unflatten(1, (groups, -1))  # N experts a group
        score_TG = biased_TGN.topk(2, -1).values.sum(-1)
        kept_TH = first_largest(score_TG, kept_groups or groups)
        dropped_TG = torch.ones_like(score_TG, dtype=torch.bool)
        dropped_TG = dropped_TG.scatter(1, kept_TH, False)
        biased_TE = biased_TGN.masked_fill(dropped_TG[..., None], -torch.inf).flatten(1)
    index_TK = first_largest(biased_TE, top_k)
    chosen_TK = s_TE.gather(1, index_TK)
    sum_T1 = chosen_TK.sum(1, keepdim=True).clamp(min=1e-20)
    return index_TK.int(), scale * chosen_TK / sum_T1


def first_largest(score_TN: Tensor, count: int) -> Tensor:
    """Where the `count` largest of each row are, best first, of equals the first.

    `torch.topk` does not say which of equals it takes.
    """
    return score_TN.argsort(dim=1, descending=True, stable=True)[:, :count]


@jit
def drop_groups(
    biased, e, GROUPS: tl.constexpr, KEPT: tl.constexpr, SIZE: tl.constexpr
):
    """-inf in place of the scores of all but the KEPT best groups of SIZE experts."""
    # Every expert carries its group's score, so that groups need no tile of their own.
    group_score = tl.full(biased.shape, float("-inf"), tl.float32)
    for g in tl.static_range(GROUPS):
        in_group = (e >= g * SIZE) & (e < (g + 1) * SIZE)
        scores = tl.where(in_group, biased, float("-inf"))
        best, winner = tl.max(scores, axis=1, return_indices=True)
        scores = tl.where(e == winner[:, None], float("-inf"), scores)
        both = best + tl.max(scores, axis=1)
        group_score = tl.where(in_group, both[:, None], group_score)
    kept = tl.full(biased.shape, 0, tl.int1)
    for _ in tl.static_range(KEPT):
        # The first expert with the best score lies in the first group that has it.
        winner = tl.argmax(group_score, axis=1)
        in_group = e // SIZE == (winner // SIZE)[:, None]
        kept = kept | in_group
        group_score = tl.where(in_group, float("-inf"), group_score)
    return tl.where(kept, biased, float("-inf"))


@jit
def moe_router_forward_kernel(
    logits_ptr, bias_ptr, index_ptr, weight_ptr, logits_stride, scale, T, E,
    K: tl.constexpr, GROUPS: tl.constexpr, KEPT: tl.constexpr, SIZE: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    # In 64 bits, since t * stride passes 2**31 on large tensors.
    t = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    e = tl.arange(0, BLOCK_E)[None, :]
    is_token, is_expert = t < T, e < E
    logits_at = logits_ptr + t[:, None] * logits_stride + e
    logits = tl.load(logits_at, mask=is_token[:, None] & is_expert, other=0.0)
    s = tl.sigmoid(logits.to(tl.float32))
    biased = s + tl.load(bias_ptr + e, mask=is_expert, other=0.0)
    # Beyond the last expert nobody is chosen, nor is a NaN: its comparisons are false.
    biased = tl.where(is_expert & (biased == biased), biased, float("-inf"))
    if GROUPS > 1:
        biased = drop_groups(biased, e, GROUPS, KEPT, SIZE)
    chosen = ()  # a tuple of K blocks, one number a token
    total = tl.zeros((BLOCK_T,), dtype=tl.float32)
    for k in tl.static_range(K):
        winner = tl.argmax(biased, axis=1)  # of equals the first
        is_winner = e == winner[:, None]
        chosen += (tl.sum(tl.where(is_winner, s, 0.0), axis=1),)
        total += chosen[k]
        biased = tl.where(is_winner, float("-inf"), biased)
        tl.store(index_ptr + t * K + k, winner, mask=is_token)
    per_score = scale / tl.maximum(total, MIN_SUM)
    for k in tl.static_range(K):
        tl.store(weight_ptr + t * K + k, chosen[k] * per_score, mask=is_token)


@jit
def moe_router_backward_kernel(
    logits_ptr, index_ptr, dweight_ptr, dlogits_ptr, logits_stride, dweight_stride,
    scale, T, E, K: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    t = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    e = tl.arange(0, BLOCK_E)[None, :]
    is_token = t < T
    expert, s, dweight = (), (), ()  # tuples of K blocks, one number a token
    total = tl.zeros((BLOCK_T,), dtype=tl.float32)
    inner = tl.zeros((BLOCK_T,), dtype=tl.float32)  # sum of dweight s
    for k in tl.static_range(K):
        expert += (tl.load(index_ptr + t * K + k, mask=is_token, other=0),)
        logit_at = logits_ptr + t * logits_stride + expert[k]
        logit = tl.load(logit_at, mask=is_token, other=0.0).to(tl.float32)
        s += (tl.sigmoid(logit),)
        dweight_at = dweight_ptr + t * dweight_stride + k
        dweight += (tl.load(dweight_at, mask=is_token, other=0.0),)
        total += s[k]
        inner += dweight[k] * s[k]
    # Where the sum is replaced by MIN_SUM, it has no gradient.
    per_score = scale / tl.maximum(total, MIN_SUM)
    mean = tl.where(total >= MIN_SUM, inner / tl.maximum(total, MIN_SUM), 0.0)
    dlogits = tl.zeros((BLOCK_T, BLOCK_E), dtype=tl.float32)
    for k in tl.static_range(K):
        dlogit = (dweight[k] - mean) * per_score * s[k] * (1.0 - s[k])
        # Experts of a token are K different ones, so none is overwritten.
        dlogits = tl.where(e == expert[k][:, None], dlogit[:, None], dlogits)
    dlogits_at = dlogits_ptr + t[:, None] * E + e
    tl.store(dlogits_at, dlogits, mask=is_token[:, None] & (e < E))


def router_launch(E: int, top_k: int) -> dict[str, Any]:
    """How a kernel is launched whose programs hold all scores of their tokens.

    Two tokens, a warp for each, so that the largest of a token's scores is mostly
    found within a warp; more tokens where experts are too few for 32 threads.
    """
    BLOCK_E = next_power_of_2(E)
    return {
        "K": top_k,
        "BLOCK_T": max(256 // BLOCK_E, 2),
        "BLOCK_E": BLOCK_E,
        "num_warps": 2,
        "num_stages": 1,
    }


def forward_launch(E: int, top_k: int, groups: int, kept: int) -> dict[str, Any]:
    """The same, and the groups."""
    sizes = {"GROUPS": groups, "KEPT": kept, "SIZE": E // groups}
    return {**router_launch(E, top_k), **sizes}


class _Router(torch.autograd.Function):
    """Ties the two kernels together for autograd."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, bias: Tensor, launch: dict[str, Any], scale: float
    ) -> tuple[Tensor, Tensor]:
        logits_TE, bias_E = side_by_side(logits), bias.contiguous()
        (T, E), K = logits_TE.shape, launch["K"]
        index_TK = logits.new_empty((T, K), dtype=torch.int32)
        weight_TK = logits.new_empty((T, K), dtype=torch.float32)
        if T:  # a GPU refuses a grid of no programs
            moe_router_forward_kernel[(cdiv(T, launch["BLOCK_T"]),)](
                logits_TE,
                bias_E,
                index_TK,
                weight_TK,
                logits_TE.stride(0),
                scale,
                T,
                E,
                **launch,
            )
        ctx.save_for_backward(logits_TE, index_TK)
        ctx.scale = scale
        ctx.mark_non_differentiable(index_TK)
        return index_TK, weight_TK

    @staticmethod
    def backward(
        ctx: Any, _: Tensor, dweight: Tensor
    ) -> tuple[Tensor, None, None, None]:
        refuse_second_derivative("moe_router")
        logits_TE, index_TK = ctx.saved_tensors
        # What arrives has any strides: weight.sum() sends one number, T K times.
        dweight_TK = side_by_side(dweight)
        T, E = logits_TE.shape
        launch = router_launch(E, index_TK.shape[1])
        dlogits_TE = logits_TE.new_empty((T, E))
        if T:
            moe_router_backward_kernel[(cdiv(T, launch["BLOCK_T"]),)](
                logits_TE,
                index_TK,
                dweight_TK,
                dlogits_TE,
                logits_TE.stride(0),
                dweight_TK.stride(0),
                ctx.scale,
                T,
                E,
                **launch,
            )
        return dlogits_TE, None, None, None


def moe_router(
    logits: Tensor,
    bias: Tensor,
    top_k: int,
    groups: int = 1,
    kept_groups: int | None = None,
    scale: float = 1.0,
    interpret: bool | None = None,
    check_finite: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """Choose each token's experts: the kernel on a GPU, the reference on a CPU.

    Args:
        logits: (T, E) with 1 <= E <= MAX_EXPERTS; float32 (best), float16 or
            bfloat16, any strides; experts that lie apart are copied.
        bias: (E,), float32, on logits' device. It has no gradient.
        top_k: K, at most MAX_TOP_K and the experts that are left to choose from.
        groups: how many groups the experts lie in, side by side; 1 is no groups.
        kept_groups: how many of them a token may visit; None is all.
        scale: what a token's weights add up to.
        interpret: True runs the kernels interpreted on a CPU (slow).
        check_finite: whether to refuse NaN and infinity. Left out: on a CPU yes, on a
            GPU no, as waiting for the answer takes longer than the kernel. Not
            refused, NaN is not chosen; where all are NaN, so are the weights.

    Returns:
        index, (T, K), int32, best first, and weight, (T, K), float32, whatever
        logits' dtype. The kernels differentiate once.

    Raises:
        KernelInputError: an input is not as above.
        ValueError: interpret=True where kernels are not interpreted.
    """
    kept = _check(logits, bias, top_k, groups, kept_groups)
    if looks_at_values(logits, check_finite):
        for name, value in (("logits", logits), ("bias", bias)):
            if not value.isfinite().all():
                raise KernelInputError(
                    f"moe_router: {name} must be finite; "
                    f"{int((~value.isfinite()).sum())} of {value.numel()} are NaN or "
                    "infinite."
                )
    if route(logits, interpret) == "reference":
        return moe_router_reference(logits, bias, top_k, groups, kept, scale)
    launch = forward_launch(logits.shape[1], top_k, groups, kept)
    with torch.cuda.device_of(logits):  # Triton launches on the current GPU
        index, weight = _Router.apply(logits, bias, launch, float(scale))
    return index, weight


def _check(
    logits: Tensor, bias: Tensor, top_k: int, groups: int, kept_groups: int | None
) -> int:
    """Refuse what `moe_router` says it does; how many groups are kept."""
    check_kernel_tensor("moe_router", logits, "logits")
    if logits.ndim != 2 or not 1 <= logits.shape[1] <= MAX_EXPERTS:
        raise KernelInputError(
            "moe_router: logits must have shape (T, E), tokens by experts, with E 1 to "
            f"{MAX_EXPERTS}; got {tuple(logits.shape)}."
        )
    E = logits.shape[1]
    check_beside("moe_router", logits, "bias", bias, (E,), "(E,)", x_name="logits")
    check_count("moe_router", "groups", groups, E)
    if groups > 1 and (E % groups or 2 * groups > E):
        raise KernelInputError(
            "moe_router: groups must be of equal size, at least 2 experts each; got "
            f"{groups} groups of {E} experts."
        )
    kept = groups if kept_groups is None else kept_groups
    check_count("moe_router", "kept_groups", kept, groups)
    left = E // groups * kept
    check_count("moe_router", "top_k", top_k, min(left, MAX_TOP_K))
    return kept


def moe_router_cost(T: int, E: int, K: int, dtype: torch.dtype) -> Cost:
    """The forward: logits and bias read once, index and weight written once."""
    moved = dtype.itemsize * T * E + 4 * E + 8 * T * K
    return Cost(bytes=moved, flops=T * (E * (5 + K) + 3 * K))


def moe_router_backward_cost(T: int, E: int, K: int, dtype: torch.dtype) -> Cost:
    """The backward: dweight, index and chosen logits read, dlogits written."""
    moved = dtype.itemsize * T * E + (8 + dtype.itemsize) * T * K
    return Cost(bytes=moved, flops=14 * T * K)


SPECS = [
    spec
    for G, N in sorted({(G, N) for _, G, N in BENCHMARK_SHAPES})
    for spec in (
        launch_spec(
            moe_router_forward_kernel, torch.float32,
            forward_launch(G * N, TOP_K, G, max(G // 2, 1)), f"E={G * N} groups={G}",
            logits_ptr="*", bias_ptr="*fp32", index_ptr="*i32", weight_ptr="*fp32",
            logits_stride="i32", scale="fp32", T="i32", E="i32",
        ),
        launch_spec(
            moe_router_backward_kernel, torch.float32, router_launch(G * N, TOP_K),
            f"E={G * N}", logits_ptr="*", index_ptr="*i32", dweight_ptr="*fp32",
            dlogits_ptr="*", logits_stride="i32", dweight_stride="i32", scale="fp32",
            T="i32", E="i32",
        ),
    )
]  # fmt: skip
"""Every configuration that `moe_router` launches at BENCHMARK_SHAPES: float32."""
