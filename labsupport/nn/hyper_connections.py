"""Hyper-connections: a residual stream of n lanes instead of one.

Parts for `GPT(residual=...)`. A plain residual adds what a branch F makes to the
stream, x + F(x). With hyper-connections the stream holds n vectors of width C
for every token, and each branch has three maps (Xie et al., mHC, arXiv
2512.24880, equation 3):

    x'  =  H_res x  +  H_post^T F(H_pre x)

    H_pre   (1, n)   how the lanes are read: what F sees is a mix of them
    H_post  (1, n)   how what F makes is written to each lane
    H_res   (n, n)   how the lanes pass on: row i makes the new lane i

All three depend on the token: a small linear map of the lanes, times alpha, on
top of a bias that is the same for all tokens.

    HyperConnection             Zhu et al., 2409.19606: H_res is free
    ManifoldHyperConnection     mHC: H_res is made doubly stochastic

On a GPU its four steps are the kernels of `kernels/mhc_*.py` and
`kernels/sinkhorn.py`; on a CPU they are what those kernels must equal.

Shape suffixes: B sequences, T tokens, M = B T tokens in a row, n lanes, C width
of a lane, P = n + n + n² coefficients of a token. Coefficients keep tokens last
(`res_nnM`), so that one arithmetic operation serves all tokens; lanes keep the
width last (`x_MnC`). Coefficients are float32 at least, whatever the lanes are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.mhc_post import mhc_post, mhc_post_reference
from kernels.mhc_pre import mhc_pre, mhc_pre_reference
from kernels.mhc_project import mhc_project, mhc_project_reference
from kernels.sinkhorn import sinkhorn
from labsupport.errors import LabError
from labsupport.nn.gpt import GPTConfig, Residual

MAIN_READ = 0.7
"""What a branch reads of its own lane at first; the others share the rest."""
OFF_DIAGONAL = -8.0
"""H_res's logits beside the diagonal at first: exp(-8) is 0.03 percent."""


Connect = Callable[..., Tensor]
"""As `connect_lanes`."""


@dataclass(frozen=True)
class Maps:
    """The three maps of one branch, for M tokens.

    Attributes:
        pre_nM: how much of each lane the branch reads.
        post_nM: how much of the branch's output each lane gets.
        res_nnM: res_nnM[i, j] of lane j goes to lane i.
    """

    pre_nM: Tensor
    post_nM: Tensor
    res_nnM: Tensor


class Lanes(Residual):
    """A stream of n lanes in any dtype; how they are mixed is left to `maps`.

    The embeddings are copied to every lane, and the lanes' mean leaves: with
    equal lanes that is what a plain residual would pass on. (The papers sum.
    The norm that follows removes the factor n.)

    Args:
        n: lanes.
        stream_dtype: what the lanes are rounded to after every branch; None
            keeps the embeddings' dtype.
        connect: how lanes, maps and branch come together; a lab puts a reader's
            own function here.

    Raises:
        LabError: n below 1.
    """

    def __init__(
        self,
        config: GPTConfig,
        branch: int,
        *,
        n: int = 4,
        stream_dtype: torch.dtype | None = None,
        connect: Connect | None = None,
    ) -> None:
        super().__init__(config, branch)
        if n < 1:
            raise LabError(f"n={n} lanes: use at least 1.")
        self.n, self.branch, self.stream_dtype = n, branch, stream_dtype
        self.connect = connect or connect_lanes

    def maps(self, x_MnC: Tensor) -> Maps:
        """The branch's maps for these lanes."""
        raise NotImplementedError

    def expand(self, x_BTD: Tensor) -> Tensor:
        x_BTnD = x_BTD.unsqueeze(-2).expand(*x_BTD.shape[:-1], self.n, -1)
        return x_BTnD.to(self.stream_dtype or x_BTD.dtype).contiguous()

    def forward(self, stream: Tensor, branch: Callable[[Tensor], Tensor]) -> Tensor:
        B, T, n, C = stream.shape
        x_MnC = stream.reshape(B * T, n, C).to(next(self.parameters()).dtype)
        maps = self.maps(x_MnC)

        def branch_of(x_MC: Tensor) -> Tensor:
            return branch(x_MC.view(B, T, C)).reshape(B * T, C)

        y_MnC = self.connect(x_MnC, maps.pre_nM, maps.post_nM, maps.res_nnM, branch_of)
        return y_MnC.view(B, T, n, C).to(stream.dtype)

    def collapse(self, stream: Tensor) -> Tensor:
        return stream.to(next(self.parameters()).dtype).mean(dim=-2)


def connect_lanes(
    x_MnC: Tensor,
    pre_nM: Tensor,
    post_nM: Tensor,
    res_nnM: Tensor,
    branch: Callable[[Tensor], Tensor],
) -> Tensor:
    """H_res x + H_post^T F(H_pre x) for every token (mHC, equation 3).

    Args:
        branch: F, (M, C) -> (M, C).

    Returns:
        y_MnC.
    """
    if x_MnC.dtype == torch.float64:  # kernels have none; the references have
        made_MC = branch(mhc_pre_reference(x_MnC, pre_nM))
        return mhc_post_reference(x_MnC, made_MC, post_nM, res_nnM)
    made_MC = branch(mhc_pre(x_MnC, pre_nM))
    return mhc_post(x_MnC, made_MC, post_nM, res_nnM)


class RoundedResidual(Residual):
    """The plain residual with its stream kept in another dtype."""

    def __init__(
        self, config: GPTConfig, branch: int, *, stream_dtype: torch.dtype
    ) -> None:
        super().__init__(config, branch)
        self.stream_dtype = stream_dtype

    def expand(self, x_BTD: Tensor) -> Tensor:
        self.number = x_BTD.dtype
        return x_BTD.to(self.stream_dtype)

    def forward(self, stream: Tensor, branch: Callable[[Tensor], Tensor]) -> Tensor:
        x_BTD = stream.float()
        return (x_BTD + branch(x_BTD)).to(stream.dtype)

    def collapse(self, stream: Tensor) -> Tensor:
        return stream.float()


