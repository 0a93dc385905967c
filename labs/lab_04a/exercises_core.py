"""The core exercises of lab 04a, 4.1 to 4.3, and the mistakes they expect.

Shape suffixes: W workers, G gradients of one worker, N numbers of all of them in a
row, B messages.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from labsupport.exercise import Exercise, WrongAnswer
from labsupport.exercise.check import (
    CheckFailed,
    copy_as_is,
    expect_close,
    show_values,
)
from labsupport.exercise.practice import counted

Arguments = tuple[Any, ...]
Candidate = Callable[..., Any]


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator)


def on_counted_ranks(
    function: Candidate, *arguments: Sequence[Any]
) -> tuple[list[Any], Tensor]:
    """Each rank's result, and the sizes of the messages, size_B; see counted.py."""
    results, calls = counted.on_counted_ranks(function, *arguments)
    return results, torch.tensor([call.numbers for call in calls])


def messages(sizes: Sequence[int]) -> str:
    """Messages of size 3, 4 and 5."""
    return counted.calls_in_words(
        [counted.Call("all_reduce", size) for size in sizes]
    )


# --- 4.1 average gradients ---------------------------------------------------


def average_gradients(
    gradients: Sequence[Tensor], capacity: int, dist: Any
) -> None:
    """Replace each gradient, in place, by its mean over all ranks.

    They travel in buckets of at most `capacity` numbers, filled in their order. A
    gradient that is larger has a bucket to itself.
    """
    buckets: list[list[Tensor]] = []
    room = 0
    for g in gradients:
        if not buckets or g.numel() > room:
            buckets.append([])
            room = capacity
        buckets[-1].append(g)
        room -= g.numel()
    for bucket in buckets:
        flat = torch.cat([g.reshape(-1) for g in bucket])
        dist.all_reduce(flat)
        mean = flat / dist.get_world_size()
        sizes = [g.numel() for g in bucket]
        for g, piece in zip(bucket, mean.split(sizes), strict=True):
            g.copy_(piece.view_as(g))


def average_on_ranks(
    function: Candidate, gradients_WG: list[list[Tensor]], capacity: int
) -> tuple[Tensor, Tensor]:
    """Call it on practice ranks.

    Returns:
        What became of the gradients, mean_WN, and the sizes of the messages, size_B.
    """
    # Not `clone`: it would close the gaps of a transposed gradient.
    own_WG = [[copy_as_is(g) for g in some] for some in gradients_WG]

    def work(own: list[Tensor], dist: Any) -> bool:
        function(list(own), capacity, dist)
        return True

    _, size_B = on_counted_ranks(work, own_WG)
    return torch.stack([in_a_row(own) for own in own_WG]), size_B


def in_a_row(gradients: Sequence[Tensor]) -> Tensor:
    return torch.cat([g.reshape(-1) for g in gradients])


def some_gradients(
    W: int, *shapes: tuple[int, ...], transposed: bool = False
) -> list[list[Tensor]]:
    """Each worker's own; transposed matrices have gaps between neighbours."""
    gradients_WG = []
    for w in range(W):
        made = [
            random(*shape, seed=10 * w + i) for i, shape in enumerate(shapes)
        ]
        if transposed:
            made = [
                g.t().contiguous().t() if g.dim() == 2 else g for g in made
            ]
        gradients_WG.append(made)
    return gradients_WG


FULL = (some_gradients(2, (6,), (2, 2), (3,), (10,), (1,), (2,), (5,)), 8)
LARGE_FIRST = (some_gradients(3, (3, 4), (4,), (), (1, 3), (2, 1, 2)), 8)
ONE = (some_gradients(2, (2, 3)), 100)
SMALL = (some_gradients(2, (2,), (2,), (1,), (1,), (2,)), 3)
IN_BYTES = (some_gradients(2, (4,), (4,), (4,), (4,), (4,)), 40)
GAPS = (some_gradients(2, (3, 2), (4,), (2, 5), transposed=True), 10)
MESSAGES = (
    (FULL, [6, 7, 10, 8]),
    (LARGE_FIRST, [12, 8, 4]),
    (ONE, [6]),
    (SMALL, [2, 3, 3]),
    (IN_BYTES, [20]),
    (GAPS, [10, 10]),
)
"""Gradients with a capacity, and the sizes of the messages, found by hand."""


def average_probes() -> Sequence[Arguments]:
    return [case for case, _ in MESSAGES]


