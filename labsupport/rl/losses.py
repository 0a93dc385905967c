"""Policy losses: an objective for each token, an average, and a KL penalty.

    loss = - average( gain - beta kl )

    name        gain                average                       source (arXiv)
    REINFORCE   A log pi            over all tokens               Williams, 1992
    GRPO        clipped             of each row, then over rows   2402.03300, eq. 3
    DR_GRPO     clipped             sum / (rows x longest)        2503.20783, sec. 3.2
    DAPO        clipped, .2 / .28   over all tokens               2503.14476, eq. 8
    GSPO        clipped_sequence    of each row, then over rows   2507.18071, eq. 5
    CISPO       weight clipped      over all tokens               2506.13585, eq. 4

GRPO's average gives each token of a long row a small weight: a long wrong row is
punished less a token than a short one. DR_GRPO and DAPO mend this. Two things of theirs
are not the loss's matter: Dr. GRPO also leaves out the division by std, which is
`group_advantages(std="none")`, and DAPO samples new prompts in place of equal groups.

Shape suffixes: R rows, N tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from labsupport.errors import LabError
from labsupport.rl.kl import k3
from labsupport.rl.objectives import (
    Objective,
    cispo,
    clipped,
    clipped_sequence,
    reinforce,
)

Average = Callable[[Tensor, Tensor, int], Tensor]
"""(gain_RN, mask_RN, longest) -> scalar; `longest`: the most tokens a row may have."""


def row_means(gain_RN: Tensor, mask_RN: Tensor, longest: int) -> Tensor:
    """The mean of each row, then of the rows; an empty row counts as 0."""
    tokens_R = mask_RN.sum(dim=1).clamp(min=1)
    return ((gain_RN * mask_RN).sum(dim=1) / tokens_R).mean()


def token_mean(gain_RN: Tensor, mask_RN: Tensor, longest: int) -> Tensor:
    """The mean of all tokens of all rows."""
    return (gain_RN * mask_RN).sum() / mask_RN.sum().clamp(min=1)


def constant_mean(gain_RN: Tensor, mask_RN: Tensor, longest: int) -> Tensor:
    """The sum of all tokens over what there would be if all rows were longest."""
    return (gain_RN * mask_RN).sum() / (len(gain_RN) * longest)


@dataclass(frozen=True)
class PolicyLoss:
    """A loss of log-probs, to be made small.

    Attributes:
        objective: gain_RN; see objectives.py.
        average: makes one number of it.
        beta: the weight of the KL penalty.
        kl: its estimate, k1, k2 or k3.
        corrected: whether the estimate is multiplied by each token's rho, with which
            the gradient of k3 is that of KL(pi || ref) (see kl.py).
    """

    objective: Objective
    average: Average
    beta: float = 0.0
    kl: Callable[[Tensor, Tensor], Tensor] = k3
    corrected: bool = False

    def __call__(
        self,
        logp_RN: Tensor,
        old_RN: Tensor,
        advantages_R: Tensor,
        mask_RN: Tensor,
        *,
        longest: int,
        ref_RN: Tensor | None = None,
    ) -> Tensor:
        """The loss, a scalar with a gradient to logp_RN.

        Args:
            logp_RN: log-probs under the policy that is trained.
            old_RN: under the one that wrote the tokens.
            advantages_R: one a row.
            mask_RN: True where a token was written; a row may have none.
            longest: the most tokens that a row may have.
            ref_RN: under the reference, where beta is above 0.

        Raises:
            LabError: beta above 0 without a reference, or an objective that returns no
                tensor, another shape, or one without a gradient.
        """
        # Behind the end of a row may stand anything, infinities too.
        logp_RN = logp_RN.masked_fill(~mask_RN, 0.0)
        old_RN = old_RN.detach().masked_fill(~mask_RN, 0.0)
        gain_RN = self.objective(logp_RN, old_RN, advantages_R[:, None], mask_RN)
        if not isinstance(gain_RN, Tensor):
            raise LabError(
                f"The objective returned {type(gain_RN).__name__}: a tensor with one "
                "number a token is needed."
            )
        if gain_RN.shape != logp_RN.shape:
            raise LabError(
                f"The objective returned shape {tuple(gain_RN.shape)}: one number a "
                f"token is needed, {tuple(logp_RN.shape)}."
            )
        if logp_RN.requires_grad and not gain_RN.requires_grad:
            raise LabError(
                "The objective has no gradient to the log-probs of the policy: use its "
                "first argument, without detaching it."
            )
        if self.beta:
            if ref_RN is None:
                raise LabError(f"beta={self.beta} needs log-probs of a reference.")
            kl_RN = self.kl(logp_RN, ref_RN.detach().masked_fill(~mask_RN, 0.0))
            if self.corrected:
                kl_RN = (logp_RN - old_RN).exp() * kl_RN
            gain_RN = gain_RN - self.beta * kl_RN
        return -self.average(gain_RN, mask_RN, longest)


REINFORCE = PolicyLoss(reinforce, token_mean)
GRPO = PolicyLoss(clipped, row_means)
DR_GRPO = PolicyLoss(clipped, constant_mean)
DAPO = PolicyLoss(partial(clipped, low=0.2, high=0.28), token_mean)
GSPO = PolicyLoss(clipped_sequence, row_means)
CISPO = PolicyLoss(cispo, token_mean)
