"""The updates that are made with one rollout.

Shape suffixes: M rows of a minibatch, N tokens of a completion, V vocabulary.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from labsupport.nn import GPT
from labsupport.rl.experience import Experience
from labsupport.rl.losses import PolicyLoss
from labsupport.rl.objectives import clip_fraction
from labsupport.rl.policy import completion_logits, entropy, log_probs
from labsupport.train import Recipe, make_optimizer
from labsupport.train.loop import Diverged

NUMBERS = ("loss", "lr", "grad_norm", "clipped")
"""What is said of an update."""


class Learner:
    """A model with its optimizer, and the loss that moves it.

    Args:
        model: trained in place.
        loss: of log-probs.
        recipe: learning rates and clipping; its steps are updates.
        temperature: the policy is softmax(logits / temperature).
        longest: the most tokens that a completion may have.
    """

    def __init__(
        self,
        model: GPT,
        loss: PolicyLoss,
        recipe: Recipe,
        *,
        temperature: float,
        longest: int,
    ) -> None:
        self.model, self.loss, self.recipe = model, loss, recipe
        self.temperature, self.longest = temperature, longest
        self.optimizer = make_optimizer(model, recipe)
        self.update = 0

    def learn(
        self,
        experience: Experience,
        updates: int,
        minibatches: int,
        numbers: np.random.Generator,
    ) -> dict[str, float]:
        """Use each completion `updates` times, a minibatch at a time.

        Where nothing can be learned, because all advantages are 0, no update is made:
        AdamW would go on by its momentum.

        Returns:
            loss, lr, grad_norm: of the last update.
            clipped: the mean over updates, see `clip_fraction`.
            entropy: the mean over tokens, each when it was seen for the first time.
            kl: likewise, by the loss's estimate, where there is a reference.
            What there is none of is NaN.

        Raises:
            Diverged: a loss or gradient that is NaN or infinite, before the update.
        """
        learns = bool(experience.advantages_R.any()) or self.loss.beta > 0
        made: list[dict[str, float]] = []
        entropies, kls = [], []
        for seen, part in experience.minibatches(updates, minibatches, numbers):
            with torch.set_grad_enabled(learns):
                logits_MNV = self.logits(part)
                logp_MN = log_probs(logits_MNV, part.tokens_RN)
            if seen == 0:
                entropies.append(entropy(logits_MNV.detach())[part.mask_RN])
                if part.ref_RN is not None:
                    kl_MN = self.loss.kl(logp_MN.detach(), part.ref_RN)
                    kls.append(kl_MN[part.mask_RN])
            if learns:
                made.append(self.step(part, logp_MN))
            self.update += 1
        last = made[-1] if made else dict.fromkeys(NUMBERS, math.nan)
        clipped = [each["clipped"] for each in made if not math.isnan(each["clipped"])]
        row = last | {
            "clipped": sum(clipped) / len(clipped) if clipped else math.nan,
            "entropy": torch.cat(entropies).mean().item(),
        }
        return row | {"kl": torch.cat(kls).mean().item()} if kls else row

    def logits(self, part: Experience) -> Tensor:
        """logits_MNV of the policy, its temperature included."""
        logits_MNV = completion_logits(self.model, part.prompts_RT, part.tokens_RN)
        return logits_MNV / self.temperature

    def step(self, part: Experience, logp_MN: Tensor) -> dict[str, float]:
        """One update.

        Returns:
            `NUMBERS`; grad_norm is the gradient's length before it was clipped.

        Raises:
            Diverged: loss or gradient are NaN or infinite, before the update.
        """
        lr = self.recipe.learning_rate(self.update)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        loss = self.loss(
            logp_MN,
            part.old_RN,
            part.advantages_R,
            part.mask_RN,
            longest=self.longest,
            ref_RN=part.ref_RN,
        )
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        values = loss.item(), lr, norm.item()
        if not all(map(math.isfinite, values)):
            raise Diverged(self.update, loss.item(), lr)
        self.optimizer.step()
        clipped = clip_fraction(
            self.loss.objective,
            logp_MN,
            part.old_RN,
            part.advantages_R[:, None],
            part.mask_RN,
        )
        return dict(zip(NUMBERS, (*values, clipped), strict=True))
