# mypy: allow-untyped-defs
"""The loss of each token in GRPO and its relatives, from logits to their gradient.

    l_t = logp_t - old_t              rho_t = exp(l_t)              d_t = ref_t - logp_t
    loss_t = - min(rho_t A, clip(rho_t) A) + beta kl_t       kl_t = exp(d_t) - d_t - 1

for each token t of a sequence with advantage A: logp its log-probability under the
policy that is trained (`selected_logprob.py`), old under the one that sampled it, ref
under the one to stay close to; clip(rho) is between 1 - eps_low and 1 + eps_high (GRPO,
arXiv 2402.03300, Eq. 3 and 4; two bounds: DAPO, arXiv 2503.14476, Eq. 10). `surrogate`
names what stands before the KL:

    "grpo"   a ratio for each token, as above; also Dr. GRPO's and DAPO's
    "gspo"   one ratio a sequence, rho = exp(mean_t l_t) (arXiv 2507.18071, section 4.1)
    "cispo"  - sg(clip(rho_t)) A logp_t: the weight is clipped and has no gradient, so
             that no token loses its own (MiniMax-M1, arXiv 2506.13585, section 3.1)

As a loss kl_t is biased: on average its gradient is that of KL(ref || pi). With
`bias_corrected` it is rho_t kl_t, whose gradient is that of KL(pi || ref)
(DeepSeek-V3.2, arXiv 2512.02556, Eq. 7). Averages are not taken here. With n_B the
tokens that count,

    GRPO, GSPO    (loss_BT.sum(1) / n_B).mean()
    Dr. GRPO      loss_BT.sum() / (B * longest)            (arXiv 2503.20783)
    DAPO, CISPO   loss_BT.sum() / n_B.sum()

The derivative with respect to logits, with f_t the gradient that arrives at loss_t:

    by_ratio_t = -rho_t A where not clipped, else 0               of loss_t, by l_t
    by_logp_t = beta (1 - exp(d_t))                               of loss_t, by logp_t
    g_t = f_t (by_logp_t + by_ratio_t)          dz = g (1[v = y] - p_v) / temperature

    bias_corrected:   beta rho_t kl_t is added to by_ratio, and beta stands for beta
                      rho_t in by_logp: together beta rho_t (logp_t - ref_t)
    "cispo":          by_logp_t has - clip(rho_t) A besides, and by_ratio_t has no A
    "gspo":           g_t = f_t by_logp_t + (sum_u f_u by_ratio_u) / n

Shapes: B sequences, T tokens, V entries of the vocabulary. z_BTV in float32, float16
or bfloat16; y_BT in int64, or IGNORED (`chosen_tokens.py`); A_B, old_BT, ref_BT and
loss_BT in float32. e is the bytes per element of z: 4 or 2.

Cost, forward:   e B T V + 32 B T + 4 B bytes
                 (read z, y, old, ref, A; write loss, logp, entropy, lse)
                                                             B T (7 V + 15) FLOPs
      backward:  2 e B T V + 36 B T bytes
                 (read z, y, lse, entropy, by_logp, by_ratio and what arrives at loss,
                 logp and entropy; write dz)
                                                             B T (10 V + 4) FLOPs

Only the logits are large, and the kernels of `selected_logprob` move them: read once on
the way, read and written once on the way back. Here is one kernel more, on one number a
token. A sequence's ratio needs all of its tokens' logp before there is a loss: between
two kernels that is a mean of T numbers, inside one it would be a second read of z.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from kernels.chosen_tokens import (
    IGNORED,
    check_targets,
    check_temperature,
    is_number,
)
from kernels.language import cdiv, jit, tl
from kernels.operation import (
    Cost,
    KernelInputError,
    as_rows,
    check_beside,
    check_kernel_tensor,
    launch_spec,
    refuse_second_derivative,
    route,
)
from kernels.selected_logprob import (
    launch_selected_backward,
    launch_selected_logprob,
    selected_logprob_reference,
)

Surrogate = Literal["grpo", "gspo", "cispo"]

BENCHMARK_SHAPES = ((8, 1024, 151936),)
"""(B, T, V) that the benchmark times and the compile check covers: a group of 8 answers
of 1024 tokens, in Qwen2.5's vocabulary."""


