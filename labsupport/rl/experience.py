"""What the updates of one step learn from: a rollout with its advantages.

Shape suffixes: P prompts, T tokens of a prompt, G completions of each, R = P G rows, M
rows of a minibatch, N tokens of the longest completion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from labsupport.errors import LabError
from labsupport.nn import GPT
from labsupport.rl.policy import completion_logits, log_probs
from labsupport.rl.rollouts import Rollout

Advantage = Callable[[Tensor], Tensor]
"""rewards_PG -> advantages_PG"""


@dataclass(frozen=True, eq=False)
class Experience:
    """One row for each completion.

    Attributes:
        prompts_RT, tokens_RN: what was read, what was written.
        old_RN: log-probs when it was written.
        advantages_R: how much better a completion was than could be expected.
        mask_RN: True where a token was written.
        ref_RN: log-probs under the reference, or None.
    """

    prompts_RT: Tensor
    tokens_RN: Tensor
    old_RN: Tensor
    advantages_R: Tensor
    mask_RN: Tensor
    ref_RN: Tensor | None

    @classmethod
    def of(
        cls,
        rollout: Rollout,
        advantage: Advantage,
        reference: GPT | None = None,
        temperature: float = 1.0,
    ) -> Experience:
        """A rollout, cut to its longest completion, and what `advantage` makes of it.

        Raises:
            LabError: advantages of another shape, or none that is a finite number.
        """
        written = rollout.completions
        N = int(written.lengths_R.max())
        tokens_RN = written.tokens_RN[:, :N]
        ref_RN = None
        if reference is not None:
            with torch.no_grad():
                logits = completion_logits(reference, rollout.prompts_RT, tokens_RN)
                ref_RN = log_probs(logits / temperature, tokens_RN)
        return cls(
            rollout.prompts_RT,
            tokens_RN,
            written.logprobs_RN[:, :N],
            checked_advantages(advantage, rollout.rewards_PG).flatten(),
            written.mask_RN[:, :N],
            ref_RN,
        )

    def rows(self, index_M: Tensor) -> Experience:
        """Some of the rows: a minibatch."""
        return Experience(
            self.prompts_RT[index_M],
            self.tokens_RN[index_M],
            self.old_RN[index_M],
            self.advantages_R[index_M],
            self.mask_RN[index_M],
            None if self.ref_RN is None else self.ref_RN[index_M],
        )

    def minibatches(
        self, updates: int, parts: int, numbers: np.random.Generator
    ) -> Iterator[tuple[int, Experience]]:
        """Every row `updates` times, in a new order each time, in `parts` minibatches.

        Yields:
            How many times all rows were seen before, and a minibatch.
        """
        for seen in range(updates):
            order_R = torch.from_numpy(numbers.permutation(len(self.tokens_RN)))
            order_R = order_R.to(self.tokens_RN.device)
            # `chunk` would make fewer parts of some sizes: 3 of 6 rows in 4 parts.
            for index_M in order_R.tensor_split(parts):
                yield seen, self.rows(index_M)


def checked_advantages(advantage: Advantage, rewards_PG: Tensor) -> Tensor:
    """What a reader's own function may get wrong, said in one sentence.

    Raises:
        LabError: no tensor, another shape, or a number that is not finite.
    """
    advantages_PG = advantage(rewards_PG)
    if not isinstance(advantages_PG, Tensor):
        raise LabError(
            f"The advantage function returned {type(advantages_PG).__name__}: a tensor "
            "like the rewards is needed."
        )
    if advantages_PG.shape != rewards_PG.shape:
        raise LabError(
            f"Advantages have shape {tuple(advantages_PG.shape)}: one is needed for "
            f"each of the rewards, {tuple(rewards_PG.shape)}."
        )
    if not advantages_PG.isfinite().all():
        first = int((~advantages_PG.isfinite().all(dim=1)).nonzero()[0])
        raise LabError(
            "Advantages are not all finite numbers: the rewards "
            f"{rewards_PG[first].tolist()} became {advantages_PG[first].tolist()}."
        )
    return advantages_PG
