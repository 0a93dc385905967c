"""What a collective moves: the textbook's count, for each of torch's collectives.

    n   payload: the bytes that this rank hands in
    W   ranks in the group

    all_reduce      ring     2(W-1)/W n   a reduce-scatter, then an all-gather
    all_gather      ring     (W-1) n      each part passes every rank but its own
    reduce_scatter  ring     (W-1)/W n
    all_to_all      direct   n less the part a rank keeps
    broadcast       direct   (W-1) n from the root, nothing from the others
    scatter         direct   (W-1)/W n from the root
    reduce, gather  direct   n from each rank but the root
    send            direct   n

No algorithm moves fewer bytes in all. Real ones may move more, or share them
out differently: gloo sends a broadcast down a tree, and its reduce_scatter
moves twice these bytes. That is why the sockets are read as well.

The names are those of `torch.distributed`. A collective over a list of tensors
that torch fuses ("coalesced") counts as one call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rule:
    """How one collective is counted.

    Attributes:
        formula: as the reader sees it.
        sent: bytes this rank sends, from n (a mean, perhaps), W and "this rank is the
            root".
        steps: messages that must follow one another, from W.
    """

    formula: str
    sent: Callable[[float, int, bool], float]
    steps: Callable[[int], int]


def one_step(W: int) -> int:
    return 1


RING_HALF = Rule("(W-1)/W n", lambda n, W, root: n * (W - 1) / W, lambda W: W - 1)
GATHER = Rule("(W-1) n", lambda n, W, root: n * (W - 1), lambda W: W - 1)
# The bytes a rank keeps depend on its splits: `describe` takes them off.
EXCHANGE = Rule("n - own part", lambda n, W, root: n, one_step)
TO_ROOT = Rule("n, root 0", lambda n, W, root: 0 if root else n, one_step)

RULES = {
    "all_reduce": Rule(
        "2(W-1)/W n", lambda n, W, root: 2 * n * (W - 1) / W, lambda W: 2 * (W - 1)
    ),
    "all_gather": GATHER,
    "all_gather_single": GATHER,
    "reduce_scatter": RING_HALF,
    "reduce_scatter_single": RING_HALF,
    "all_to_all": EXCHANGE,
    "all_to_all_single": EXCHANGE,
    "broadcast": Rule(
        "root (W-1) n", lambda n, W, root: n * (W - 1) if root else 0, one_step
    ),
    "scatter": Rule(
        "root (W-1)/W n", lambda n, W, root: n * (W - 1) / W if root else 0, one_step
    ),
    "reduce": TO_ROOT,
    "gather": TO_ROOT,
    "send": Rule("n", lambda n, W, root: n, one_step),
    "recv": Rule("0", lambda n, W, root: 0, one_step),
    # By dissemination: in step k every rank hears of 2^k others.
    "barrier": Rule("0", lambda n, W, root: 0, lambda W: math.ceil(math.log2(W))),
}


@dataclass(frozen=True)
class Op:
    """Where an operator of torch's library `c10d` has its arguments.

    Attributes:
        collective: a key of RULES.
        given: position of the tensors handed in; None when there are none.
        group: position of the process group.
        root: position of the root's rank within the group, if it has one.
    """

    collective: str
    given: int | None
    group: int
    root: int | None = None


# Every way to issue a collective ends in one of these: torch.distributed's
# functions, DDP's reducer in C++, FSDP, functional collectives, pipelines.
OPS = {
    "allreduce_": Op("all_reduce", 0, 1),
    "allreduce_coalesced_": Op("all_reduce", 0, 1),
    "allgather_": Op("all_gather", 1, 2),
    "allgather_coalesced_": Op("all_gather", 1, 2),
    "_allgather_base_": Op("all_gather_single", 1, 2),
    "allgather_into_tensor_coalesced_": Op("all_gather_single", 1, 2),
    "reduce_scatter_": Op("reduce_scatter", 1, 2),
    "_reduce_scatter_base_": Op("reduce_scatter_single", 1, 2),
    "reduce_scatter_tensor_coalesced_": Op("reduce_scatter_single", 1, 2),
    "alltoall_": Op("all_to_all", 1, 2),
    "alltoall_base_": Op("all_to_all_single", 1, 2),
    "broadcast_": Op("broadcast", 0, 1, root=2),
    "reduce_": Op("reduce", 0, 1, root=3),
    "gather_": Op("gather", 1, 2, root=3),
    "scatter_": Op("scatter", 1, 2, root=3),
    "send": Op("send", 0, 1),
    "recv_": Op("recv", 0, 1),
    "recv_any_source_": Op("recv", 0, 1),
    "barrier": Op("barrier", None, 1),
    "monitored_barrier_": Op("barrier", None, 1),
}


@dataclass(frozen=True)
class Collective:
    """One call on one rank.

    Attributes:
        name: as in torch.distributed.
        ranks: W, the size of the group.
        payload: n, bytes handed in. A rank that only receives (recv, a
            broadcast or a scatter from another) hands in what is to be filled.
        sent: bytes that this rank sends by the rule above.
        steps: messages that must follow one another.
    """

    name: str
    ranks: int
    payload: int
    sent: int
    steps: int


def size_in_bytes(tensors: Any) -> int:
    """Of a tensor, or of however deeply nested lists of tensors."""
    if isinstance(tensors, (list, tuple)):
        return sum(map(size_in_bytes, tensors))
    if tensors.is_sparse:
        return tensors._values().nbytes + tensors._indices().nbytes
    return tensors.numel() * tensors.element_size()


def describe(name: str, args: Sequence[Any], rank: int, ranks: int) -> Collective:
    """What a call of the operator c10d::`name` moves.

    Args:
        name: a key of OPS.
        args: the operator's arguments; trailing defaults may be missing.
        rank: this rank's number in the group.
        ranks: W, the size of the group.
    """
    op = OPS[name]
    rule = RULES[op.collective]
    n = 0 if op.given is None else size_in_bytes(args[op.given])
    root = op.root is not None and args[op.root] == rank
    sent = rule.sent(n, ranks, root)
    if rule is EXCHANGE:
        sent -= own_part(args, rank, ranks)
    if op.collective == "scatter" and not root:
        n = size_in_bytes(args[0])
    return Collective(op.collective, ranks, n, round(sent), rule.steps(ranks))


def own_part(args: Sequence[Any], rank: int, ranks: int) -> float:
    """The bytes of an all_to_all that stay where they are."""
    given = args[1]
    if isinstance(given, (list, tuple)):
        return size_in_bytes(given[rank])
    n = size_in_bytes(given)
    splits = args[4]
    if not splits:
        return n / ranks
    return n * splits[rank] / max(given.size(0), 1)
