"""A mixture of experts in place of the feed-forward layer.

    GPT(config, ffn=partial(MixtureOfExperts, experts=16, top_k=2))

Every token runs through the shared experts and through K of E routed ones
(DeepSeek-V3, arXiv 2412.19437, equations 12 to 16; the residual is the block's):

    y_t  =  sum_i shared_i(u_t)  +  scale * sum_{i chosen} g_it expert_i(u_t)
    s_it =  sigmoid(u_t . e_i)
    chosen: the K largest s_it + b_i;   g_it = s_it / (sum of the chosen s_jt)

The bias b_i decides who is chosen and nothing else: g has none of it. It is no
parameter; `moe_balance.LoadBalancer` moves it.

On a GPU the work is done by `kernels/moe_*.py` and `kernels/grouped_gemm.py`; on a
CPU by what those kernels must equal. No token is ever dropped.

Shape suffixes: B sequences, T tokens of a sequence, N = B T tokens in a row, D
model width, E experts, K experts of a token, H hidden width of an expert, R = N K
rows: a row is one token's visit to one expert.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.grouped_gemm import grouped_gemm, grouped_gemm_reference
from kernels.moe_combine import moe_combine, moe_combine_reference
from kernels.moe_permute import moe_permute
from kernels.moe_router import moe_router, moe_router_reference
from kernels.moe_up import moe_up, moe_up_reference
from labsupport.errors import LabError
from labsupport.nn.gpt import GPTConfig, SwiGLU

Gate = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]
"""(logits_NE, bias_E, K) -> index_NK, weight_NK."""
Experts = Callable[[Tensor, Tensor], Tensor]
"""(rows_RD, expert_R), sorted by expert -> what the experts make of them, y_RD."""
Dispatch = Callable[[Tensor, Tensor, Tensor, Experts], Tensor]
"""(x_ND, index_NK, weight_NK, experts) -> y_ND."""


@dataclass(frozen=True)
class Routing:
    """What a router decided for N tokens.

    Attributes:
        score_NE: sigmoid of the logits, without biases.
        index_NK: the experts of each token.
        weight_NK: what their outputs are multiplied by.
        sequences: B; the tokens of a sequence are neighbours.
    """

    score_NE: Tensor
    index_NK: Tensor
    weight_NK: Tensor
    sequences: int


class MixtureOfExperts(nn.Module):
    """Shared experts, and K of E routed ones for each token.

    Args:
        config: the GPT's shape.
        linear: makes the layers of the shared experts. The router stays in float32
            and routed experts in one tensor each, whatever it is.
        experts: E.
        top_k: K.
        shared: how many experts every token runs through; 0 for none.
        d_expert: H; None for the width at which K routed and all shared experts
            have the weights of the dense layer, in steps of 8.
        scale: what the routed experts' sum is multiplied by; 2.5 in DeepSeek-V3.
        groups: experts form so many groups of neighbours (one for each node).
        kept_groups: of which a token visits at most so many; None for all.
        gate: who chooses; a lab puts a reader's own function here.
        dispatch: how tokens reach their experts and come back; likewise.

    Raises:
        LabError: sizes below 1, more experts a token than there are, or groups
            that do not divide the experts.
    """

    bias_E: Tensor
    count_E: Tensor

    def __init__(
        self,
        config: GPTConfig,
        linear: Callable[..., nn.Module] = nn.Linear,
        *,
        experts: int = 16,
        top_k: int = 2,
        shared: int = 1,
        d_expert: int | None = None,
        scale: float = 1.0,
        groups: int = 1,
        kept_groups: int | None = None,
        gate: Gate | None = None,
        dispatch: Dispatch | None = None,
    ) -> None:
        super().__init__()
        check_sizes(experts, top_k, shared, groups, kept_groups)
        D = config.d_model
        H = d_expert or max(8, config.ffn_width // (top_k + shared) // 8 * 8)
        self.top_k, self.scale = top_k, scale
        self.groups, self.kept_groups = groups, kept_groups
        self.gate, self.dispatch = gate, dispatch
        self.shared = (
            SwiGLU(replace(config, d_ff=shared * H), linear) if shared else None
        )
        self.router_ED = nn.Parameter(torch.empty(experts, D))
        # Gate and up side by side, as the kernel reads them.
        self.gate_up_ED2H = nn.Parameter(torch.empty(experts, D, 2 * H))
        self.down_EHD = nn.Parameter(torch.empty(experts, H, D))
        for weight, n_in in (
            (self.router_ED, D),
            (self.gate_up_ED2H, D),
            (self.down_EHD, H),
        ):
            nn.init.uniform_(weight, -(n_in**-0.5), n_in**-0.5)  # as nn.Linear
        with torch.no_grad():
            self.down_EHD.mul_((2 * config.n_layers) ** -0.5)
        self.register_buffer("bias_E", torch.zeros(experts))
        self.register_buffer("count_E", torch.zeros(experts))
        self.watchers: list[Callable[[Routing], None]] = []

    @property
    def experts(self) -> int:
        """E."""
        return len(self.router_ED)

    def route(self, x_ND: Tensor, sequences: int = 1) -> Routing:
        """Choose the experts of every token, and count them while training."""
        number = torch.promote_types(x_ND.dtype, torch.float32)
        logits_NE = F.linear(x_ND.to(number), self.router_ED.to(number))
        bias_E = self.bias_E.to(number)
        if self.gate is not None:
            index_NK, weight_NK = self.gate(logits_NE, bias_E, self.top_k)
        else:
            router = moe_router if number == torch.float32 else moe_router_reference
            index_NK, weight_NK = router(
                logits_NE, bias_E, self.top_k, self.groups, self.kept_groups
            )
        if self.training:
            with torch.no_grad():
                self.count_E += count_of(index_NK, self.experts)
        routing = Routing(
            torch.sigmoid(logits_NE), index_NK.long(), weight_NK, sequences
        )
        for watch in self.watchers:
            watch(routing)
        return routing

    def run_experts(self, rows_RD: Tensor, expert_R: Tensor) -> Tensor:
        """Each expert on its own rows: y_RD.

        Args:
            rows_RD: what each expert gets, the first expert's rows first.
            expert_R: whose row it is.

        Raises:
            LabError: rows that are not sorted by expert.
        """
        if (expert_R.diff() < 0).any():
            raise LabError("run_experts: rows have to be sorted by their expert.")
        count_E = count_of(expert_R, len(self.down_EHD))
        first_E1 = F.pad(count_E.cumsum(0), (1, 0)).int()
        float64 = rows_RD.dtype == torch.float64
        gemm = grouped_gemm_reference if float64 else grouped_gemm
        gate_RH, up_RH = gemm(rows_RD, self.gate_up_ED2H, first_E1).chunk(2, dim=1)
        return gemm(F.silu(gate_RH) * up_RH, self.down_EHD, first_E1)

    def routed(self, x_ND: Tensor, index_NK: Tensor, weight_NK: Tensor) -> Tensor:
        """What the routed experts make of each token, weighted: y_ND."""
        if self.dispatch is not None:
            return self.dispatch(x_ND, index_NK, weight_NK, self.run_experts)
        slot_R, row_NK, first_E1 = moe_permute(index_NK, self.experts)
        weight_NK = weight_NK.to(torch.promote_types(x_ND.dtype, torch.float32))
        if x_ND.dtype == torch.float64:  # kernels have none; the references have
            a_RH = moe_up_reference(x_ND, self.gate_up_ED2H, slot_R, row_NK, first_E1)
            z_RD = grouped_gemm_reference(a_RH, self.down_EHD, first_E1)
            return moe_combine_reference(z_RD, weight_NK, row_NK)
        a_RH = moe_up(x_ND, self.gate_up_ED2H, slot_R, row_NK, first_E1)
        z_RD = grouped_gemm(a_RH, self.down_EHD, first_E1)
        return moe_combine(z_RD, weight_NK, row_NK)

    def forward(self, x_BTD: Tensor) -> Tensor:
        B, _, D = x_BTD.shape
        x_ND = x_BTD.reshape(-1, D)
        routing = self.route(x_ND, sequences=B)
        y_ND = self.scale * self.routed(x_ND, routing.index_NK, routing.weight_NK)
        y_BTD = y_ND.view_as(x_BTD)
        return y_BTD if self.shared is None else y_BTD + self.shared(x_BTD)


def count_of(index: Tensor, experts: int) -> Tensor:
    """How often each expert was chosen, count_E."""
    return torch.bincount(index.flatten().long(), minlength=experts)


def check_sizes(
    experts: int, top_k: int, shared: int, groups: int, kept_groups: int | None
) -> None:
    """Refuse a mixture that cannot be.

    Raises:
        LabError: which size, and what it may be.
    """
    if experts < 1 or not 1 <= top_k <= experts:
        raise LabError(
            f"MixtureOfExperts: top_k={top_k} of {experts} experts; a token visits "
            "at least 1 and at most all of them."
        )
    if shared < 0:
        raise LabError(f"MixtureOfExperts: shared={shared}; use 0 or more.")
    kept = groups if kept_groups is None else kept_groups
    if groups < 1 or experts % groups:
        raise LabError(
            f"MixtureOfExperts: {experts} experts do not form {groups} equal groups."
        )
    if not 1 <= kept <= groups or kept * (experts // groups) < top_k:
        raise LabError(
            f"MixtureOfExperts: kept_groups={kept} of {groups}: use 1 to {groups}, "
            f"and enough of them for top_k={top_k} experts."
        )
