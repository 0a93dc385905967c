"""A message under way, seen from one of its ends."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from labsupport.exercise.check import CheckFailed

if TYPE_CHECKING:
    from labsupport.exercise.practice.rank import PracticeRank

Splits = tuple[Sequence[int] | None, Sequence[int] | None]
"""The rows for each rank of an all-to-all's output and input; None is evenly."""


class Request:
    """What `isend`, `irecv` and a collective leave on one rank.

    Attributes:
        call: "isend", "irecv" or the collective's name.
        tensor: what the rank gave to send, or to receive into.
        content: a copy: of what is sent, later of what was received.
        peer: the rank at the other end; None for a collective.
        offset: where `tensor` begins in the rank's first argument, or None.
        clock: the rounds that the rank had taken part in.
        round: the round in which the message moved, once `done`.
        line: where in the function it was called.
    """

    def __init__(
        self,
        owner: PracticeRank,
        call: str,
        tensor: Tensor,
        peer: int | None = None,
        source: Tensor | None = None,
        splits: Splits = (None, None),
    ) -> None:
        self.owner = owner
        self.rank = owner.rank
        self.call = call
        self.tensor = tensor
        self.content = (tensor if source is None else source).detach().clone()
        self.peer = peer
        self.splits = splits
        self.offset = owner.offset(tensor)
        self.clock = owner.clock
        self.line = reader_line()
        self.done = False
        self.round = 0

    @property
    def words(self) -> str:
        """What the rank waits for, after "rank 0 waits ..."."""
        if self.peer is None:
            return f"in {self.call}"
        way = "to send to" if self.call == "isend" else "to receive from"
        return f"{way} rank {self.peer}"

    def wait(self) -> None:
        """Let the other ranks run until the message has moved.

        Raises:
            CheckFailed: the tensor that was sent has changed meanwhile.
        """
        if self not in self.owner.open:
            return
        self.owner.wait_for(self)
        self.owner.open.remove(self)
        if self.call == "irecv":
            self.tensor.copy_(self.content.view_as(self.tensor))
        elif self.call == "isend" and not _same(self.tensor, self.content):
            raise CheckFailed(
                "a tensor left alone from isend until wait()",
                f"rank {self.rank} changed what it was sending to rank {self.peer}"
                f"{quote([self.line])}",
            )


def reader_line() -> str:
    """The line of the reader's function that is running now."""
    frame = sys._getframe()
    room = __name__.rpartition(".")[0]
    while frame.f_globals["__name__"].startswith(room) and frame.f_back is not None:
        frame = frame.f_back
    code = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
    return f"line {frame.f_lineno}: {code}" if code else ""


def quote(lines: Sequence[str]) -> str:
    """Lines in brackets; a comparison with known mistakes leaves these out."""
    known = list(dict.fromkeys(line for line in lines if line))
    return f" [{'; '.join(known)}]" if known else ""


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)
