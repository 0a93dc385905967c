"""Lab 05b's kernel exercise, 5.K, and the mistakes it expects."""
# mypy: allow-untyped-defs

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from kernels.language import jit, tl
from labs.lab_05b import kernels_ours as ours
from labsupport.exercise import Exercise, WrongAnswer, expect_close


def streams(P: int, R: int, D: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """x_PRD, and w_RP whose rows do not add up to 1: nothing may rely on it."""
    generator = torch.Generator().manual_seed(seed)
    x_PRD = torch.randn((P, R, D), generator=generator)
    return x_PRD, 0.2 + torch.rand((R, P), generator=generator)


def sum_probes() -> Sequence[tuple[Tensor, Tensor]]:
    """Whole blocks; a last one that is not full; as many streams as rows."""
    return [
        streams(2, 3, 32),
        streams(4, 3, 37, seed=1),
        streams(3, 3, 5, seed=2),
        streams(1, 1, 1, seed=3),
    ]


def by_hand(candidate: Callable[..., Any]) -> None:
    """Row 0: 1 - 3 and 0 - 5; row 1: 2 / 2 + 3 * 10 and 4 / 2 + 3 * 20."""
    x_PRD = torch.tensor(
        [[[1.0, 0.0], [2.0, 4.0]], [[3.0, 5.0], [10.0, 20.0]]]
    )
    w_RP = torch.tensor([[1.0, -1.0], [0.5, 3.0]])
    wanted_RD = torch.tensor([[-2.0, -5.0], [31.0, 62.0]])
    asked = (
        "streams [[1, 0], [2, 4]] and [[3, 5], [10, 20]], weights [1, -1] of row 0 "
        "and [0.5, 3] of row 1"
    )
    expect_close(candidate(x_PRD, w_RP), wanted_RD, asked)


def every_probe(candidate: Callable[..., Any]) -> None:
    """Against float64, stream by stream."""
    for x_PRD, w_RP in sum_probes():
        wanted_RD = torch.zeros(x_PRD.shape[1:], dtype=torch.float64)
        for p, x_RD in enumerate(x_PRD.double()):
            wanted_RD += w_RP[:, p, None].double() * x_RD
        P, R, D = x_PRD.shape
        asked = f"{P} streams of {R} rows by {D}: y"
        expect_close(
            candidate(x_PRD.clone(), w_RP.clone()), wanted_RD.float(), asked
        )


@jit
def stream_forgotten(
    x_ptr, w_ptr, y_ptr, R, D, P: tl.constexpr, BLOCK: tl.constexpr
):
    r = tl.program_id(0)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    y = tl.zeros((BLOCK,), dtype=tl.float32)
    for p in tl.static_range(P):
        w = tl.load(w_ptr + r * P + p)
        x = tl.load(x_ptr + r * D + d, mask=d < D, other=0.0)
        y += w * x
    tl.store(y_ptr + r * D + d, y, mask=d < D)


@jit
def row_forgotten(
    x_ptr, w_ptr, y_ptr, R, D, P: tl.constexpr, BLOCK: tl.constexpr
):
    r = tl.program_id(0)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    y = tl.zeros((BLOCK,), dtype=tl.float32)
    for p in tl.static_range(P):
        w = tl.load(w_ptr + r * P + p)
        x = tl.load(x_ptr + p * R * D + d, mask=d < D, other=0.0)
        y += w * x
    tl.store(y_ptr + r * D + d, y, mask=d < D)


@jit
def a_row_apart(
    x_ptr, w_ptr, y_ptr, R, D, P: tl.constexpr, BLOCK: tl.constexpr
):
    r = tl.program_id(0)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    y = tl.zeros((BLOCK,), dtype=tl.float32)
    for p in tl.static_range(P):
        w = tl.load(w_ptr + r * P + p)
        x = tl.load(x_ptr + (p + r) * D + d, mask=d < D, other=0.0)
        y += w * x
    tl.store(y_ptr + r * D + d, y, mask=d < D)


@jit
def streams_in_turn(
    x_ptr, w_ptr, y_ptr, R, D, P: tl.constexpr, BLOCK: tl.constexpr
):
    r = tl.program_id(0)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    y = tl.zeros((BLOCK,), dtype=tl.float32)
    for p in tl.static_range(P):
        w = tl.load(w_ptr + r * P + p)
        x = tl.load(x_ptr + (r * P + p) * D + d, mask=d < D, other=0.0)
        y += w * x
    tl.store(y_ptr + r * D + d, y, mask=d < D)


@jit
def weights_turned(
    x_ptr, w_ptr, y_ptr, R, D, P: tl.constexpr, BLOCK: tl.constexpr
):
    r = tl.program_id(0)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    y = tl.zeros((BLOCK,), dtype=tl.float32)
    for p in tl.static_range(P):
        w = tl.load(w_ptr + p * R + r)
        x = tl.load(x_ptr + (p * R + r) * D + d, mask=d < D, other=0.0)
        y += w * x
    tl.store(y_ptr + r * D + d, y, mask=d < D)


@jit
def first_rows_weights(
    x_ptr, w_ptr, y_ptr, R, D, P: tl.constexpr, BLOCK: tl.constexpr
):
    r = tl.program_id(0)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    y = tl.zeros((BLOCK,), dtype=tl.float32)
    for p in tl.static_range(P):
        w = tl.load(w_ptr + p)
        x = tl.load(x_ptr + (p * R + r) * D + d, mask=d < D, other=0.0)
        y += w * x
    tl.store(y_ptr + r * D + d, y, mask=d < D)


@jit
def last_stream_only(
    x_ptr, w_ptr, y_ptr, R, D, P: tl.constexpr, BLOCK: tl.constexpr
):
    r = tl.program_id(0)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    y = tl.zeros((BLOCK,), dtype=tl.float32)
    for p in tl.static_range(P):
        w = tl.load(w_ptr + r * P + p)
        x = tl.load(x_ptr + (p * R + r) * D + d, mask=d < D, other=0.0)
        y = w * x
    tl.store(y_ptr + r * D + d, y, mask=d < D)


@jit
def stored_in_every_turn(
    x_ptr, w_ptr, y_ptr, R, D, P: tl.constexpr, BLOCK: tl.constexpr
):
    r = tl.program_id(0)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    for p in tl.static_range(P):
        w = tl.load(w_ptr + r * P + p)
        x = tl.load(x_ptr + (p * R + r) * D + d, mask=d < D, other=0.0)
        tl.store(y_ptr + r * D + d, w * x, mask=d < D)


@jit
def added_to_memory(
    x_ptr, w_ptr, y_ptr, R, D, P: tl.constexpr, BLOCK: tl.constexpr
):
    r = tl.program_id(0)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    y = tl.load(y_ptr + r * D + d, mask=d < D, other=0.0)
    for p in tl.static_range(P):
        w = tl.load(w_ptr + r * P + p)
        x = tl.load(x_ptr + (p * R + r) * D + d, mask=d < D, other=0.0)
        y += w * x
    tl.store(y_ptr + r * D + d, y, mask=d < D)


@jit
def mean_over_streams(
    x_ptr, w_ptr, y_ptr, R, D, P: tl.constexpr, BLOCK: tl.constexpr
):
    r = tl.program_id(0)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    y = tl.zeros((BLOCK,), dtype=tl.float32)
    for p in tl.static_range(P):
        w = tl.load(w_ptr + r * P + p)
        x = tl.load(x_ptr + (p * R + r) * D + d, mask=d < D, other=0.0)
        y += w * x
    tl.store(y_ptr + r * D + d, y / P, mask=d < D)


@jit
def divided_by_the_weights(
    x_ptr, w_ptr, y_ptr, R, D, P: tl.constexpr, BLOCK: tl.constexpr
):
    r = tl.program_id(0)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    y = tl.zeros((BLOCK,), dtype=tl.float32)
    total = 0.0
    for p in tl.static_range(P):
        w = tl.load(w_ptr + r * P + p)
        x = tl.load(x_ptr + (p * R + r) * D + d, mask=d < D, other=0.0)
        y += w * x
        total += w
    tl.store(y_ptr + r * D + d, y / total, mask=d < D)


@jit
def without_weights(
    x_ptr, w_ptr, y_ptr, R, D, P: tl.constexpr, BLOCK: tl.constexpr
):
    r = tl.program_id(0)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    y = tl.zeros((BLOCK,), dtype=tl.float32)
    for p in tl.static_range(P):
        y += tl.load(x_ptr + (p * R + r) * D + d, mask=d < D, other=0.0)
    tl.store(y_ptr + r * D + d, y, mask=d < D)


@jit
def load_unmasked(
    x_ptr, w_ptr, y_ptr, R, D, P: tl.constexpr, BLOCK: tl.constexpr
):
    r = tl.program_id(0)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    y = tl.zeros((BLOCK,), dtype=tl.float32)
    for p in tl.static_range(P):
        w = tl.load(w_ptr + r * P + p)
        y += w * tl.load(x_ptr + (p * R + r) * D + d)
    tl.store(y_ptr + r * D + d, y, mask=d < D)


@jit
def store_unmasked(
    x_ptr, w_ptr, y_ptr, R, D, P: tl.constexpr, BLOCK: tl.constexpr
):
    r = tl.program_id(0)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    y = tl.zeros((BLOCK,), dtype=tl.float32)
    for p in tl.static_range(P):
        w = tl.load(w_ptr + r * P + p)
        y += w * tl.load(x_ptr + (p * R + r) * D + d, mask=d < D, other=0.0)
    tl.store(y_ptr + r * D + d, y)


KERNEL = Exercise(
    id="5.K",
    title="the weighted sum of P streams",
    minutes=10,
    difficulty=1,
    ours=ours.stream_sum_kernel,
    launch=ours.launch_stream_sum,
    reference=ours.weighted_sum,
    checks=(
        ("by hand", by_hand),
        ("full and last blocks, one number", every_probe),
    ),
    probes=sum_probes,
    wrong=(
        WrongAnswer(
            "stream stride forgotten",
            stream_forgotten,
            "every turn reads the first stream: the address of x has to move on by a "
            "whole stream for each p.",
            1,
        ),
        WrongAnswer(
            "row forgotten",
            row_forgotten,
            "every program reads row 0 of each stream: the address of x lacks the row.",
            1,
        ),
        WrongAnswer(
            "a row apart",
            a_row_apart,
            "streams are taken to lie one row apart. From a stream to the next are all "
            "its rows.",
            1,
        ),
        WrongAnswer(
            "streams in turn",
            streams_in_turn,
            "x is read as if a row's streams lay side by side. In x_PRD come first all "
            "rows of stream 0, then all rows of stream 1.",
            1,
        ),
        WrongAnswer(
            "weights of another row",
            weights_turned,
            "weights are read across: w_RP has a row's P weights side by side.",
            2,
        ),
        WrongAnswer(
            "weights of the first row",
            first_rows_weights,
            "all rows are weighed as row 0 is: the address of w lacks the row.",
            2,
        ),
        WrongAnswer(
            "last stream only",
            last_stream_only,
            "each stream overwrites what came before it: add to y.",
            3,
        ),
        WrongAnswer(
            "stored in every turn",
            stored_in_every_turn,
            "y is stored once for each stream, and only the last one stays. Add in "
            "registers, and store once, after the loop.",
            3,
        ),
        WrongAnswer(
            "added to memory",
            added_to_memory,
            "the sum starts from what lies in y_ptr, which nobody has written yet: "
            "start from zeros.",
            3,
        ),
        WrongAnswer(
            "mean over streams",
            mean_over_streams,
            "the sum is divided by P. The weights are the shares already.",
            2,
        ),
        WrongAnswer(
            "divided by the weights' sum",
            divided_by_the_weights,
            "y is divided by the sum of the weights. Take them as they are given.",
            2,
        ),
        WrongAnswer(
            "without weights",
            without_weights,
            "streams are added up as they are: each needs its weight.",
            2,
        ),
        WrongAnswer(
            "load without a mask",
            load_unmasked,
            "the last block of a row reads on into the next row: the load of x needs "
            "the mask, and so does the store.",
            1,
        ),
        WrongAnswer(
            "store without a mask",
            store_unmasked,
            "the last block of a row writes on into the next row: the store needs the "
            "mask.",
            3,
        ),
    ),
    hints=(
        "x_PRD lies stream by stream, each stream row by row, each row D numbers long: "
        "how many numbers lie before row r of stream p? Lanes with d beyond D need a "
        "mask, and load 0.0 there.",
        "w_RP has P weights for each row. A load of one address, without an arange, "
        "gives one number, and that times a block weighs each of its elements.",
        "A block of zeros before the loop; each turn adds one weighted stream to it; "
        "one store after the loop, masked, to row r of y_RD.",
    ),
)
