"""The exercises of the processes primer, P.1 to P.6, and the mistakes they expect."""
# mypy: allow-untyped-defs

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from labs.lab_processes import ranks_ours as ours
from labsupport.exercise import (
    CheckFailed,
    Exercise,
    WrongAnswer,
    expect_close,
)
from labsupport.exercise.check import show_values
from labsupport.exercise.practice import PracticeGroup, on_ranks

Probes = Sequence[tuple[Any, ...]]
Candidate = Callable[..., Any]


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator)


def stacked(results: Sequence[Any], like_N: Tensor) -> Tensor:
    """The results of all ranks, each of which has the shape of `like_N`."""
    for rank, y_N in enumerate(results):
        if not isinstance(y_N, Tensor) or y_N.shape != like_N.shape:
            asked = f"a tensor of shape {tuple(like_N.shape)} on rank {rank}"
            raise CheckFailed(asked, show_values(y_N))
    return torch.stack(list(results))


# --- P.1 my share ------------------------------------------------------------


def share_probes() -> Probes:
    """More items than ranks, fewer, and a number that divides."""
    cases = [(10, 4), (5, 4), (8, 4), (2, 3), (7, 1)]
    return [(N, rank, W) for N, W in cases for rank in range(W)]


def check_shares(candidate: Candidate) -> None:
    for items, rank, world in share_probes():
        wanted = ours.my_share(items, rank, world)
        came = candidate(items, rank, world)
        if came != wanted:
            asked = f"my_share({items}, rank={rank}, world={world}) = {wanted}"
            raise CheckFailed(asked, show_values(came))


def share_rounded_down(items, rank, world):
    each = items // world
    return rank * each, (rank + 1) * each


def share_rest_to_last(items, rank, world):
    each = items // world
    return rank * each, items if rank == world - 1 else (rank + 1) * each