class HyperConnection(Lanes):
    """H_res is any matrix: lanes may grow, shrink and cancel (Zhu et al., eq. 5).

    Each lane's coefficients come from that lane's own vector. At first nothing
    depends on the token, branch k reads lane k mod n, writes to all lanes and
    passes every lane on (their algorithm 2): exactly the plain residual.
    """

    def __init__(
        self,
        config: GPTConfig,
        branch: int,
        *,
        n: int = 4,
        stream_dtype: torch.dtype | None = None,
        connect: Connect | None = None,
    ) -> None:
        super().__init__(
            config, branch, n=n, stream_dtype=stream_dtype, connect=connect
        )
        C = config.d_model
        self.eps = config.eps
        # Of each lane: its read, its write, and what it takes from the n lanes.
        self.phi_CP = nn.Parameter(torch.zeros(C, 2 + n))
        self.alpha_3 = nn.Parameter(torch.full((3,), 0.01))
        pre_n = F.one_hot(torch.tensor(branch % n), n).float()
        # A vector, so that weight decay, which is for matrices, leaves it alone.
        bias_P = torch.cat([pre_n, torch.ones(n), torch.eye(n).flatten()])
        self.bias_P = nn.Parameter(bias_P)

    def maps(self, x_MnC: Tensor) -> Maps:
        n = self.n
        v_MnC = F.rms_norm(x_MnC, x_MnC.shape[-1:], eps=self.eps)
        h_nPM = torch.tanh(v_MnC @ self.phi_CP).permute(1, 2, 0)
        a_pre, a_post, a_res = self.alpha_3
        pre_n, post_n, res_n2 = self.bias_P.split([n, n, n * n])
        return Maps(
            pre_nM=a_pre * h_nPM[:, 0] + pre_n[:, None],
            post_nM=a_post * h_nPM[:, 1] + post_n[:, None],
            res_nnM=a_res * h_nPM[:, 2:] + res_n2.view(n, n, 1),
        )


class ManifoldHyperConnection(Lanes):
    """H_res is projected onto the doubly stochastic matrices (mHC, eq. 7 to 9).

    Args:
        project: logits_nnM -> res_nnM; None for `sinkhorn` with `iterations`.
        iterations: of Sinkhorn-Knopp; the paper uses 20.

    At first the network equals the plain residual network: no coefficient
    depends on the token (phi = 0), the reads of a branch sum to one, its writes
    are one, and lanes that are equal stay equal under any H_res whose rows sum
    to one. Branch k reads mostly lane k mod n; without that difference all lanes
    would get the same gradients and stay equal for ever.
    """

    def __init__(
        self,
        config: GPTConfig,
        branch: int,
        *,
        n: int = 4,
        stream_dtype: torch.dtype | None = None,
        connect: Connect | None = None,
        project: Callable[[Tensor], Tensor] | None = None,
        iterations: int = 20,
    ) -> None:
        super().__init__(
            config, branch, n=n, stream_dtype=stream_dtype, connect=connect
        )
        self.iterations = iterations
        self.project = project
        self.phi_PK = nn.Parameter(torch.zeros(2 * n + n * n, n * config.d_model))
        self.alpha_3 = nn.Parameter(torch.full((3,), 0.01))
        rest = (1 - MAIN_READ) / max(n - 1, 1)
        read_n = torch.full((n,), rest)
        read_n[branch % n] = MAIN_READ
        pre_n = torch.logit(read_n)
        res_nn = OFF_DIAGONAL * (1 - torch.eye(n))
        bias_P = torch.cat([pre_n, torch.zeros(n), res_nn.flatten()])
        self.bias_P = nn.Parameter(bias_P)

    def maps(self, x_MnC: Tensor) -> Maps:
        n = self.n
        double = x_MnC.dtype == torch.float64
        project = mhc_project_reference if double else mhc_project
        h_MP, r_M = project(x_MnC, self.phi_PK.t())
        # The norm is one number a token, so it may be divided out afterwards
        # (eq. 14 to 16). The bound only guards a token of zeros.
        h_PM = h_MP.t() / r_M.clamp(min=1e-10)
        sizes = [n, n, n * n]
        alpha_P = self.alpha_3.repeat_interleave(torch.tensor(sizes))
        logits_PM = alpha_P[:, None] * h_PM + self.bias_P[:, None]
        pre_nM, post_nM, res_PM = logits_PM.split(sizes)
        return Maps(
            pre_nM=torch.sigmoid(pre_nM),
            post_nM=2 * torch.sigmoid(post_nM),
            res_nnM=self.projected(res_PM.view(n, n, -1)),
        )

    def projected(self, logits_nnM: Tensor) -> Tensor:
        if self.project is not None:
            return self.project(logits_nnM)
        # Not refused here: a stream that has overflowed shall end the training
        # with its own word, and not with Sinkhorn's.
        return sinkhorn(logits_nnM, self.iterations, check_finite=False)


def row_softmax(logits_nnM: Tensor) -> Tensor:
    """Rows sum to one, columns need not: half of the constraint."""
    return torch.softmax(logits_nnM, dim=1)


def identity(logits_nnM: Tensor) -> Tensor:
    """Lanes never mix: H_res = I."""
    n, _, M = logits_nnM.shape
    eye_nn = torch.eye(n, dtype=logits_nnM.dtype, device=logits_nnM.device)
    return eye_nn[:, :, None].expand(n, n, M)
