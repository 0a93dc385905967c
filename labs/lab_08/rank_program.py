"""One teacher rank scores text for the student ranks, which learn together.

    rank 0          reads all batches, sends scores: all 256, or the k largest
    ranks 1 to W-1  each learns from its own batch; gradients are averaged among them

Shape suffixes: B sequences, T bytes, N = B T tokens, V vocabulary, K = k.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from labs.lab_08.text import STUDENTS, TextPlan, batches_of
from labsupport.distill import DistillationLoss, TopK, top_k_of
from labsupport.distill.top_k import top_k_divergence
from labsupport.errors import LabError
from labsupport.nn import GPT, GPTConfig
from labsupport.settings import Scale
from labsupport.tasks.corpus import Corpus
from labsupport.train import Recipe, make_optimizer, mean_loss

STEPS: Mapping[Scale, int] = {"ci": 6, "cpu": 60, "gpu": 60}
TEACHER = 0


def distil_over_ranks(
    dist: Any,
    weights: Mapping[str, Tensor],
    config: Mapping[str, Any],
    scale: Scale,
    seed: int,
    device: torch.device,
    top_k: int | None = None,
) -> dict[str, float]:
    """A student of text, taught over a wire.

    Args:
        dist: `torch.distributed` with a process group of at least 2 ranks.
        weights, config: of the teacher.
        scale: how large the student is.
        seed: of weights and order.
        device: of this rank.
        top_k: how many scores of a token are sent; None for all.

    Returns:
        bytes of scores that this rank sent or received, and the student's validation
        loss in nats a byte (NaN on the teacher).

    Raises:
        LabError: a single rank.
    """
    W, rank = dist.get_world_size(), dist.get_rank()
    if W < 2:
        raise LabError(
            "A teacher and a student are two ranks: use --nproc 2 or more."
        )
    # Every rank has to call new_group, also who is not in it.
    students = dist.new_group(list(range(1, W)))
    plan, corpus = STUDENTS[scale], Corpus.load()
    # The teacher reads the whole batch, each student its share of it.
    share = {} if rank == TEACHER else {"rank": rank - 1, "world": W - 1}
    batches = [
        corpus.batch(
            "train",
            step,
            batch_size=plan.batch_size * (W - 1),
            length=plan.length,
            seed=seed,
            **share,
        )
        for step in range(STEPS[scale])
    ]
    if rank == TEACHER:
        teacher = GPT(GPTConfig(**config)).to(device).eval()
        teacher.load_state_dict(dict(weights))
        sent = teach(dist, teacher, batches, device, top_k)
        dist.barrier()
        return {"bytes": sent, "loss": float("nan")}
    torch.manual_seed(seed)
    student = GPT(plan.config).to(device)
    received = learn(dist, students, student, plan, batches, device, top_k)
    loss = mean_loss(student, batches_of(corpus, plan))
    dist.barrier()
    return {"bytes": received, "loss": loss}


def teach(
    dist: Any,
    teacher: GPT,
    batches: list[tuple[Tensor, Tensor]],
    device: torch.device,
    top_k: int | None,
) -> int:
    """Score every student's share of each batch, and send it. Returns bytes sent."""
    sent = 0
    for tokens_BT, _ in batches:
        shares = tokens_BT.chunk(dist.get_world_size() - 1)
        for student, share in enumerate(shares, 1):
            with torch.no_grad():
                scores_NV = teacher(share.to(device)).flatten(0, 1)
            for part in wire_parts(scores_NV, top_k):
                dist.send(part.contiguous(), dst=student)
                sent += part.numel() * part.element_size()
    return sent


def wire_parts(scores_NV: Tensor, top_k: int | None) -> list[Tensor]:
    """The tensors that go over the wire."""
    if top_k is None:
        return [scores_NV.float()]
    kept = top_k_of(scores_NV, top_k)
    return [kept.logp_NK, kept.token_NK, kept.rest_N]


def receive_parts(
    dist: Any, N: int, V: int, device: torch.device, top_k: int | None
) -> list[Tensor]:
    """The same, received."""
    if top_k is None:
        parts = [torch.empty(N, V, device=device)]
    else:
        index = torch.uint8 if V <= 256 else torch.int32
        parts = [
            torch.empty(N, top_k, dtype=torch.float16, device=device),
            torch.empty(N, top_k, dtype=index, device=device),
            torch.empty(N, dtype=torch.float16, device=device),
        ]
    for part in parts:
        dist.recv(part, src=TEACHER)
    return parts


def learn(
    dist: Any,
    students: Any,
    student: GPT,
    plan: TextPlan,
    batches: list[tuple[Tensor, Tensor]],
    device: torch.device,
    top_k: int | None,
) -> int:
    """Train on what the teacher sends. Returns bytes received."""
    recipe = Recipe(len(batches), plan.lr)
    optimizer = make_optimizer(student, recipe)
    whole, received = DistillationLoss(), 0
    V, members = student.config.vocab_size, dist.get_world_size(students)
    for step, (tokens_BT, targets_BT) in enumerate(batches):
        tokens_BT = tokens_BT.to(device)
        parts = receive_parts(dist, tokens_BT.numel(), V, device, top_k)
        received += sum(part.numel() * part.element_size() for part in parts)
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate(step)
        scores_NV = student(tokens_BT).flatten(0, 1)
        if top_k is None:
            loss = whole(scores_NV, parts[0], targets_BT.flatten().to(device))
        else:
            loss = top_k_divergence(scores_NV, TopK(*parts)).mean()
        optimizer.zero_grad()
        loss.backward()
        for weight in student.parameters():
            assert weight.grad is not None
            dist.all_reduce(weight.grad, group=students)
            weight.grad /= members
        nn.utils.clip_grad_norm_(student.parameters(), recipe.clip)
        optimizer.step()
    return received
