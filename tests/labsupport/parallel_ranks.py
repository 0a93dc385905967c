"""The ranks' side of test_parallel.py: steps of layouts against one process."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from labsupport.distributed.interception import Call, intercept, stop_intercepting
from labsupport.distributed.parallel.engine import ParallelGPT, apply
from labsupport.distributed.parallel.expected import Message, expected_messages
from labsupport.distributed.parallel.heads import separate_qkv
from labsupport.distributed.parallel.layout import Layout, layouts
from labsupport.distributed.parallel.memory import (
    expected_bytes,
    held_bytes,
    registered_bytes,
)
from labsupport.distributed.parallel.mesh import build_mesh
from labsupport.distributed.parallel.optimizer import clip_gradients, make_adamw
from labsupport.distributed.parallel.synchronise import WAYS, Copies
from labsupport.distributed.traffic import count_traffic
from labsupport.nn import GPT, GPTConfig, MixtureOfExperts
from labsupport.train import Recipe

CONFIG = GPTConfig(
    vocab_size=32, d_model=16, n_layers=4, n_heads=4, d_ff=32, max_len=16
)
EXPERTS = 4
B, T = 16, 8


def make_model(layout: Layout) -> GPT:
    """The smallest that the layout can cut, from the same seed everywhere."""
    torch.manual_seed(0)
    config = replace(CONFIG, n_layers=max(2, layout.stages))
    ffn = partial(MixtureOfExperts, experts=EXPERTS, top_k=2, d_expert=8)
    return separate_qkv(GPT(config, ffn=ffn) if layout.expert > 1 else GPT(config))


def make_batch(step: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    text = torch.randint(0, 32, (B, T + 1), generator=generator)
    return text[:, :-1].contiguous(), text[:, 1:].contiguous()


def layouts_to_try(world: int) -> list[Layout]:
    """Every legal one, and with two stages every schedule."""
    found = layouts(world, CONFIG, B, experts=0)
    found += [x for x in layouts(world, CONFIG, B, experts=EXPERTS) if x.expert > 1]
    if world == 2:
        for name in ("GPipe", "Interleaved1F1B", "InterleavedZeroBubble", "ZBV"):
            found.append(Layout(pipeline=2, schedule=name, microbatches=4))
    if world in (2, 4):
        found.append(
            Layout(
                replicate=world // 2, pipeline=2, schedule="DualPipeV", microbatches=4
            )
        )
    return found


def compare(layout: Layout) -> dict[str, Any]:
    """One step of a layout, held against the same step in one process."""
    whole = make_model(layout)
    batch = make_batch()
    loss = whole.loss(*batch)
    loss.backward()
    model = apply(make_model(layout), layout, build_mesh(layout))
    # The first step of DDP and of a pipeline is not like those that follow.
    first = model.forward_backward(*batch).item()
    second, grads = model.loss_and_gradients(*batch)
    wanted = dict(whole.named_parameters())
    assert grads.keys() == wanted.keys()
    return {
        **counted(model),
        "loss": [abs(each - loss.item()) for each in (first, second)],
        "gradient": max(apart(g, wanted[name].grad) for name, g in grads.items()),
    }


def counted(model: ParallelGPT) -> dict[str, Any]:
    """Collectives of a step and bytes of a rank, beside what the formulas say."""
    # It brings triton, which kernels must come before: see labsupport's parallel.
    from torch.distributed.tensor.debug import CommDebugMode

    layout, config = model.layout, model.config
    pipeline = model.mesh.get_local_rank("pipeline")
    optimizer = make_adamw(model, Recipe(steps=1, lr=1e-3))
    model.zero_grad()
    debug = CommDebugMode()
    # torch's counter loses its way where forwards follow on backwards: IndexError.
    within = debug if layout.pipeline == 1 else nullcontext()
    with count_traffic() as traffic, within:
        model.backward(*make_batch())
    clip_gradients(model, 1.0)
    optimizer.step()
    found: dict[str, Any] = {
        "held": held_bytes(model, optimizer),
        "counted": {
            name: (count.calls, count.payload, count.ideal_sent)
            for name, count in traffic.collectives.items()
        },
        "debug": {str(k): n for k, n in debug.get_comm_counts().items() if n},
    }
    if layout.expert == 1:
        found |= {
            "formula": expected_bytes(layout, config, pipeline),
            "expected": in_all(
                expected_messages(layout, config, B, T, pipeline=pipeline)
            ),
        }
    return found


def in_all(messages: list[Message]) -> dict[str, tuple[int, int, int]]:
    """Calls, bytes handed in and bytes sent, by the name of the collective."""
    totals: dict[str, tuple[int, int, int]] = {}
    for m in messages:
        calls, payload, sent = totals.get(m.name, (0, 0, 0))
        totals[m.name] = (
            calls + m.calls,
            payload + m.calls * m.payload,
            sent + round(m.sent),
        )
    return totals


@torch.no_grad()
def apart(x: Tensor, wanted: Tensor | None) -> float:
    """The length of the difference, relative to what is wanted."""
    assert wanted is not None and x.shape == wanted.shape
    return ((x - wanted).norm() / wanted.norm()).item()


def compare_all() -> dict[str, Any]:
    """What a rank finds out about every layout of so many ranks."""
    return {str(x): compare(x) for x in layouts_to_try(dist.get_world_size())}


WIDE = replace(CONFIG, d_model=96, d_ff=256, n_layers=2)
ON_THE_WIRE = (
    Layout(replicate=4),
    Layout(shard=4),
    Layout(shard=4, reshard=False),
    Layout(shard=2, tensor=2),
    Layout(replicate=2, pipeline=2, microbatches=2),
)


def wire(layout: Layout) -> dict[str, float]:
    """Bytes that this rank's sockets sent in a step, beside what formulas say."""
    torch.manual_seed(0)
    model = apply(GPT(WIDE), layout, build_mesh(layout))
    batch = make_batch()
    model.backward(*batch)  # connections are made at first use
    model.zero_grad()
    dist.barrier()
    with count_traffic() as traffic:
        model.backward(*batch)
        dist.barrier()  # what is under way has arrived
    messages = expected_messages(
        layout, WIDE, B, T, pipeline=model.mesh.get_local_rank("pipeline")
    )
    assert traffic.sent is not None
    return {
        "sockets": traffic.sent,
        "ideal": sum(m.sent for m in messages),
        "gloo": sum(m.sent_by_gloo for m in messages),
    }


