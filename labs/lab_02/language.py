"""The GPT of lab 02 on the corpus: dense layers of three widths, and experts.

Shape suffixes: L mixtures, G kinds of bytes, E experts, N tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from labs.lab_02.costs import Cost, gpt_cost
from labs.lab_02.loads import dead_experts, information_share, load_table
from labs.lab_02.plan import EXPERTS, GPT_PLANS, SHARED, TOP_K
from labsupport.errors import LabError
from labsupport.nn import GPT, MixtureOfExperts
from labsupport.nn.moe_balance import (
    AuxiliaryLoss,
    LoadBalancer,
    max_violation,
    routings,
)
from labsupport.settings import Scale, choose_settings
from labsupport.tasks.corpus import Corpus
from labsupport.train import Run, mean_loss, train

DENSE = ("dense", "dense_25", "dense_total")
ARMS = (*DENSE, "none", "sequence", "free")
NAMES = {
    "dense": "dense, same active weights",
    "dense_25": "dense, 2.5 times the compute",
    "dense_total": "dense, same total weights",
    "none": "experts, no balancing",
    "sequence": "experts, auxiliary loss",
    "free": "experts, loss-free",
}
"""As figures and text call them."""

KINDS = ("lower case", "upper case", "digit", "space", "line end", "other")


def kind_of(tokens: Tensor) -> Tensor:
    """Which of KINDS a byte is."""
    kind = torch.full_like(tokens, KINDS.index("other"))
    for name, first, last in (
        ("lower case", "a", "z"),
        ("upper case", "A", "Z"),
        ("digit", "0", "9"),
        ("space", " ", " "),
        ("line end", "\n", "\n"),
    ):
        inside = (tokens >= ord(first)) & (tokens <= ord(last))
        kind[inside] = KINDS.index(name)
    return kind


def expert_width(scale: Scale) -> int:
    """H: K + S experts together are as wide as the dense layer."""
    return GPT_PLANS[scale].config.ffn_width // (TOP_K + SHARED)


def dense_width(arm: str, scale: Scale) -> int:
    """F of a dense arm.

    "dense_25" has 2.5 times the mixture's FLOPs a token, the whole model counted, as
    the 16B DeepSeekMoE has 40 % of the 7B LLaMA2's.
    """
    config, H = GPT_PLANS[scale].config, expert_width(scale)
    if arm == "dense":
        return config.ffn_width
    if arm == "dense_total":
        return (EXPERTS + SHARED) * H
    aim = 2.5 * gpt_cost(config, (EXPERTS, TOP_K, SHARED, H)).active
    without = gpt_cost(replace(config, d_ff=1)).active
    return round((aim - without) / (3 * config.d_model * config.n_layers)) + 1


def make_gpt(
    arm: str, scale: Scale, experts: int = EXPERTS, **parts: Any
) -> tuple[GPT, Cost]:
    """The model of an arm, and what it costs.

    Args:
        parts: arguments of `MixtureOfExperts`.

    Raises:
        LabError: an unknown arm.
    """
    if arm not in ARMS:
        raise LabError(f"arm={arm!r}: choose one of {', '.join(ARMS)}.")
    config = GPT_PLANS[scale].config
    if arm in DENSE:
        config = replace(config, d_ff=dense_width(arm, scale))
        return GPT(config), gpt_cost(config)
    H = expert_width(scale)
    sizes = {
        "experts": experts,
        "top_k": TOP_K,
        "shared": SHARED,
        "d_expert": H,
    }
    model = GPT(config, ffn=partial(MixtureOfExperts, **sizes, **parts))
    return model, gpt_cost(config, (experts, TOP_K, SHARED, H))


@dataclass
class Trained:
    """A training, and the loads of its experts along the way.

    Attributes:
        run: the training.
        cost: of its model.
        max_vio: for every step, MaxVio of each mixture.
        load_LE: of the last step's batch; None for dense models.
    """

    run: Run
    cost: Cost
    max_vio: list[list[float]] = field(default_factory=list)
    load_LE: Tensor | None = None


def train_gpt(
    arm: str,
    seed: int,
    scale: Scale,
    *,
    lr: float | None = None,
    steps: int | None = None,
    coefficient: float = 0.0,
    live: bool = False,
    title: str = "Training",
    **parts: Any,
) -> Trained:
    """Train a GPT on the corpus.

    Args:
        arm: one of ARMS.
        coefficient: alpha of the auxiliary loss, u of the loss-free update.
        parts: arguments of `MixtureOfExperts`.
    """
    plan, settings = GPT_PLANS[scale], choose_settings(scale, seed)
    torch.manual_seed(seed)
    model, cost = make_gpt(arm, scale, **parts)
    trained = Trained(Run(model, title, steps or plan.steps), cost)
    balancer = None
    if arm not in DENSE:
        balancer = LoadBalancer(model, coefficient if arm == "free" else 0.0)

    def measure(_: Any) -> dict[str, float]:
        if balancer is None or balancer.load_LE is None:
            return {}
        trained.load_LE = balancer.load_LE.cpu()
        trained.max_vio.append(
            [max_violation(load_E) for load_E in trained.load_LE]
        )
        return {"max_vio": max(trained.max_vio[-1])}

    corpus = Corpus.load()
    trained.run = train(
        model,
        partial(
            corpus.batch,
            "train",
            batch_size=plan.batch_size,
            length=plan.length,
            seed=seed,
        ),
        steps=steps or plan.steps,
        lr=lr or plan.lr,
        settings=settings,
        loss_fn=AuxiliaryLoss(coefficient) if arm == "sequence" else None,
        measure=measure,
        prepare=None if balancer is None else balancer.attach,
        live=live,
        title=title,
    )
    return trained


@torch.no_grad()
def examine(trained: Trained, scale: Scale) -> dict[str, Any]:
    """Loss, balance and specialisation on the validation text.

    Returns:
        validation: nats a byte.
        total, active: parameters.
        max_vio: over the whole validation text, mean over layers; for mixtures.
        dead: experts with less than 5 percent of an even load, all layers.
        information: I(kind; expert) / H(kind) of the byte that goes in, best layer.
        tables: count_GE of every layer.
    """
    model: Any = trained.run.model
    plan = GPT_PLANS[scale]
    count = 4 if scale == "ci" else 32
    corpus = Corpus.load()
    batches = corpus.validation_batches(
        count, batch_size=plan.batch_size, length=plan.length
    )
    with routings(model) as found:
        loss = mean_loss(model, batches)
    row: dict[str, Any] = {
        "validation": round(loss, 5),
        "total": trained.cost.total,
        "active": trained.cost.active,
    }
    if not found:
        return row
    # One entry for each layer of each batch, batches first.
    L = len(found) // len(batches)
    tables = []
    for layer in range(L):
        table_GE = torch.zeros(len(KINDS), EXPERTS, dtype=torch.float64)
        for routing, (tokens_BT, _) in zip(
            found[layer::L], batches, strict=True
        ):
            kind_N = kind_of(tokens_BT.flatten())
            index_NK = routing.index_NK.cpu()
            table_GE += load_table(
                index_NK[:, None], kind_N, len(KINDS), EXPERTS
            )
        tables.append(table_GE)
    loads = [table_GE.sum(0) for table_GE in tables]
    violations = [max_violation(load_E) for load_E in loads]
    return row | {
        "max_vio": round(sum(violations) / L, 4),
        "dead": sum(dead_experts(load_E) for load_E in loads),
        "information": round(max(information_share(t) for t in tables), 4),
        "tables": [table_GE.int().tolist() for table_GE in tables],
    }
