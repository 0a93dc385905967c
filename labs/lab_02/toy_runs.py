"""One training on the toy task, and what its experts do.

Shape suffixes: B sequences, T tokens of a sequence, G domains, E experts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from labs.lab_02.loads import dead_experts, information_share, load_table
from labs.lab_02.plan import TOY
from labs.lab_02.quantile import QuantileBalancer
from labs.lab_02.toy import DOMAINS, EXPERTS, ToyMixture, ToyTask
from labs.lab_02.updates import RULES, multiplicative_gate
from labsupport.errors import LabError
from labsupport.nn.moe_balance import (
    AuxiliaryLoss,
    LoadBalancer,
    max_violation,
    routings,
)
from labsupport.settings import Scale, choose_settings
from labsupport.train import Run, train

ARMS = ("none", "sequence", "batch", "free")
NAMES = {
    "none": "no balancing",
    "sequence": "auxiliary loss, sequence",
    "batch": "auxiliary loss, batch",
    "free": "loss-free",
}
"""As figures and text call them."""


@dataclass
class Watched:
    """A training, and the loads of its experts along the way.

    Attributes:
        run: the training.
        task: what it was trained on.
        max_vio: MaxVio of every step's batch.
        load_SE: at the steps asked for, loads over an even load, mean of the steps
            since the last such step.
        bias_SE: the biases there, after their update.
    """

    run: Run
    task: ToyTask
    max_vio: list[float] = field(default_factory=list)
    load_SE: list[list[float]] = field(default_factory=list)
    bias_SE: list[list[float]] = field(default_factory=list)


def train_toy(
    arm: str,
    seed: int,
    scale: Scale,
    *,
    coefficient: float = 0.0,
    skew: float = 0.0,
    rule: str = "sign",
    steps: int | None = None,
    parts: dict[str, Any] | None = None,
    keep: Callable[[int], bool] = lambda step: False,
    watch: Callable[[int, Tensor, Tensor], None] | None = None,
    live: bool = False,
    title: str = "Training",
) -> Watched:
    """Train one mixture; a seed is another task, start and order of the data.

    Args:
        arm: one of ARMS.
        coefficient: alpha of the auxiliary losses, u of the loss-free update.
        skew: how uneven the domains' frequencies are.
        rule: of the loss-free arm: "sign", "proportional", "multiplicative" or
            "quantile".
        steps: how many; None for the plan's.
        parts: arguments of `MixtureOfExperts`; "update" is a reader's own rule.
        keep: of which steps loads and biases are kept.
        watch: gets the step, load_E and bias_E after every step.

    Raises:
        LabError: an unknown arm or rule.
    """
    if arm not in ARMS:
        raise LabError(f"arm={arm!r}: choose one of {', '.join(ARMS)}.")
    plan, settings = TOY[scale], choose_settings(scale, seed)
    task = ToyTask(seed, skew)
    parts = dict(parts or {})
    update = parts.pop("update", None)
    if rule == "multiplicative":
        parts["gate"] = multiplicative_gate
    torch.manual_seed(seed)
    model = ToyMixture(**parts)
    speed = coefficient if arm == "free" else 0.0
    balancer: LoadBalancer
    if rule == "quantile":
        balancer = QuantileBalancer(model, speed)
    elif rule in RULES:
        balancer = LoadBalancer(model, speed, update or RULES[rule])
    else:
        raise LabError(
            f"rule={rule!r}: choose one of {', '.join(RULES)}, quantile."
        )
    steps = steps or plan.steps
    watched = Watched(Run(model, title, steps), task)
    since_E = torch.zeros(EXPERTS)

    def measure(_: Any) -> dict[str, float]:
        assert balancer.load_LE is not None
        load_E, bias_E = balancer.load_LE[0], model.layer.bias_E
        watched.max_vio.append(max_violation(load_E))
        step = len(watched.max_vio)
        since_E.add_(load_E.cpu())
        if keep(step):
            even_E = since_E / since_E.mean()
            since_E.zero_()
            watched.load_SE.append([round(v, 3) for v in even_E.tolist()])
            watched.bias_SE.append([round(v, 4) for v in bias_E.tolist()])
        if watch is not None:
            watch(step, load_E, bias_E)
        return {"max_vio": watched.max_vio[-1]}

    def batch(step: int) -> tuple[Tensor, Tensor]:
        made = task.batch(step)
        return made.x_BTD, made.y_BTD

    watched.run = train(
        model,
        batch,
        steps=steps,
        lr=plan.lr,
        warmup=0.02,
        settings=settings,
        loss_fn=AuxiliaryLoss(coefficient, arm)  # type: ignore[arg-type]
        if arm in ("sequence", "batch")
        else None,
        measure=measure,
        prepare=balancer.attach,
        live=live,
        title=title,
    )
    return watched


@torch.no_grad()
def examine(watched: Watched, scale: Scale) -> dict[str, Any]:
    """Loss, balance and specialisation on validation data of the same domains.

    Returns:
        validation: mean squared error.
        max_vio: over the whole validation set (the papers' global MaxVio).
        max_vio_batch: mean over the last sixth of the training's batches.
        max_vio_by_size: MaxVio of 1, 2, 4, ... sequences at a time, mean.
        dead: experts with less than 5 percent of an even load.
        information: I(domain; expert) / H(domain).
        table: count_GE, tokens of each domain at each expert.
    """
    model: Any = watched.run.model
    device = next(model.parameters()).device
    made = watched.task.validation(TOY[scale].validation)
    model.eval()
    with routings(model) as found:
        loss = model.loss(made.x_BTD.to(device), made.y_BTD.to(device)).item()
    index_BTK = found[0].index_NK.cpu().unflatten(0, made.x_BTD.shape[:2])
    count_GE = load_table(index_BTK, made.domain_B, DOMAINS, EXPERTS)
    last = watched.max_vio[-max(1, len(watched.max_vio) // 6) :]
    return {
        "validation": round(loss, 5),
        "max_vio": round(max_violation(count_GE.sum(0)), 4),
        "max_vio_batch": round(sum(last) / len(last), 4),
        "max_vio_by_size": by_size(index_BTK),
        "dead": dead_experts(count_GE.sum(0)),
        "information": round(information_share(count_GE), 4),
        "table": count_GE.int().tolist(),
    }


def by_size(index_BTK: Tensor) -> list[float]:
    """Mean MaxVio when 1, 2, 4, ... sequences are computed together."""
    found, size = [], 1
    while size <= len(index_BTK):
        whole = index_BTK[: len(index_BTK) // size * size]
        parts = whole.reshape(-1, size * whole[0].numel())
        values = [
            max_violation(torch.bincount(p, minlength=EXPERTS)) for p in parts
        ]
        found.append(round(sum(values) / len(values), 3))
        size *= 2
    return found
