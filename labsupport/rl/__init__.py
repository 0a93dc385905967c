"""Reinforcement learning with a verifier, in parts that a reader can replace.

`advantages` says which completions were better than others, `objectives` what is
gained by making a token likelier, `losses` puts an objective, an average and a KL
penalty (`kl`) together, `rollouts` has a model write and a verifier judge, `policy`
recomputes log-probs and entropy, `experience` and `learner` make the updates of one
rollout, and `session` puts all of this together as `train_rl`. `ranks` shares a rollout
out over processes.
"""

from labsupport.rl.advantages import (
    batch_baseline,
    group_advantages,
    leave_one_out,
    no_baseline,
)
from labsupport.rl.kl import k1, k2, k3
from labsupport.rl.losses import (
    CISPO,
    DAPO,
    DR_GRPO,
    GRPO,
    GSPO,
    REINFORCE,
    PolicyLoss,
)
from labsupport.rl.rollouts import Judge, Rollout, accuracy, roll_out
from labsupport.rl.run import RLRun
from labsupport.rl.session import train_rl

__all__ = [
    "CISPO",
    "DAPO",
    "DR_GRPO",
    "GRPO",
    "GSPO",
    "REINFORCE",
    "Judge",
    "PolicyLoss",
    "RLRun",
    "Rollout",
    "accuracy",
    "batch_baseline",
    "group_advantages",
    "k1",
    "k2",
    "k3",
    "leave_one_out",
    "no_baseline",
    "roll_out",
    "train_rl",
]