def share_rounded_up(items, rank, world):
    each = -(-items // world)
    return min(rank * each, items), min((rank + 1) * each, items)


def share_overlapping(items, rank, world):
    each, left_over = divmod(items, world)
    return rank * each, (rank + 1) * each + (rank < left_over)


def share_as_count(items, rank, world):
    first, after = ours.my_share(items, rank, world)
    return first, after - first


SHARE = Exercise(
    id="P.1",
    title="my share of the items",
    minutes=4,
    difficulty=1,
    ours=ours.my_share,
    checks=(("10, 5, 8, 2 and 7 items", check_shares),),
    probes=share_probes,
    wrong=(
        WrongAnswer(
            "rounded down",
            share_rounded_down,
            "the remainder is nobody's: 10 // 4 is 2, so items 8 and 9 are left "
            "out.",
            1,
        ),
        WrongAnswer(
            "rest to the last",
            share_rest_to_last,
            "the last rank gets the whole remainder, and all others wait for it.",
            1,
        ),
        WrongAnswer(
            "rounded up",
            share_rounded_up,
            "rounded up: the last ranks get too little, or nothing at all.",
            1,
        ),
        WrongAnswer(
            "overlapping",
            share_overlapping,
            "the ranks before you hold extra items too, so you begin later.",
            2,
        ),
        WrongAnswer(
            "count",
            share_as_count,
            "the second number is where the share ends, not how long it is.",
            3,
        ),
    ),
    hints=(
        "divmod(items, world) gives two numbers: what everyone gets, and how many "
        "are left over. The first `left_over` ranks get one more.",
        "Of the ranks before you, min(rank, left_over) hold one more: begin at "
        "rank * each + min(rank, left_over).",
        "The share ends at first + each, and one later if rank < left_over.",
    ),
)

# --- P.2 swap ----------------------------------------------------------------


def swap_on_ranks(function: Candidate, x_RN: Tensor) -> Tensor:
    return stacked(on_ranks(function, x_RN), x_RN[0])


def swap_probes() -> Probes:
    return [(random(2, 3),), (random(2, 1),)]


def check_swap(candidate: Candidate) -> None:
    x_RN = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    y_RN = candidate(x_RN)
    for rank in (0, 1):
        expect_close(
            y_RN[rank], x_RN[1 - rank], f"the other's x_N on rank {rank}"
        )


def swap_receive_first(x_N, dist):
    other, y_N = 1 - dist.get_rank(), torch.empty_like(x_N)
    dist.recv(y_N, other)
    dist.send(x_N, other)
    return y_N


def swap_send_first(x_N, dist):
    other, y_N = 1 - dist.get_rank(), torch.empty_like(x_N)
    dist.send(x_N, other)
    dist.recv(y_N, other)
    return y_N


def swap_own(x_N, dist):
    ours.swap(x_N, dist)
    return x_N


def swap_with_itself(x_N, dist):
    y_N = torch.empty_like(x_N)
    dist.send(x_N, dist.get_rank())
    dist.recv(y_N, dist.get_rank())
    return y_N


def swap_overwritten(x_N, dist):
    if dist.get_rank() == 0:
        dist.send(x_N, 1)
        dist.recv(x_N, 1)
    else:
        dist.recv(x_N, 0)
        dist.send(x_N, 0)
    return x_N


SWAP = Exercise(
    id="P.2",
    title="swap with the other rank",
    minutes=5,
    difficulty=1,
    ours=ours.swap,
    group=swap_on_ranks,
    checks=(("three numbers each", check_swap),),
    probes=swap_probes,
    wrong=(
        WrongAnswer(
            "both receive first",
            swap_receive_first,
            "both ranks receive first, so nobody ever sends.",
            1,
        ),
        WrongAnswer(
            "both send first",
            swap_send_first,
            "both ranks send first, and a send may last until the other receives.",
            1,
        ),
        WrongAnswer(
            "own", swap_own, "x_N is what you sent; return what came.", 3
        ),
        WrongAnswer(
            "with itself",
            swap_with_itself,
            "the second argument is the other rank, 1 - dist.get_rank().",
            2,
        ),
        WrongAnswer(
            "overwritten",
            swap_overwritten,
            "rank 1 receives into x_N before it has sent it, and so returns rank 0's "
            "letter to rank 0: receive into a tensor of its own.",
            3,
        ),
    ),
    hints=(
        "The two ranks need different orders: one sends, then receives; the other "
        "receives, then sends. Ask for dist.get_rank().",
        "Rank 0 sends x_N to rank 1, then receives into y_N from rank 1.",
        "Receive into y_N, never into x_N, and return y_N.",
    ),
)

# --- P.3 shift ---------------------------------------------------------------


def shift_probes() -> Probes:
    return [(random(W, 2),) for W in (2, 3, 4)]


def check_shift(candidate: Candidate) -> None:
    for W in (2, 3, 4):
        x_RN = torch.arange(W, dtype=torch.float32)[:, None] * 10
        y_RN = candidate(x_RN)
        for rank in range(W):
            left = (rank - 1) % W
            asked = f"on rank {rank} of {W} what rank {left} sent"
            expect_close(y_RN[rank], x_RN[left], asked)


def shift_blocking(x_N, dist):
    rank, W = dist.get_rank(), dist.get_world_size()
    y_N = torch.empty_like(x_N)
    dist.send(x_N, (rank + 1) % W)
    dist.recv(y_N, (rank - 1) % W)
    return y_N


def shift_by(x_N, dist, to=1, source=-1, modulo=True):
    rank, W = dist.get_rank(), dist.get_world_size()
    to, source = rank + to, rank + source
    if modulo:
        to, source = to % W, source % W
    y_N = torch.empty_like(x_N)
    requests = dist.isend(x_N, to), dist.irecv(y_N, source)
    for request in requests:
        request.wait()
    return y_N


def shift_to_the_left(x_N, dist):
    return shift_by(x_N, dist, to=-1, source=1)


def shift_without_modulo(x_N, dist):
    return shift_by(x_N, dist, modulo=False)


def shift_both_right(x_N, dist):
    return shift_by(x_N, dist, to=1, source=1)


def shift_without_wait(x_N, dist):
    rank, W = dist.get_rank(), dist.get_world_size()
    y_N = torch.empty_like(x_N)
    dist.isend(x_N, (rank + 1) % W)
    dist.irecv(y_N, (rank - 1) % W)
    return y_N


def shift_send_not_waited(x_N, dist):
    rank, W = dist.get_rank(), dist.get_world_size()
    y_N = torch.empty_like(x_N)
    dist.isend(x_N, (rank + 1) % W)
    dist.irecv(y_N, (rank - 1) % W).wait()
    return y_N


def shift_receive_not_waited(x_N, dist):
    rank, W = dist.get_rank(), dist.get_world_size()
    y_N = torch.empty_like(x_N)
    sending = dist.isend(x_N, (rank + 1) % W)
    dist.irecv(y_N, (rank - 1) % W)
    sending.wait()
    return y_N


def shift_read_early(x_N, dist):
    rank, W = dist.get_rank(), dist.get_world_size()
    y_N = torch.empty_like(x_N)
    requests = dist.isend(x_N, (rank + 1) % W), dist.irecv(y_N, (rank - 1) % W)
    early_N = y_N.clone()
    for request in requests:
        request.wait()
    return early_N


_WAIT = "isend and irecv only start a message: call wait() on both requests."

SHIFT = Exercise(
    id="P.3",
    title="one step round the ring",
    minutes=5,
    difficulty=2,
    ours=ours.shift,
    group=swap_on_ranks,
    checks=(("rings of 2, 3 and 4", check_shift),),
    probes=shift_probes,
    wrong=(
        WrongAnswer(
            "all send first",
            shift_blocking,
            "every rank sends first and waits for its neighbour to receive, all the "
            "way round: start the send with isend.",
            1,
        ),
        WrongAnswer(
            "to the left",
            shift_to_the_left,
            "that goes round the other way: send to rank + 1, receive from rank - 1.",
            2,
        ),
        WrongAnswer(
            "no modulo",
            shift_without_modulo,
            "the last rank's right neighbour is rank 0: (rank + 1) % W.",
            2,
        ),
        WrongAnswer(
            "one neighbour",
            shift_both_right,
            "you send to the right and wait for a message from there; it comes from "
            "the left.",
            2,
        ),
        WrongAnswer("no wait", shift_without_wait, _WAIT, 3),
        WrongAnswer(
            "send not waited for",
            shift_send_not_waited,
            "the send needs its wait() too: until then x_N may not change.",
            3,
        ),
        WrongAnswer(
            "receive not waited for",
            shift_receive_not_waited,
            "the receive needs its wait() too: until then y_N holds nothing.",
            3,
        ),
        WrongAnswer(
            "read early",
            shift_read_early,
            "the buffer is read before wait(), when nothing has arrived (NaN).",
            3,
        ),
    ),
    hints=(
        "sending = dist.isend(x_N, right) returns at once, so you can receive while "
        "the message is under way.",
        "right = (rank + 1) % W, and left = (rank - 1) % W.",
        "sending.wait() and receiving.wait(), then return y_N.",
    ),
)

# --- P.4 ring all-reduce -----------------------------------------------------


def ring_on_ranks(function: Candidate, x_RN: Tensor) -> Tensor:
    """Each rank's result and, behind it, three numbers about what it sent.

    Messages, numbers, and the sum of these, which tells mistakes apart that end
    alike.
    """
    W = len(x_RN)
    group = PracticeGroup(W)
    y_RN = stacked(group.run(function, x_RN), x_RN[0])
    sent_R3 = torch.zeros(W, 3)
    for message in group.messages:
        sent = message.payload
        about_3 = torch.tensor([1.0, sent.numel(), sent.sum()])
        sent_R3[message.source] += about_3
    return torch.cat([y_RN, sent_R3], dim=1)


def ring_probes() -> Probes:
    return [(random(W, 2 * W),) for W in (2, 3, 4, 5)]


def who_is_in(value: float, world: int) -> str:
    """The terms of a sum to which rank r has contributed 10 ** r."""
    rest = round(value)
    if value != rest or rest < 0 or rest >= 10**world:
        return f"the number {value:g}"
    counts = [rest // 10**rank % 10 for rank in range(world)]
    terms = [
        f"{count} x rank {rank}" if count > 1 else f"rank {rank}"
        for rank, count in enumerate(counts)
        if count
    ]
    return " + ".join(terms) or "nothing"


def check_contributions(candidate: Candidate) -> None:
    """Rank r contributes 10 ** r, so that a sum tells whom it contains."""
    for W in (2, 3, 4):
        x_RN = torch.tensor([[10.0**rank] * W for rank in range(W)])
        came_RN = candidate(x_RN)[:, :W]
        for rank in range(W):
            for chunk in range(W):
                mine = who_is_in(came_RN[rank, chunk].item(), W)
                right = who_is_in((10**W - 1) / 9, W)
                if mine != right:
                    asked = f"{right} in chunk {chunk} on rank {rank}"
                    raise CheckFailed(asked, mine)


def check_sums(candidate: Candidate) -> None:
    for (x_RN,) in ring_probes():
        came_RN = candidate(x_RN)[:, :-3]
        for rank, came_N in enumerate(came_RN):
            asked = f"on rank {rank} of {len(x_RN)} the sum"
            expect_close(came_N, x_RN.sum(0), asked)


def check_traffic(candidate: Candidate) -> None:
    for (x_RN,) in ring_probes():
        W, N = x_RN.shape
        messages, numbers = 2 * (W - 1), 2 * (W - 1) * N // W
        for rank, sent_2 in enumerate(candidate(x_RN)[:, -3:-1]):
            if sent_2.tolist() != [messages, numbers]:
                came = [int(count) for count in sent_2]
                raise CheckFailed(
                    f"{messages} messages with {numbers} numbers in all from rank "
                    f"{rank} of {W}",
                    f"{came[0]} messages with {came[1]}",
                )


def ring(x_N, dist, first, second, add=True, add_again=False):
    """A ring of which a step's (send, change) chunks are given as functions."""
    rank, W = dist.get_rank(), dist.get_world_size()
    chunks = x_N.view(W, -1)
    for step in range(W - 1):
        send, change = first(rank, step)
        arrived = ours.shift(chunks[send % W], dist)
        chunks[change % W] = arrived + chunks[change % W] * add
    for step in range(W - 1):
        send, change = second(rank, step)
        arrived = ours.shift(chunks[send % W], dist)
        chunks[change % W] = arrived + chunks[change % W] * add_again
    return x_N


def right_first(rank, step):
    return rank - step, rank - step - 1


def right_second(rank, step):
    return rank + 1 - step, rank - step


def ring_same_chunk(x_N, dist):
    return ring(x_N, dist, lambda r, s: (r, r - 1), right_second)


def ring_wrong_target(x_N, dist):
    return ring(x_N, dist, lambda r, s: (r - s, r - s), right_second)


def ring_no_sum(x_N, dist):
    return ring(x_N, dist, right_first, right_second, add=False)


def ring_sum_again(x_N, dist):
    return ring(x_N, dist, right_first, right_second, add_again=True)


def ring_old_chunk(x_N, dist):
    return ring(x_N, dist, right_first, right_first)


def ring_first_half(x_N, dist):
    rank, W = dist.get_rank(), dist.get_world_size()
    chunks = x_N.view(W, -1)
    for step in range(W - 1):
        arrived = ours.shift(chunks[(rank - step) % W], dist)
        chunks[(rank - step - 1) % W] += arrived
    return x_N


def ring_whole(x_N, dist):
    travelling_N = x_N.clone()
    for _ in range(dist.get_world_size() - 1):
        travelling_N = ours.shift(travelling_N, dist)
        x_N += travelling_N
    return x_N


def ring_library(x_N, dist):
    dist.all_reduce(x_N)
    return x_N


RING = Exercise(
    id="P.4",
    title="a ring all-reduce",
    minutes=10,
    difficulty=3,
    ours=ours.ring_all_reduce,
    group=ring_on_ranks,
    checks=(
        ("whom each sum contains", check_contributions),
        ("random numbers on 2 to 5 ranks", check_sums),
        ("what each rank sends", check_traffic),
    ),
    probes=ring_probes,
    wrong=(
        WrongAnswer(
            "same chunk",
            ring_same_chunk,
            "the first loop sends the same chunk in every step: what arrived and was "
            "added has to travel on, so it goes back by one each time.",
            1,
        ),
        WrongAnswer(
            "wrong target",
            ring_wrong_target,
            "what arrives is your left neighbour's chunk, one before the one that "
            "you sent: add it there.",
            1,
        ),
        WrongAnswer(
            "no sum",
            ring_no_sum,
            "the first loop replaces the chunk: add what arrives, with +=.",
            2,
        ),
        WrongAnswer(
            "sum again",
            ring_sum_again,
            "the second loop adds; the sums are complete by then, so replace the "
            "chunk, with =.",
            3,
        ),
        WrongAnswer(
            "old chunk",
            ring_old_chunk,
            "the second loop begins with the chunk that is complete here, rank + 1, "
            "not with chunk rank.",
            3,
        ),
        WrongAnswer(
            "first half",
            ring_first_half,
            "the second loop is missing: each rank has one complete chunk, and the "
            "others need it.",
            3,
        ),
        WrongAnswer(
            "whole vector",
            ring_whole,
            "the sum is right, but all of x_N goes round: send one chunk a step.",
            1,
        ),
        WrongAnswer(
            "library",
            ring_library,
            "that is the library's all-reduce: build yours from shift.",
            1,
        ),
    ),
    hints=(
        "First loop, step s: send chunk (rank - s) % W. What arrives is chunk "
        "(rank - s - 1) % W.",
        "First loop: what shift(chunks[(rank - step) % W], dist) returns is added, "
        "with +=, to the chunk one before.",
        "After the first loop chunk (rank + 1) % W is complete. Second loop: send "
        "chunk (rank + 1 - step) % W, and put what arrives into chunk "
        "(rank - step) % W.",
    ),
)

# --- P.5 all-to-all ----------------------------------------------------------


def dispatch_on_ranks(
    function: Candidate, x_RND: Tensor, owner_RN: Tensor
) -> Tensor:
    """The rows that arrive on all ranks, each led by the rank it arrived on."""
    D = x_RND.shape[2]
    arrived = []
    for rank, x_MD in enumerate(on_ranks(function, x_RND, owner_RN)):
        if (
            not isinstance(x_MD, Tensor)
            or x_MD.dim() != 2
            or x_MD.shape[1] != D
        ):
            asked = f"rows of {D} numbers on rank {rank}"
            raise CheckFailed(asked, show_values(x_MD))
        arrived.append(
            torch.cat([torch.full((len(x_MD), 1), rank), x_MD], dim=1)
        )
    return torch.cat(arrived)


def dispatch_probes() -> Probes:
    """Uneven; in the second, no row is for the last rank."""
    owners = [
        [[2, 0, 1, 0], [1, 1, 0, 2], [0, 2, 2, 2]],
        [[1, 0, 0, 0], [1, 0, 1, 0], [0, 0, 1, 1]],
        [[1, 0, 1, 0], [1, 1, 0, 1]],
    ]
    return [(random(len(o), 4, 2), torch.tensor(o)) for o in owners]


def check_rows(candidate: Candidate) -> None:
    """Row n of rank r is the number 10 r + n."""
    for _, owner_RN in dispatch_probes():
        W, N = owner_RN.shape
        x_RND = (10.0 * torch.arange(W)[:, None] + torch.arange(N))[..., None]
        rows = candidate(x_RND, owner_RN)
        for rank in range(W):
            came = rows[rows[:, 0] == rank, 1].tolist()
            right = x_RND[owner_RN == rank, 0].tolist()
            if came != right:
                who = f"on rank {rank} of {W} the rows of which it is the owner, "
                asked = f"{who}{[int(x) for x in right]} (row n of rank r is 10 r + n)"
                raise CheckFailed(asked, f"{came}")


def exchange_counts(to_W, dist):
    from_W = torch.empty_like(to_W)
    dist.all_to_all_single(from_W, to_W)
    return from_W


def dispatch_unsorted(x_ND, owner_N, dist):
    to_W = owner_N.bincount(minlength=dist.get_world_size())
    from_W = exchange_counts(to_W, dist)
    x_MD = x_ND.new_empty(int(from_W.sum()), x_ND.shape[1])
    dist.all_to_all_single(x_MD, x_ND, from_W.tolist(), to_W.tolist())
    return x_MD


def dispatch_last_rank_missing(x_ND, owner_N, dist):
    to_W = owner_N.bincount()
    from_W = exchange_counts(to_W, dist)
    x_MD = x_ND.new_empty(int(from_W.sum()), x_ND.shape[1])
    x_sorted_ND = x_ND[owner_N.argsort(stable=True)]
    dist.all_to_all_single(x_MD, x_sorted_ND, from_W.tolist(), to_W.tolist())
    return x_MD


def dispatch_own_counts(x_ND, owner_N, dist):
    to_W = owner_N.bincount(minlength=dist.get_world_size()).tolist()
    x_MD = torch.empty_like(x_ND)
    x_sorted_ND = x_ND[owner_N.argsort(stable=True)]
    dist.all_to_all_single(x_MD, x_sorted_ND, to_W, to_W)
    return x_MD


def dispatch_swapped(x_ND, owner_N, dist):
    to_W = owner_N.bincount(minlength=dist.get_world_size())
    from_W = exchange_counts(to_W, dist)
    x_MD = x_ND.new_empty(int(from_W.sum()), x_ND.shape[1])
    x_sorted_ND = x_ND[owner_N.argsort(stable=True)]
    dist.all_to_all_single(x_MD, x_sorted_ND, to_W.tolist(), from_W.tolist())
    return x_MD


def dispatch_evenly(x_ND, owner_N, dist):
    x_MD = torch.empty_like(x_ND)
    dist.all_to_all_single(x_MD, x_ND[owner_N.argsort(stable=True)])
    return x_MD


def dispatch_as_it_is(x_ND, owner_N, dist):
    x_MD = torch.empty_like(x_ND)
    dist.all_to_all_single(x_MD, x_ND)
    return x_MD


DISPATCH = Exercise(
    id="P.5",
    title="send each row to its owner",
    minutes=8,
    difficulty=3,
    ours=ours.dispatch,
    group=dispatch_on_ranks,
    checks=(("uneven counts, on 3 and 2 ranks", check_rows),),
    probes=dispatch_probes,
    wrong=(
        WrongAnswer(
            "unsorted",
            dispatch_unsorted,
            "the rows are not sorted by owner: all_to_all_single cuts the input into "
            "consecutive pieces, the first for rank 0.",
            1,
        ),
        WrongAnswer(
            "last rank missing",
            dispatch_last_rank_missing,
            "bincount stops at the largest owner it sees; a rank for which there is "
            "no row needs its 0, too: minlength=W.",
            1,
        ),
        WrongAnswer(
            "own counts",
            dispatch_own_counts,
            "how many rows arrive is for the others to say: exchange the counts "
            "first.",
            2,
        ),
        WrongAnswer(
            "swapped",
            dispatch_swapped,
            "the split sizes are swapped: first those of the output, then those of "
            "the input.",
            3,
        ),
        WrongAnswer(
            "evenly",
            dispatch_evenly,
            "without split sizes every rank gets equally many rows, whoever owns "
            "them.",
            3,
        ),
        WrongAnswer(
            "as it is",
            dispatch_as_it_is,
            "the owners are not used: sort the rows by owner, and say how many go to "
            "each rank.",
            1,
        ),
    ),
    hints=(
        "x_ND[owner_N.argsort(stable=True)] has the rows for rank 0 first, and "
        "owner_N.bincount(minlength=W) says how many there are for each.",
        "Every rank needs to know how many rows come from each. An "
        "all_to_all_single without sizes, from to_W into from_W, sends one count to "
        "each rank.",
        "x_MD needs from_W.sum() rows. Then dist.all_to_all_single(x_MD, sorted_ND, "
        "from_W.tolist(), to_W.tolist()).",
    ),
)

# --- P.6 what a message costs ------------------------------------------------

MB_S = torch.tensor([0.001, 0.016, 0.128, 0.5, 2.0, 8.0], dtype=torch.float64)


def cost_probes() -> Probes:
    """Exact times of a made-up link, and times that are off by up to a fifth."""
    off_S = torch.tensor([1.1, 0.9, 1.2, 0.8, 1.1, 0.9], dtype=torch.float64)
    exact_S = 0.25 + MB_S / 2.0
    return [(MB_S, exact_S), (MB_S, exact_S * off_S), (MB_S, 0.05 + MB_S / 10)]


def pair(came: Any) -> Tensor:
    """(latency, bandwidth) as a tensor, whatever kinds of numbers they are."""
    try:
        latency, bandwidth = (float(number) for number in came)
    except (TypeError, ValueError):
        asked = "two numbers, latency and bandwidth"
        raise CheckFailed(asked, show_values(came)) from None
    return torch.tensor([latency, bandwidth])


def cost_pair(function: Candidate, mb_S: Tensor, ms_S: Tensor) -> Tensor:
    return pair(function(mb_S, ms_S))


def check_exact(candidate: Candidate) -> None:
    came = candidate(MB_S, 0.25 + MB_S / 2.0)
    asked = "of T = 0.25 ms + n / (2 MB/ms) latency and bandwidth"
    expect_close(came, torch.tensor([0.25, 2.0]), asked, tolerance=1e-4)


def check_noisy(candidate: Candidate) -> None:
    for mb_S, ms_S in cost_probes():
        right = torch.tensor(ours.fit_cost(mb_S, ms_S))
        asked = "with noise, the fit of relative errors"
        expect_close(candidate(mb_S, ms_S), right, asked, tolerance=1e-3)


def cost_absolute(mb_S, ms_S):
    a_S2 = torch.stack([torch.ones_like(mb_S), mb_S], dim=1)
    latency, inverse = torch.linalg.lstsq(a_S2, ms_S[:, None]).solution[:, 0]
    return latency, 1 / inverse


def cost_not_inverted(mb_S, ms_S):
    latency, bandwidth = ours.fit_cost(mb_S, ms_S)
    return latency, 1 / bandwidth


def cost_no_latency(mb_S, ms_S):
    ratio_S = mb_S / ms_S
    return 0.0, (ratio_S @ ratio_S) / ratio_S.sum()


def cost_first_and_last(mb_S, ms_S):
    bandwidth = (mb_S[-1] - mb_S[0]) / (ms_S[-1] - ms_S[0])
    return ms_S[0] - mb_S[0] / bandwidth, bandwidth


def cost_right_side(mb_S, ms_S):
    """The left side divided by T, the right side left as it is."""
    a_S2 = torch.stack([torch.ones_like(mb_S), mb_S], dim=1) / ms_S[:, None]
    latency, inverse = torch.linalg.lstsq(a_S2, ms_S[:, None]).solution[:, 0]
    return latency, 1 / inverse


COST = Exercise(
    id="P.6",
    title="fit latency and bandwidth",
    minutes=6,
    difficulty=2,
    ours=ours.fit_cost,
    group=cost_pair,
    checks=(("exact times", check_exact), ("noisy times", check_noisy)),
    probes=cost_probes,
    wrong=(
        WrongAnswer(
            "absolute errors",
            cost_absolute,
            "that minimises errors in ms, which only the largest message decides: "
            "divide each equation by its T.",
            2,
        ),
        WrongAnswer(
            "not inverted",
            cost_not_inverted,
            "the second unknown is 1 / bandwidth, in ms a MB: return its inverse.",
            3,
        ),
        WrongAnswer(
            "no latency",
            cost_no_latency,
            "a line through the origin: the latency needs a column of its own.",
            1,
        ),
        WrongAnswer(
            "two points",
            cost_first_and_last,
            "a line through two of the six points: the noise of two messages "
            "decides all.",
            1,
        ),
        WrongAnswer(
            "right side",
            cost_right_side,
            "the right side is divided by T, too: it becomes 1.",
            2,
        ),
    ),
    hints=(
        "Two unknowns, latency and 1 / bandwidth. In a matrix with a row for each "
        "message, their columns are 1 and n.",
        "Divide the row of each message by its T: the row becomes [1 / T, n / T], "
        "and what it should give becomes 1.",
        "latency, inverse = torch.linalg.lstsq(a_S2, ones_S[:, None]).solution[:, 0]; "
        "return latency and 1 / inverse.",
    ),
)

EXERCISES = (SHARE, SWAP, SHIFT, RING, DISPATCH, COST)