def average_by_hand(candidate: Candidate) -> None:
    """Two ranks; 2 + 1 numbers in one bucket, 1 in the next."""
    gradients_WG = [
        [torch.tensor([1.0, 2.0]), torch.tensor([3.0]), torch.tensor([4.0])],
        [torch.tensor([3.0, 6.0]), torch.tensor([5.0]), torch.tensor([0.0])],
    ]
    mean_WN, _ = candidate(gradients_WG, 3)
    wanted_WN = torch.tensor([[2.0, 4.0, 4.0, 2.0]]).expand(2, 4)
    asked = "[1, 2], [3], [4] on rank 0 and [3, 6], [5], [0] on rank 1: means"
    expect_close(mean_WN, wanted_WN, asked)


def expect_means(candidate: Candidate, case: Arguments, what: str) -> None:
    gradients_WG, _ = case
    mine_WN = torch.stack([in_a_row(own) for own in gradients_WG]).double()
    wanted_WN = mine_WN.mean(0).expand_as(mine_WN)
    mean_WN, _ = candidate(*case)
    expect_close(mean_WN, wanted_WN.float(), f"{what}: means over ranks")


def average_two_and_three(candidate: Candidate) -> None:
    expect_means(candidate, FULL, "7 gradients, 2 ranks")
    expect_means(candidate, LARGE_FIRST, "a large gradient first, 3 ranks")
    expect_means(candidate, ONE, "one gradient")
    expect_means(candidate, SMALL, "5 small gradients")


def average_messages(candidate: Candidate) -> None:
    for case, wanted in MESSAGES[:-1]:
        gradients_WG, capacity = case
        _, size_B = candidate(*case)
        if size_B.tolist() != wanted:
            numbers = counted.listed([g.numel() for g in gradients_WG[0]])
            raise CheckFailed(
                f"{messages(wanted)} for gradients of {numbers} numbers, capacity "
                f"{capacity}",
                messages(size_B.tolist()),
            )


def average_gaps(candidate: Candidate) -> None:
    expect_means(candidate, GAPS, "transposed gradients")


def _buckets(gradients, capacity, size=torch.numel, late=False):  # type: ignore[no-untyped-def]
    """Filled greedily; late: closed only after it has got too full."""
    found, filled = [], capacity + 1
    for g in gradients:
        full = filled >= capacity if late else filled + size(g) > capacity
        if full:
            found.append([])
            filled = 0
        found[-1].append(g)
        filled += size(g)
    return found


def _send(bucket, dist, divide=True):  # type: ignore[no-untyped-def]
    flat = torch.cat([g.reshape(-1) for g in bucket])
    dist.all_reduce(flat)
    if divide:
        flat /= dist.get_world_size()
    for g, piece in zip(
        bucket, flat.split([g.numel() for g in bucket]), strict=True
    ):
        g.copy_(piece.view_as(g))


def average_sum(gradients, capacity, dist):
    for bucket in _buckets(gradients, capacity):
        _send(bucket, dist, divide=False)


def average_last_forgotten(gradients, capacity, dist):
    for bucket in _buckets(gradients, capacity)[:-1]:
        _send(bucket, dist)


def average_each_alone(gradients, capacity, dist):
    for g in gradients:
        _send([g], dist)


def average_all_in_one(gradients, capacity, dist):
    _send(gradients, dist)


def average_divided_twice(gradients, capacity, dist):
    for bucket in _buckets(gradients, capacity):
        for g in bucket:
            g.div_(dist.get_world_size())
        _send(bucket, dist)


def average_too_full(gradients, capacity, dist):
    for bucket in _buckets(gradients, capacity, late=True):
        _send(bucket, dist)


def average_cut(gradients, capacity, dist):
    """All numbers in a row, cut wherever a message is full."""
    flat = in_a_row(gradients)
    for piece in flat.split(capacity):
        dist.all_reduce(piece)
    flat /= dist.get_world_size()
    sizes = [g.numel() for g in gradients]
    for g, piece in zip(gradients, flat.split(sizes), strict=True):
        g.copy_(piece.view_as(g))


def average_reversed(gradients, capacity, dist):
    for bucket in _buckets(gradients[::-1], capacity):
        _send(bucket, dist)


def average_left_open(gradients, capacity, dist):
    """A large gradient goes alone; the bucket before it is filled further."""
    for g in gradients:
        if g.numel() > capacity:
            _send([g], dist)
    small = [g for g in gradients if g.numel() <= capacity]
    for bucket in _buckets(small, capacity):
        _send(bucket, dist)


def average_capacity_of_bytes(gradients, capacity, dist):
    for bucket in _buckets(
        gradients, capacity, size=lambda g: g.numel() * g.element_size()
    ):
        _send(bucket, dist)


def average_capacity_of_tensors(gradients, capacity, dist):
    for bucket in _buckets(gradients, capacity, size=lambda g: 1):
        _send(bucket, dist)


def average_never_full(gradients, capacity, dist):
    """A bucket that is just full is closed one gradient early."""
    for bucket in _buckets(gradients, capacity - 1):
        _send(bucket, dist)


