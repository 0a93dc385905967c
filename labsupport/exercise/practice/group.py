"""A group of practice ranks: who runs, what moves, and when nobody can."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from labsupport.errors import LabError
from labsupport.exercise.check import CheckFailed
from labsupport.exercise.practice.collectives import run_collective
from labsupport.exercise.practice.rank import PracticeRank
from labsupport.exercise.practice.request import Request, quote

Entries = Sequence[Any] | Tensor
"""One entry for every rank: a list, or a tensor whose first dimension is W."""

PATIENCE_S = 1.0  # for the threads of a run that failed


@dataclass(frozen=True)
class Message:
    """One message that moved.

    Attributes:
        round: when, from 1.
        source, to: ranks.
        payload: what it held, a copy.
        offset: where it began in the source's first argument; None if it was
            not a part of that.
    """

    round: int
    source: int
    to: int
    payload: Tensor
    offset: int | None


class PracticeGroup:
    """A group of practice ranks, for one run.

    Args:
        world: how many ranks.

    Attributes:
        messages: those that moved, in order, collectives left out.
        states: for each rank, round -> its first argument after that round, as
            far as the rank came. A round in which it did not take part is left
            out.
    """

    def __init__(self, world: int) -> None:
        if world < 1:
            raise LabError(f"{world} practice ranks: use at least 1.")
        self.world = world
        self.messages: list[Message] = []
        self.states: list[dict[int, Tensor]] = [{} for _ in range(world)]
        self.ending = False
        self.back = threading.Semaphore(0)  # a rank hands its turn back
        self.posted: list[Request] = []  # sends and receives without a partner
        self.ranks = [PracticeRank(self, rank) for rank in range(world)]

    def run(self, function: Callable[..., Any], *arguments: Entries) -> list[Any]:
        """Call `function(argument[rank], ..., dist)` on every rank.

        Tensors are copied first. Returns every rank's result.

        Raises:
            CheckFailed: a deadlock, a message that does not fit its receive, a
                tensor touched too early, or a rank that returned None.
            Exception: what the function raised, on the first rank that did.
        """
        threads = []
        for rank in self.ranks:
            own = tuple(_copy(argument[rank.rank]) for argument in arguments)
            task = threading.Thread(target=rank.work, args=(function, own), daemon=True)
            threads.append(task)
            task.start()
        try:
            self._take_turns()
        finally:
            self.ending = True
            for rank, task in zip(self.ranks, threads, strict=True):
                rank.go.release()
                task.join(PATIENCE_S)
        for rank in self.ranks:
            if rank.result is None:
                came = f"None on rank {rank.rank}: is a `return` missing?"
                raise CheckFailed("a result on every rank", came)
        return [rank.result for rank in self.ranks]

    def _take_turns(self) -> None:
        """Let ranks run until all have ended, or none can go on."""
        turn = self.ranks
        while turn:
            for rank in turn:
                rank.go.release()
                self.back.acquire()
                if rank.error is not None:
                    raise rank.error
            self._deliver()
            turn = [r for r in self.ranks if r.waits_for and r.waits_for.done]
        stuck = [rank for rank in self.ranks if not rank.ended]
        if stuck:
            raise CheckFailed(
                "ranks that all reach their end",
                "a deadlock: " + _deadlock(stuck, self.ranks),
            )

    def _deliver(self) -> None:
        """Every rank waits or has ended: match sends with receives, in order."""
        for send in [r for r in self.posted if r.call == "isend"]:
            for recv in self.posted:
                if recv.call == "irecv" and (recv.rank, recv.peer) == (
                    send.peer,
                    send.rank,
                ):
                    self._move(send, recv)
                    break
        waiting = [rank.waits_for for rank in self.ranks if rank.waits_for]
        together = [request for request in waiting if request.peer is None]
        if len(together) == self.world:
            run_collective(together)

    def _move(self, send: Request, recv: Request) -> None:
        self.posted.remove(send)
        self.posted.remove(recv)
        if _size(recv.content) != _size(send.content):
            raise CheckFailed(
                "a receive that fits its message",
                f"rank {send.rank} sends {_size(send.content)} to rank {recv.rank}, "
                f"which expects {_size(recv.content)}{quote([recv.line])}",
            )
        recv.content = send.content
        when = max(send.clock, recv.clock) + 1
        for request in (send, recv):
            request.done, request.round = True, when
        self.messages.append(
            Message(when, send.rank, recv.rank, send.content, send.offset)
        )


def on_ranks(function: Callable[..., Any], *arguments: Entries) -> list[Any]:
    """Call a function on as many practice ranks as the arguments have entries.

    Args:
        function: takes one entry of each argument, then `dist`.
        arguments: each has one entry for every rank.

    Returns:
        Each rank's result.

    Raises:
        CheckFailed: see `PracticeGroup.run`.
    """
    return PracticeGroup(len(arguments[0])).run(function, *arguments)


def _deadlock(stuck: list[PracticeRank], ranks: list[PracticeRank]) -> str:
    """Who waits for whom, and in which line."""
    clauses, lines = [], []
    for rank in stuck:
        request = rank.waits_for
        assert request is not None
        clause = f"rank {rank.rank} waits {request.words}"
        if request.peer is not None and ranks[request.peer].ended:
            clause += ", which has ended"
        clauses.append(clause)
        lines.append(request.line)
    more = ["and so on"] if len(clauses) > 4 else []
    return ", ".join(clauses[:4] + more) + quote(lines)


def _size(tensor: Tensor) -> str:
    dtype = str(tensor.dtype).removeprefix("torch.")
    return f"{tensor.numel()} {dtype} number{'s' * (tensor.numel() != 1)}"


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value