def wire_all() -> dict[str, Any]:
    """The same of each layout; and what is special about some."""
    return {
        "wire": {str(layout): wire(layout) for layout in ON_THE_WIRE},
        "registered": registered(),
        "ways": ways(),
        "buckets": {cap: buckets(cap) for cap in (0.02, 0.1, 1.0)},
    }


def ways() -> dict[str, list[float]]:
    """How far each way to sum gradients is from one process: loss, gradients."""
    tokens_BT, targets_BT = make_batch()
    whole = make_model(Layout())
    wanted = whole.loss(tokens_BT, targets_BT)
    wanted.backward()
    rank, W = dist.get_rank(), dist.get_world_size()
    found = {}
    for way in WAYS:
        copies = Copies(make_model(Layout()), way, bucket_cap_mb=0.01)
        loss = copies.backward(tokens_BT.chunk(W)[rank], targets_BT.chunk(W)[rank])
        dist.all_reduce(loss)
        pairs = zip(copies.weights, whole.parameters(), strict=True)
        gap = max(apart(p.grad, q.grad) for p, q in pairs if p.grad is not None)
        found[way] = [abs(loss.item() / W - wanted.item()), gap]
    return found


def registered() -> dict[bool, list[int]]:
    """Bytes of weights before a step, and between its forward and its backward."""
    found = {}
    for reshard in (True, False):
        layout = Layout(shard=4, reshard=reshard)
        model = apply(GPT(WIDE), layout, build_mesh(layout))
        before = registered_bytes(model)
        logits_BTV = model.parts[0](make_batch()[0])
        found[reshard] = [before, registered_bytes(model)]
        logits_BTV.sum().backward()
        assert registered_bytes(model) == before
    return found


def buckets(cap: float) -> tuple[list[int], list[int]]:
    """Bytes of DDP's messages as they go, and by formula."""
    sizes: list[int] = []

    def note(call: Call, issue: Any) -> Any:
        sizes.append(call.collective.payload)
        return issue()

    layout = Layout(replicate=4)
    model = apply(GPT(WIDE), layout, build_mesh(layout), bucket_cap_mb=cap)
    for _ in range(2):  # DDP sorts its buckets anew after the first step
        model.backward(*make_batch())
    intercept(note)
    model.backward(*make_batch())
    stop_intercepting(note)
    messages = expected_messages(layout, WIDE, B, T, bucket_cap_mb=cap)
    return sizes, [m.payload for m in messages]