def average_not_in_place(gradients, capacity, dist):
    copies = [g.clone() for g in gradients]
    for bucket in _buckets(copies, capacity):
        _send(bucket, dist)
    gradients[:] = copies


def average_fills_gaps(gradients, capacity, dist):
    """First fit: a small gradient goes into an earlier bucket that has room."""
    found = []
    for g in gradients:
        for bucket in found:
            if sum(map(torch.numel, bucket)) + g.numel() <= capacity:
                bucket.append(g)
                break
        else:
            found.append([g])
    for bucket in found:
        _send(bucket, dist)


def average_first_piece(gradients, capacity, dist):
    for bucket in _buckets(gradients, capacity):
        flat = torch.cat([g.reshape(-1) for g in bucket])
        dist.all_reduce(flat)
        for g in bucket:
            g.copy_(flat[: g.numel()].view_as(g) / dist.get_world_size())


def average_empty_bucket(gradients, capacity, dist):
    bucket, filled = [], 0
    for g in gradients:
        if filled + g.numel() > capacity:
            _send(bucket, dist)
            bucket, filled = [], 0
        bucket.append(g)
        filled += g.numel()
    _send(bucket, dist)


def average_view(gradients, capacity, dist):
    for bucket in _buckets(gradients, capacity):
        flat = torch.cat([g.view(-1) for g in bucket])
        dist.all_reduce(flat)
        sizes = [g.numel() for g in bucket]
        for g, piece in zip(bucket, flat.split(sizes), strict=True):
            g.copy_(piece.view_as(g) / dist.get_world_size())


def average_into_a_copy(gradients, capacity, dist):
    for bucket in _buckets(gradients, capacity):
        flat = torch.cat([g.reshape(-1) for g in bucket])
        dist.all_reduce(flat)
        sizes = [g.numel() for g in bucket]
        for g, piece in zip(bucket, flat.split(sizes), strict=True):
            g.reshape(-1).copy_(piece / dist.get_world_size())


AVERAGE = Exercise(
    id="4.1",
    title="average gradients in buckets",
    minutes=15,
    difficulty=2,
    ours=average_gradients,
    group=average_on_ranks,
    checks=(
        ("by hand", average_by_hand),
        ("means on 2 and 3 ranks", average_two_and_three),
        ("messages", average_messages),
        ("transposed gradients", average_gaps),
    ),
    probes=average_probes,
    wrong=(
        WrongAnswer(
            "sum",
            average_sum,
            "that is the sum: all_reduce adds up. Divide by the number of ranks.",
            2,
        ),
        WrongAnswer(
            "last bucket forgotten",
            average_last_forgotten,
            "the last bucket is never sent, since it never gets full. Its gradients "
            "stay each rank's own, and the ranks drift apart.",
            1,
        ),
        WrongAnswer(
            "a message for each",
            average_each_alone,
            "every gradient is a message of its own. Each message costs its latency, "
            "however small it is: put neighbours into one.",
            1,
        ),
        WrongAnswer(
            "one message for all",
            average_all_in_one,
            "all gradients are one message. It could not leave before the last "
            "gradient is there, so nothing would overlap with the backward.",
            1,
        ),
        WrongAnswer(
            "divided twice",
            average_divided_twice,
            "the gradients are divided before and after they are added up. Once is "
            "enough.",
            2,
        ),
        WrongAnswer(
            "too full",
            average_too_full,
            "a bucket is closed only after it holds more than `capacity`. Look before "
            "you add: does the next gradient still fit?",
            1,
        ),
        WrongAnswer(
            "cut at capacity",
            average_cut,
            "all numbers stand in one row that is cut wherever a message is full. A "
            "gradient is never cut: what does not fit begins the next bucket.",
            1,
        ),
        WrongAnswer(
            "reversed",
            average_reversed,
            "the buckets are filled from the end of the list. It is in the order in "
            "which gradients come already.",
            1,
        ),
        WrongAnswer(
            "left open behind a large one",
            average_left_open,
            "a gradient that is larger than `capacity` goes alone, and the bucket "
            "before it is filled further. It closes that one, too: nothing is added "
            "to a bucket that was left.",
            1,
        ),
        WrongAnswer(
            "capacity of bytes",
            average_capacity_of_bytes,
            "`capacity` is taken for bytes. It counts numbers: g.numel() each.",
            1,
        ),
        WrongAnswer(
            "capacity of tensors",
            average_capacity_of_tensors,
            "`capacity` is taken for a number of tensors. It counts numbers: "
            "g.numel() each.",
            1,
        ),
        WrongAnswer(
            "never quite full",
            average_never_full,
            "a gradient that fills the bucket exactly is refused. At most `capacity` "
            "includes `capacity`.",
            1,
        ),
        WrongAnswer(
            "fills gaps",
            average_fills_gaps,
            "a gradient goes into an earlier bucket that has room left. That one could "
            "have left already: fill in the order of the list.",
            1,
        ),
        WrongAnswer(
            "not in place",
            average_not_in_place,
            "the means are in new tensors, and the optimizer looks at the old ones. "
            "Copy them into the gradients: g.copy_(...).",
            3,
        ),
        WrongAnswer(
            "first piece for all",
            average_first_piece,
            "every gradient of a bucket gets the bucket's first numbers. Cut the "
            "message into pieces of their sizes.",
            3,
        ),
        WrongAnswer(
            "empty bucket",
            average_empty_bucket,
            "where the first gradient is larger than `capacity`, an empty bucket is "
            "sent before it.",
            1,
        ),
        WrongAnswer(
            "view",
            average_view,
            "a transposed gradient has gaps between neighbours, so there is no flat "
            "view of it: `reshape(-1)` copies where it must.",
            2,
        ),
        WrongAnswer(
            "written into a copy",
            average_into_a_copy,
            "of a transposed gradient `reshape` makes a copy, and the mean is written "
            "into that. Give the piece the gradient's shape instead, and copy it into "
            "the gradient itself.",
            3,
        ),
    ),
    hints=(
        "First make a list of buckets. Before a gradient is added, ask whether it "
        "still fits; if not, begin a new bucket with it. Whatever is in the list at "
        "the end is sent, the last bucket too.",
        "`torch.cat` of the flat gradients, `reshape(-1)`, is the message. all_reduce "
        "leaves the sum of all ranks in it; the mean is the sum over "
        "dist.get_world_size().",
        "Cut the message up again by the gradients' sizes, give each piece its "
        "gradient's shape, and write it where the gradient is: a new tensor would not "
        "be seen.",
    ),
    otherwise={
        "messages": (
            "the means are right, the buckets are not: compare your sizes with those "
            "asked for.",
            1,
        ),
    },
)