def grpo_loss_reference(
    logits: Tensor,
    targets: Tensor,
    advantages: Tensor,
    old_logp: Tensor | None = None,
    ref_logp: Tensor | None = None,
    *,
    surrogate: Surrogate = "grpo",
    eps_low: float = 0.2,
    eps_high: float = 0.2,
    beta: float = 0.0,
    bias_corrected: bool = False,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """The same in plain PyTorch, differentiable by logits, on any device: the oracle.

    Args:
        logits: (B, T, V), any floating dtype. Half precisions are computed in float32.
        targets: (B, T), 0 to V - 1, or IGNORED.
        advantages: (B,).
        old_logp, ref_logp: (B, T), as for `grpo_loss`.
        surrogate, eps_low, eps_high, beta, bias_corrected, temperature: likewise.

    Returns:
        loss, logp and entropy, (B, T): float64 for float64 logits, else float32.
    """
    logp, entropy = selected_logprob_reference(logits, targets, temperature)
    counts = targets != IGNORED
    # Padding may hold anything. Neither policy is trained here, nor is A.
    old = logp if old_logp is None else old_logp.to(logp.dtype).where(counts, 0.0)
    log_ratio = logp - old.detach()
    if surrogate == "gspo":
        log_ratio = sequence_mean(log_ratio, counts)
    rho = log_ratio.exp()
    clipped = rho.clamp(1 - eps_low, 1 + eps_high)
    A_B1 = advantages.detach().to(logp.dtype)[:, None]
    if surrogate == "cispo":
        loss = -clipped.detach() * A_B1 * logp
    else:
        loss = -torch.minimum(rho * A_B1, clipped * A_B1)
    if ref_logp is not None and beta:
        d = ref_logp.detach().to(logp.dtype).where(counts, 0.0) - logp
        kl = d.exp() - d - 1
        loss = loss + beta * (rho * kl if bias_corrected else kl)
    return loss.where(counts, 0.0), logp, entropy


def sequence_mean(x_BT: Tensor, counts_BT: Tensor) -> Tensor:
    """Each sequence's mean of the tokens that count, at every one of its tokens."""
    total_B1 = x_BT.where(counts_BT, 0.0).sum(1, keepdim=True)
    n_B1 = counts_BT.sum(1, keepdim=True).clamp(min=1)  # 0 / 1 for an empty sequence
    return (total_B1 / n_B1).expand(x_BT.shape)


@jit
def grpo_loss_kernel(
    logp_ptr, log_ratio_ptr, ref_ptr, advantage_ptr, target_ptr, loss_ptr, by_logp_ptr,
    by_ratio_ptr, eps_low, eps_high, beta, N, T, CISPO: tl.constexpr,
    CORRECTED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # Of N = B T tokens, one after the other, a block for each program.
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = n < N
    # Of an ignored token nothing is read: with zeros everywhere its loss is 0.
    counts = tl.load(target_ptr + n, mask=inside, other=-1) >= 0
    logp = tl.load(logp_ptr + n, mask=counts, other=0.0)
    rho = tl.exp(tl.load(log_ratio_ptr + n, mask=counts, other=0.0))
    ref = tl.load(ref_ptr + n, mask=counts, other=0.0)
    # Equal, they may both be -inf: a token that a mask of logits forbids.
    d = tl.where(ref == logp, 0.0, ref - logp)
    A = tl.load(advantage_ptr + n // T, mask=counts, other=0.0)
    clipped = tl.minimum(tl.maximum(rho, 1.0 - eps_low), 1.0 + eps_high)
    if CISPO:
        loss = -clipped * A * logp
        by_logp = -clipped * A
        by_ratio = tl.zeros_like(rho)
    else:
        loss = -tl.minimum(rho * A, clipped * A)
        by_logp = tl.zeros_like(rho)
        # The bound holds where it makes the gain smaller, and there it is constant.
        by_ratio = tl.where(clipped * A < rho * A, 0.0, -rho * A)
    kl = tl.exp(d) - d - 1.0
    by_kl = 1.0 - tl.exp(d)
    if CORRECTED:
        by_ratio += beta * rho * kl
        kl *= rho
        by_kl *= rho
    tl.store(loss_ptr + n, loss + beta * kl, mask=inside)
    tl.store(by_logp_ptr + n, by_logp + beta * by_kl, mask=inside)
    tl.store(by_ratio_ptr + n, by_ratio, mask=inside)


def token_launch(cispo: bool, corrected: bool) -> dict[str, Any]:
    """How the kernel is launched: a token for each thread of 4 warps."""
    variant = {"CISPO": cispo, "CORRECTED": corrected}
    return {**variant, "BLOCK": 128, "num_warps": 4, "num_stages": 1}


class _GrpoLoss(torch.autograd.Function):
    """Ties the kernels together for autograd."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        targets: Tensor,
        advantages: Tensor,
        old_logp: Tensor | None,
        ref_logp: Tensor | None,
        surrogate: Surrogate,
        eps_low: float,
        eps_high: float,
        beta: float,
        bias_corrected: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        logits_NV, targets_BT = as_rows(logits), targets.contiguous()
        logp, entropy, lse = launch_selected_logprob(logits_NV, targets_BT, scale)
        log_ratio = torch.zeros_like(logp) if old_logp is None else logp - old_logp
        if surrogate == "gspo":
            log_ratio = sequence_mean(log_ratio, targets_BT >= 0)
        loss, by_logp, by_ratio = (torch.empty_like(logp) for _ in range(3))
        launch = token_launch(surrogate == "cispo", bias_corrected)
        N, T = logp.numel(), logp.shape[1]
        if N:  # a GPU refuses a grid of no programs
            grpo_loss_kernel[(cdiv(N, launch["BLOCK"]),)](
                logp,
                log_ratio.contiguous(),
                # Without a reference d = logp - logp, and kl is 0.
                logp if ref_logp is None or not beta else ref_logp.contiguous(),
                advantages.contiguous(),
                targets_BT,
                loss,
                by_logp,
                by_ratio,
                eps_low,
                eps_high,
                beta,
                N,
                T,
                **launch,
            )
        rows = (logits_NV, targets_BT, lse, entropy, by_logp, by_ratio)
        ctx.save_for_backward(*rows)
        ctx.surrogate, ctx.scale, ctx.shape = surrogate, scale, logits.shape
        return loss, logp, entropy

    @staticmethod
    def backward(
        ctx: Any, dloss: Tensor, dlogp: Tensor, dentropy: Tensor
    ) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("grpo_loss")
        logits_NV, targets, lse, entropy, by_logp, by_ratio = ctx.saved_tensors
        through_ratio = dloss * by_ratio
        if ctx.surrogate == "gspo":  # each token's share of its sequence's ratio
            through_ratio = sequence_mean(through_ratio, targets >= 0)
        g = dlogp + dloss * by_logp + through_ratio
        gradients = (g.contiguous(), dentropy.contiguous())
        dlogits_NV = launch_selected_backward(
            logits_NV, targets, lse, entropy, *gradients, ctx.scale
        )
        return dlogits_NV.view(ctx.shape), *[None] * 10


def grpo_loss(
    logits: Tensor,
    targets: Tensor,
    advantages: Tensor,
    old_logp: Tensor | None = None,
    ref_logp: Tensor | None = None,
    *,
    surrogate: Surrogate = "grpo",
    eps_low: float = 0.2,
    eps_high: float = 0.2,
    beta: float = 0.0,
    bias_corrected: bool = False,
    temperature: float = 1.0,
    interpret: bool | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of each token, its log p and entropy: kernel on a GPU, else reference.

    Args:
        logits: (B, T, V) with V >= 1; float32, float16 or bfloat16. logits[:, t] are
            those of targets[:, t]. Copied if rows have no one distance.
        targets: (B, T), int64, on logits' device: 0 to V - 1, or IGNORED (-100) for a
            token that does not count. On a CPU they are checked, on a GPU trusted.
        advantages: (B,), float32, one number for each sequence.
        old_logp: (B, T), float32: log p when the token was sampled. None: it is this
            policy's own, so all ratios are 1 and only their gradient is left.
        ref_logp: (B, T), float32: log p under the reference. None: no KL.
        surrogate: "grpo", "gspo" or "cispo".
        eps_low, eps_high: 0 or more: ratios are clipped to 1 - eps_low and
            1 + eps_high. math.inf is no bound.
        beta: 0 or more, the weight of the KL; above 0 it needs ref_logp.
        bias_corrected: weigh each token's KL by its ratio.
        temperature: above 0: logits are divided by it.
        interpret: True runs the kernels interpreted on a CPU (slow).

    Returns:
        loss, logp and entropy, (B, T), float32, all 0 for ignored tokens. All have a
        gradient with respect to logits, and to nothing else; the kernels differentiate
        once. From logp come the figures to watch: ratios, KL, the share clipped.

    Raises:
        KernelInputError: an argument is not as above.
        ValueError: interpret=True where kernels are not interpreted.
    """
    check_kernel_tensor("grpo_loss", logits, "logits")
    if logits.ndim != 3 or logits.shape[-1] < 1:
        raise KernelInputError(
            "grpo_loss: logits must have shape (B, T, V), sequences by tokens by at "
            f"least one entry; got {tuple(logits.shape)}."
        )
    B, T, V = logits.shape
    check_targets("grpo_loss", targets, (B, T), "(B, T)", V, logits, "logits")
    check_beside(
        "grpo_loss", logits, "advantages", advantages, (B,), "(B,)", x_name="logits"
    )
    for name, value in (("old_logp", old_logp), ("ref_logp", ref_logp)):
        if value is not None:
            check_beside(
                "grpo_loss", logits, name, value, (B, T), "(B, T)", x_name="logits"
            )
    _check_settings(surrogate, eps_low, eps_high, beta, ref_logp)
    check_temperature("grpo_loss", temperature)
    if route(logits, interpret) == "reference":
        return grpo_loss_reference(
            logits,
            targets,
            advantages,
            old_logp,
            ref_logp,
            surrogate=surrogate,
            eps_low=eps_low,
            eps_high=eps_high,
            beta=beta,
            bias_corrected=bias_corrected,
            temperature=temperature,
        )
    with torch.cuda.device_of(logits):  # Triton launches on the current GPU
        loss, logp, entropy = _GrpoLoss.apply(
            logits,
            targets,
            advantages,
            old_logp,
            ref_logp,
            surrogate,
            float(eps_low),
            float(eps_high),
            float(beta),
            bool(bias_corrected),
            1 / temperature,
        )
    return loss, logp, entropy


def _check_settings(
    surrogate: object,
    eps_low: object,
    eps_high: object,
    beta: object,
    ref_logp: Tensor | None,
) -> None:
    if surrogate not in get_args(Surrogate):
        raise KernelInputError(
            'grpo_loss: surrogate must be "grpo", "gspo" or "cispo"; got '
            f"{surrogate!r}."
        )
    for name, value in (("eps_low", eps_low), ("eps_high", eps_high)):
        if not is_number(value) or not value >= 0:
            raise KernelInputError(
                f"grpo_loss: {name} must be a number of 0 or more; got {value!r}."
            )
    if not is_number(beta) or not 0 <= beta < math.inf:
        raise KernelInputError(
            f"grpo_loss: beta must be a number of 0 or more; got {beta!r}."
        )
    if beta and ref_logp is None:
        raise KernelInputError(
            f"grpo_loss: beta = {beta} weighs a KL to a reference: it needs ref_logp."
        )


def grpo_loss_cost(B: int, T: int, V: int, dtype: torch.dtype) -> Cost:
    """The forward: every input read once; loss, logp, entropy and lse written."""
    moved = B * T * V * dtype.itemsize + 32 * B * T + 4 * B
    return Cost(bytes=moved, flops=B * T * (7 * V + 15))


def grpo_loss_backward_cost(B: int, T: int, V: int, dtype: torch.dtype) -> Cost:
    """The backward: logits, and eight numbers a token, read once; dlogits written."""
    moved = 2 * B * T * V * dtype.itemsize + 36 * B * T
    return Cost(bytes=moved, flops=B * T * (10 * V + 4))


SPECS = [
    launch_spec(
        grpo_loss_kernel, torch.float32, token_launch(cispo, corrected),
        ("cispo" if cispo else "clipped") + (" kl corrected" if corrected else ""),
        logp_ptr="*", log_ratio_ptr="*", ref_ptr="*", advantage_ptr="*",
        target_ptr="*i64", loss_ptr="*", by_logp_ptr="*", by_ratio_ptr="*",
        eps_low="fp32", eps_high="fp32", beta="fp32", N="i32", T="i32",
    )
    for cispo in (False, True)
    for corrected in (False, True)
]  # fmt: skip
"""Every configuration of its own kernel that `grpo_loss` launches; those on logits are
in `selected_logprob.SPECS`."""
