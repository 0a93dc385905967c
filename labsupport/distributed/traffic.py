"""What this rank's collectives moved, counted twice.

    with count_traffic() as step:
        loss.backward()
    print(step["all_reduce"].calls, step.payload, step.ideal_sent, step.sent)

Once where they are issued (interception.py): the bytes handed in, and what the
textbook's algorithm sends for them (collectives.py). Once at the sockets
(socket_bytes.py): what really went out and came in. The first is exact and the
same on every machine; the second shows what the backend makes of it.

A torchrun cell counts a whole run with `start` and `stop_and_write`; the
notebook reads the ranks' files with traffic_report.py.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch.distributed as dist

from labsupport.distributed import interception
from labsupport.distributed.folders import write_json
from labsupport.distributed.interception import Call
from labsupport.distributed.socket_bytes import SocketBytes, why_not_measured
from labsupport.distributed.traffic_counts import Connection, Count, RankTraffic
from labsupport.errors import LabError

# Counts by collective, connections by the number of their socket.
Reading = tuple[dict[str, Count], dict[str, Connection]]


class Counter:
    """Counts as long as somebody asks for it."""

    def __init__(self) -> None:
        self.users = 0
        self.counts: dict[str, Count] = {}
        self.backends: set[str] = set()
        self.groups: set[str] = set()
        self.sockets: SocketBytes | None = None
        self.lock = threading.Lock()

    def open(self) -> None:
        self.users += 1
        if self.users > 1:
            return
        self.sockets = None if why_not_measured() else SocketBytes()
        interception.intercept(self.around)
        self.undo = contextlib.ExitStack()
        self.undo.enter_context(sockets_read_before_destroying(self.last_reading))

    def close(self) -> None:
        self.users -= 1
        if self.users > 0:
            return
        interception.stop_intercepting(self.around)
        self.last_reading()
        self.undo.close()

    def around(self, call: Call, issue: Callable[[], Any]) -> Any:
        """Issue a collective; what was refused is not counted."""
        result = issue()
        c = call.collective
        with self.lock:
            before = self.counts.get(c.name, Count())
            self.counts[c.name] = before + Count(1, c.payload, c.sent)
            self.backends.add(call.backend)
            if call.group.group_name not in self.groups:
                # By now every rank of the group is connected.
                self.groups.add(call.group.group_name)
                if self.sockets is not None:
                    self.sockets.watch()
        return result

    def last_reading(self) -> None:
        """Let go of the sockets, before a group is destroyed."""
        with self.lock:
            self.groups.clear()
            if self.sockets is not None:
                self.sockets.watch()
                self.sockets.close()

    def not_measured(self) -> str:
        other = sorted(self.backends - {"gloo"})
        if other:
            return f"{' and '.join(other)} need not move its bytes through sockets"
        return why_not_measured()

    def read(self) -> Reading:
        with self.lock:
            if self.sockets is None:
                return dict(self.counts), {}
            self.sockets.watch()
            return dict(self.counts), self.sockets.read()


_counter = Counter()
_at_start: Reading | None = None


@contextlib.contextmanager
def count_traffic() -> Iterator[RankTraffic]:
    """Count what this rank's collectives move inside the `with`.

    Works in a torchrun cell and in a plain script under torchrun, also inside
    another count. A collective counts when it is issued; one that is still
    going at the end of the `with` is not yet all in `sent` and `received`, and
    `received` holds what a faster rank has already sent for later.

    Yields:
        RankTraffic, complete after the `with`.
    """
    result = RankTraffic()
    _counter.open()
    before = _counter.read()
    try:
        yield result
    finally:
        fill(result, before)
        _counter.close()


def start() -> None:
    """Count from now on, until `stop_and_write`; once, before the cell's body."""
    global _at_start
    _counter.open()
    _at_start = _counter.read()


def is_counting() -> bool:
    """Whether `start` was called, and not yet `stop_and_write`."""
    return _at_start is not None


def traffic() -> RankTraffic:
    """What this rank has moved since `start`.

    Raises:
        LabError: nobody is counting.
    """
    if _at_start is None:
        raise LabError(
            "traffic() has nothing to tell: add --traffic to the cell's first line, "
            "or use `with count_traffic() as step:`."
        )
    result = RankTraffic()
    fill(result, _at_start)
    return result


def stop_and_write(path: Path) -> None:
    """Write what came since `start` as JSON, also right after a failure.

    Issues no collective and waits for no other rank. The group may be gone
    already: the sockets were read before.
    """
    global _at_start
    write_json(path, asdict(traffic()))
    _at_start = None
    _counter.close()


def fill(result: RankTraffic, before: Reading) -> None:
    """Put into `result` what came on top of an earlier reading."""
    counts, connections = _counter.read()
    result.rank, result.ranks = rank_and_ranks()
    result.collectives = {
        name: count - before[0].get(name, Count())
        for name, count in counts.items()
        if count != before[0].get(name)
    }
    result.not_measured = _counter.not_measured()
    if not result.not_measured:
        result.connections = [
            now - before[1][inode] if inode in before[1] else now
            for inode, now in connections.items()
        ]


def rank_and_ranks() -> tuple[int, int]:
    """From torchrun's environment, or from the default group."""
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


@contextlib.contextmanager
def sockets_read_before_destroying(read: Callable[[], None]) -> Iterator[None]:
    """Have `destroy_process_group` call `read` first: a body may call it itself."""
    original = dist.destroy_process_group

    @functools.wraps(original)
    def destroy_process_group(*args: Any, **kwargs: Any) -> None:
        read()
        original(*args, **kwargs)

    def put(function: Any) -> None:
        dist.destroy_process_group = function
        dist.distributed_c10d.destroy_process_group = function

    put(destroy_process_group)
    try:
        yield
    finally:
        put(original)