# --- 4.2 error feedback ------------------------------------------------------

Compress = Callable[[Tensor], Tensor]


def with_feedback(
    g: Tensor, e: Tensor, compress: Compress
) -> tuple[Tensor, Tensor]:
    """Compress a gradient and what was left of earlier ones.

    Source: arXiv 1901.09847, Algorithm 2.

    Args:
        g: the gradient, any shape.
        e: the residual of the step before, of that shape.
        compress: may overwrite what it is given, and may return it.

    Returns:
        What is sent, and the new residual.
    """
    u = g + e
    sent = compress(u.clone())
    residual = u - sent
    return sent, residual


def feedback_and_inputs(
    function: Candidate, g: Tensor, e: Tensor, compress: Compress
) -> tuple[Tensor, ...] | None:
    """What the function returns, and what it made of its inputs.

    Raises:
        CheckFailed: it does not return two tensors of the gradient's shape.
    """
    came = function(g, e, compress)
    if came is None:
        return None
    two = isinstance(came, tuple | list) and len(came) == 2
    if not two or not all(isinstance(x, Tensor) for x in came):
        asked = "two tensors, what is sent and the residual"
        raise CheckFailed(asked, show_values(came))
    for x in came:
        if x.shape != g.shape:
            asked = f"two tensors of the gradient's shape {tuple(g.shape)}"
            raise CheckFailed(asked, f"one of shape {tuple(x.shape)}")
    return came[0], came[1], g, e


def largest_third(u: Tensor) -> Tensor:
    """Keeps the largest third of the numbers, at least one."""
    kept = torch.zeros_like(u)
    index = u.abs().flatten().topk(max(1, u.numel() // 3)).indices
    kept.view(-1)[index] = u.reshape(-1)[index]
    return kept


def round_in_place(u: Tensor) -> Tensor:
    """Overwrites what it is given, and returns it."""
    return u.round_()


def everything(u: Tensor) -> Tensor:
    """Sends what it is given: the same memory, in another shape and back."""
    return u.view(-1).view_as(u)


def feedback_probes() -> Sequence[Arguments]:
    return [
        (3 * random(n, seed=n), 3 * random(n, seed=n + 1), compress)
        for n, compress in (
            (6, largest_third),
            (12, largest_third),
            (9, round_in_place),
            (4, everything),
        )
    ]


def feedback_by_hand(candidate: Candidate) -> None:
    g = torch.tensor([3.0, 1.0, 0.0])
    e = torch.tensor([0.0, 2.5, -1.0])
    sent, residual, *_ = candidate(g, e, largest_third)
    asked = "the largest of g + e = [3, 3.5, -1]"
    expect_close(sent, torch.tensor([0.0, 3.5, 0.0]), f"{asked}: sent")
    expect_close(
        residual, torch.tensor([3.0, 0.0, -1.0]), f"{asked}: residual"
    )


def feedback_conserves(candidate: Candidate) -> None:
    """20 steps: what was sent and what is left are all gradients together."""
    e = torch.zeros(4, 3)
    gradients, sent_in_all = (
        torch.zeros(4, 3).double(),
        torch.zeros(4, 3).double(),
    )
    for step in range(20):
        g = random(4, 3, seed=step)
        gradients += g.double()
        sent, e, *_ = candidate(g, e.clone(), largest_third)
        sent_in_all += sent.double()
    expect_close(
        sent_in_all + e.double(),
        gradients,
        "20 steps: all that was sent plus the last residual = all gradients",
    )


def feedback_overwritten(candidate: Candidate) -> None:
    g, e = torch.tensor([1.25, -2.5]), torch.tensor([0.5, 0.25])
    sent, residual, *_ = candidate(g, e, round_in_place)
    asked = "g + e = [1.75, -2.25] and a `compress` that rounds in place"
    expect_close(sent, torch.tensor([2.0, -2.0]), f"{asked}: sent")
    expect_close(residual, torch.tensor([-0.25, -0.25]), f"{asked}: residual")
    sent, residual, *_ = candidate(torch.ones(2), torch.ones(2), everything)
    asked = "g + e = [2, 2] and a `compress` that returns what it is given"
    expect_close(sent, torch.full((2,), 2.0), f"{asked}: sent")
    expect_close(residual, torch.zeros(2), f"{asked}: residual")


def feedback_inputs(candidate: Candidate) -> None:
    g, e = random(5, seed=1), random(5, seed=2)
    *_, g_after, e_after = candidate(g.clone(), e.clone(), largest_third)
    expect_close(g_after, g, "g left as it was")
    expect_close(e_after, e, "e left as it was")


def feedback_added_after(g, e, compress):
    sent = compress(g.clone()) + e
    return sent, g + e - sent


def feedback_residual_of_g(g, e, compress):
    sent = compress(g + e)
    return sent, g - sent


def feedback_of_g_only(g, e, compress):
    sent = compress(g.clone())
    return sent, g - sent


def feedback_old_added_again(g, e, compress):
    u = g + e
    sent = compress(u.clone())
    return sent, e + u - sent


def feedback_sign(g, e, compress):
    u = g + e
    sent = compress(u.clone())
    return sent, sent - u


def feedback_in_place(g, e, compress):
    g += e
    sent = compress(g.clone())
    return sent, g - sent


def feedback_in_place_of_e(g, e, compress):
    e += g
    sent = compress(e.clone())
    return sent, e - sent


def feedback_no_copy(g, e, compress):
    u = g + e
    sent = compress(u)
    return sent, u - sent


def feedback_subtracted_in_place(g, e, compress):
    u = g + e
    sent = compress(u)
    u -= sent
    return sent, u


def feedback_subtracted(g, e, compress):
    u = g - e
    sent = compress(u.clone())
    return sent, u - sent


def feedback_zero_where_sent(g, e, compress):
    u = g + e
    sent = compress(u.clone())
    return sent, torch.where(sent == 0, u, 0.0)


def feedback_into_e(g, e, compress):
    sent = compress(g + e)
    e.copy_(g + e - sent)
    return sent, e


def feedback_swapped(g, e, compress):
    return with_feedback(g, e, compress)[::-1]


FEEDBACK = Exercise(
    id="4.2",
    title="error feedback",
    minutes=8,
    difficulty=1,
    ours=with_feedback,
    group=feedback_and_inputs,
    checks=(
        ("by hand", feedback_by_hand),
        ("nothing is lost", feedback_conserves),
        ("a compress that overwrites", feedback_overwritten),
        ("inputs left alone", feedback_inputs),
    ),
    probes=feedback_probes,
    wrong=(
        WrongAnswer(
            "residual added after",
            feedback_added_after,
            "the residual is added to what was compressed, so nearly all numbers "
            "would have to travel. Add it before: compress g + e.",
            1,
        ),
        WrongAnswer(
            "residual of g",
            feedback_residual_of_g,
            "the new residual is g minus what was sent. What waited in e and was "
            "not sent is lost: subtract from u = g + e.",
            2,
        ),
        WrongAnswer(
            "e not used",
            feedback_of_g_only,
            "the old residual is neither sent nor kept: compress g + e.",
            1,
        ),
        WrongAnswer(
            "old residual again",
            feedback_old_added_again,
            "the old residual is added to the new one. It is in u already, so it "
            "counts twice from step to step.",
            2,
        ),
        WrongAnswer(
            "sign",
            feedback_sign,
            "the residual has the wrong sign: what is left is u minus what was sent.",
            2,
        ),
        WrongAnswer(
            "minus e",
            feedback_subtracted,
            "the residual is subtracted from the gradient. It is owed: add it.",
            1,
        ),
        WrongAnswer(
            "swapped",
            feedback_swapped,
            "the two results are swapped: first what is sent, then the residual.",
            1,
        ),
        WrongAnswer(
            "no copy",
            feedback_no_copy,
            "`compress` may overwrite what it is given, and then u is no longer "
            "g + e: hand it a copy.",
            3,
        ),
        WrongAnswer(
            "subtracted in place",
            feedback_subtracted_in_place,
            "`compress` may return the memory that it was given, so subtracting in "
            "place changes what is sent: hand it a copy.",
            3,
        ),
        WrongAnswer(
            "g changed",
            feedback_in_place,
            "`+=` changes the gradient itself, which still belongs to the model: "
            "write g + e.",
            3,
        ),
        WrongAnswer(
            "zero where something was sent",
            feedback_zero_where_sent,
            "the residual is 0 wherever something was sent. `compress` may round what "
            "it sends: subtract number by number.",
            2,
        ),
        WrongAnswer(
            "written into e",
            feedback_into_e,
            "the new residual is written into the old one. Were the step skipped, its "
            "gradients would be in there already: return a new tensor.",
            3,
        ),
        WrongAnswer(
            "e changed",
            feedback_in_place_of_e,
            "`+=` changes the old residual. Were the step skipped, its gradients "
            "would be in there already: write g + e.",
            3,
        ),
    ),
    hints=(
        "u = g + e is what this worker owes. It is u that gets compressed.",
        "Whatever of u was not sent is the new residual. e has been added already, "
        "and is replaced.",
        "`g + e` makes a new tensor, `+=` does not. `compress` may write into its "
        "argument, so give it `.clone()`.",
    ),
)

# --- 4.3 what has to be true -------------------------------------------------


def saved_and_needed(
    exposed: float, ratio: float, overhead: float, goal: float
) -> tuple[float, float]:
    """What compression saves, and what must be exposed for it to save `goal`.

    All but `ratio` are shares of the time of a step without compression.

    Args:
        exposed: communication that nothing overlaps with.
        ratio: bytes before over bytes after, at least 1; may be infinite.
        overhead: what compressing costs.
        goal: the share to be saved.

    Returns:
        The share saved, below 0 if compression costs more than it saves; and the
        exposed share at which it is `goal`, infinite for a ratio of 1.
    """
    kept = 1 - 1 / ratio
    saved = exposed * kept - overhead
    needed = (goal + overhead) / kept if kept else math.inf
    return saved, needed


def two_numbers(
    function: Candidate, *arguments: float
) -> tuple[float, float] | None:
    """What the function returns, as floats.

    Raises:
        CheckFailed: it is not two numbers.
    """
    came = function(*arguments)
    if came is None:
        return None
    try:
        saved, needed = (float(number) for number in came)
    except (TypeError, ValueError):
        asked = "two numbers, the share saved and the exposed share needed"
        raise CheckFailed(asked, show_values(came)) from None
    return saved, needed


def share_probes() -> Sequence[Arguments]:
    return [
        (0.5, 15.0, 0.0, 0.4),
        (0.3, 4.0, 0.05, 0.6),
        (0.6, 1.0, 0.0, 0.4),
        (0.2, math.inf, 0.1, 0.2),
        (0.1, 2.0, 0.2, 0.6),
    ]


def expect_number(came: float, wanted: float, asked: str) -> None:
    """Fail unless a number is another, to 4 digits.

    Raises:
        CheckFailed: it is not.
    """
    if not math.isclose(came, wanted, rel_tol=1e-4, abs_tol=1e-6):
        raise CheckFailed(f"{asked} = {wanted:.4f}", f"{came:.4f}")


def share_by_hand(candidate: Candidate) -> None:
    saved, _ = candidate(0.5, 2.0, 0.0, 0.4)
    expect_number(saved, 0.25, "half exposed, ratio 2, no overhead: saved")
    for goal, wanted in ((0.4, 0.4286), (0.6, 0.6429)):
        _, needed = candidate(0.5, 15.0, 0.0, goal)
        asked = f"to save {goal:.0%} at ratio 15 without overhead: needed"
        expect_number(needed, wanted, asked)
    saved, needed = candidate(0.5, 2.0, 0.1, 0.2)
    expect_number(saved, 0.15, "half exposed, ratio 2, overhead 0.1: saved")
    asked = "to save 20% at ratio 2 with overhead 0.1: needed"
    expect_number(needed, 0.6, asked)
    _, needed = candidate(0.5, 2.0, 0.0, 0.6)
    expect_number(needed, 1.2, "to save 60% at ratio 2: needed")


def share_limits(candidate: Candidate) -> None:
    saved, needed = candidate(0.6, 1.0, 0.0, 0.4)
    expect_number(saved, 0.0, "ratio 1: saved")
    expect_number(needed, math.inf, "ratio 1: needed for 40%")
    saved, needed = candidate(0.3, math.inf, 0.0, 0.3)
    expect_number(saved, 0.3, "30% exposed, infinite ratio: saved")
    expect_number(needed, 0.3, "to save 30% at an infinite ratio: needed")
    saved, _ = candidate(0.1, math.inf, 0.25, 0.3)
    expect_number(
        saved, -0.15, "10% exposed, infinite ratio, overhead 0.25: saved"
    )


def share_by_the_clock(candidate: Candidate) -> None:
    """A step in milliseconds: what else it does, what is exposed, what is added."""
    for other_ms, exposed_ms, overhead_ms, ratio in (
        (80.0, 120.0, 10.0, 15.0),
        (190.0, 10.0, 6.0, 4.0),
        (0.0, 50.0, 0.0, 2.0),
    ):
        before_ms = other_ms + exposed_ms
        after_ms = other_ms + exposed_ms / ratio + overhead_ms
        saved, needed = candidate(
            exposed_ms / before_ms,
            ratio,
            overhead_ms / before_ms,
            1 - after_ms / before_ms,
        )
        asked = f"a step of {before_ms:g} ms that takes {after_ms:.4g} ms compressed"
        expect_number(saved, 1 - after_ms / before_ms, f"{asked}: saved")
        expect_number(
            needed, exposed_ms / before_ms, f"{asked}: needed for that"
        )


def _shares(exposed, ratio, overhead, goal):  # type: ignore[no-untyped-def]
    kept = 1 - 1 / ratio
    return exposed * kept - overhead, (goal + overhead) / (kept or 1e-300)


def share_speed_up(exposed, ratio, overhead, goal):
    saved, needed = saved_and_needed(exposed, ratio, overhead, goal)
    return 1 / (1 - saved), needed


def share_goal_is_speed_up(exposed, ratio, overhead, goal):
    """Takes `goal` for how much faster: 40% faster is 1 - 1 / 1.4 less time."""
    return saved_and_needed(exposed, ratio, overhead, 1 - 1 / (1 + goal))


def share_ratio_upside_down(exposed, ratio, overhead, goal):
    kept = 1 - ratio
    return exposed * kept - overhead, (
        goal + overhead
    ) / kept if kept else math.inf


def share_no_overhead(exposed, ratio, overhead, goal):
    return saved_and_needed(exposed, ratio, 0.0, goal)


def share_overhead_in_one(exposed, ratio, overhead, goal):
    saved, _ = saved_and_needed(exposed, ratio, overhead, goal)
    return saved, saved_and_needed(exposed, ratio, 0.0, goal)[1]


def share_overhead_gained(exposed, ratio, overhead, goal):
    return saved_and_needed(exposed, ratio, -overhead, goal)


def share_left_over(exposed, ratio, overhead, goal):
    return exposed / ratio - overhead, (goal + overhead) * ratio


def share_divides_by_zero(exposed, ratio, overhead, goal):
    kept = 1 - 1 / ratio
    return exposed * kept - overhead, (goal + overhead) / kept


def share_needed_multiplied(exposed, ratio, overhead, goal):
    kept = 1 - 1 / ratio
    return exposed * kept - overhead, (goal + overhead) * kept


def share_needed_capped(exposed, ratio, overhead, goal):
    saved, needed = saved_and_needed(exposed, ratio, overhead, goal)
    return saved, needed if needed == math.inf else min(1.0, needed)


def share_saved_capped(exposed, ratio, overhead, goal):
    saved, needed = saved_and_needed(exposed, ratio, overhead, goal)
    return max(0.0, saved), needed


def share_overhead_of_exposed(exposed, ratio, overhead, goal):
    kept = 1 - 1 / ratio - overhead
    return exposed * kept, goal / kept if kept > 0 else math.inf


def share_swapped(exposed, ratio, overhead, goal):
    return saved_and_needed(exposed, ratio, overhead, goal)[::-1]


def share_time_left(exposed, ratio, overhead, goal):
    saved, needed = saved_and_needed(exposed, ratio, overhead, goal)
    return 1 - saved, needed


def share_of_new_time(exposed, ratio, overhead, goal):
    saved, needed = saved_and_needed(exposed, ratio, overhead, goal)
    return saved / (1 - saved), needed


def share_needed_less_overhead(exposed, ratio, overhead, goal):
    saved, _ = saved_and_needed(exposed, ratio, overhead, goal)
    return saved, saved_and_needed(exposed, ratio, -overhead, goal)[1]


def share_overhead_not_divided(exposed, ratio, overhead, goal):
    saved, needed = saved_and_needed(exposed, ratio, 0.0, goal)
    return saved - overhead, needed + overhead


def share_overhead_compressed(exposed, ratio, overhead, goal):
    kept = 1 - 1 / ratio
    needed = goal / kept + overhead if kept else math.inf
    return (exposed - overhead) * kept, needed


SHARE = Exercise(
    id="4.3",
    title="what has to be true",
    minutes=10,
    difficulty=2,
    ours=saved_and_needed,
    group=two_numbers,
    checks=(
        ("by hand", share_by_hand),
        ("ratios of 1 and of infinity", share_limits),
        ("by the clock", share_by_the_clock),
    ),
    probes=share_probes,
    wrong=(
        WrongAnswer(
            "speed-up",
            share_speed_up,
            "that is the speed-up, the old time over the new. Asked is the share of "
            "the old time that is saved.",
            1,
        ),
        WrongAnswer(
            "goal as speed-up",
            share_goal_is_speed_up,
            "the goal is taken for how much faster a step gets. 40% less time is 67% "
            "faster; the goal is the share saved.",
            1,
        ),
        WrongAnswer(
            "swapped",
            share_swapped,
            "the two results are swapped: first what is saved, then what is needed.",
            1,
        ),
        WrongAnswer(
            "time left",
            share_time_left,
            "that is the time that is left, as a share of the old. Asked is what is "
            "saved: 1 minus that.",
            1,
        ),
        WrongAnswer(
            "share of the new time",
            share_of_new_time,
            "the time saved is divided by the new time. All shares are of a step "
            "without compression.",
            1,
        ),
        WrongAnswer(
            "overhead subtracted from the goal",
            share_needed_less_overhead,
            "the overhead is subtracted from the goal. It has to be earned on top: "
            "goal plus overhead.",
            3,
        ),
        WrongAnswer(
            "overhead not divided",
            share_overhead_not_divided,
            "the overhead is added after dividing. It, too, has to be earned by what "
            "compression saves, so it is divided by 1 - 1 / ratio with the goal.",
            3,
        ),
        WrongAnswer(
            "ratio upside down",
            share_ratio_upside_down,
            "the ratio is bytes before over bytes after, so 1 / ratio of the "
            "communication is left, not ratio times as much.",
            1,
        ),
        WrongAnswer(
            "no overhead",
            share_no_overhead,
            "the overhead is left out: compressing takes time, too.",
            2,
        ),
        WrongAnswer(
            "overhead in one only",
            share_overhead_in_one,
            "the overhead lowers what is saved, but it is left out of what is "
            "needed: there it has to be earned first.",
            3,
        ),
        WrongAnswer(
            "overhead gained",
            share_overhead_gained,
            "the overhead counts as time saved. It is time added.",
            2,
        ),
        WrongAnswer(
            "what is left",
            share_left_over,
            "exposed / ratio is what is left of the communication. What is saved is "
            "the rest.",
            1,
        ),
        WrongAnswer(
            "divides by zero",
            share_divides_by_zero,
            "at a ratio of 1 nothing is saved, so no exposed share is enough: return "
            "math.inf there.",
            3,
        ),
        WrongAnswer(
            "multiplied",
            share_needed_multiplied,
            "to find what is needed, solve the inequality for the exposed share: that "
            "divides by 1 - 1 / ratio.",
            3,
        ),
        WrongAnswer(
            "needed cut off at 1",
            share_needed_capped,
            "what is needed is cut off at 1. Leave it: above 1 it says that no step "
            "has so much to save.",
            3,
        ),
        WrongAnswer(
            "saved cut off at 0",
            share_saved_capped,
            "what is saved is cut off at 0. Leave it: below 0 it says what compression "
            "costs.",
            2,
        ),
        WrongAnswer(
            "overhead of the exposed part",
            share_overhead_of_exposed,
            "the overhead is taken for a share of the communication. It is a share of "
            "the whole step.",
            2,
        ),
        WrongAnswer(
            "overhead compressed",
            share_overhead_compressed,
            "the overhead is compressed along with the bytes. It is added to the step "
            "as it is.",
            2,
        ),
    ),
    hints=(
        "Take a step of length 1. Of its exposed part, 1 / ratio is left; the rest "
        "of that part is saved.",
        "What compressing costs is a share of the same step. It comes off what was "
        "saved, whatever the ratio.",
        "Set what is saved equal to the goal and solve for the exposed share. At a "
        "ratio of 1 there is no answer: `math.inf`.",
    ),
)
