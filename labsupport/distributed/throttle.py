"""An emulated link: every collective takes as long as on a slow network.

    with throttle(parse_link("100mbit,5ms")):
        loss.backward()

For machines that cannot shape real links, and for delay where the system's
kernel lacks it. The model, on each rank:

    start = max(now, free)                   one network card, used in turn
    free  = start + sent / bytes_per_s       it is busy while bytes leave it
    due   = free + steps * latency_s         the last byte has arrived

`sent` and `steps` are the textbook's (collectives.py): what a ring sends, and
how many of its messages must wait for one another. When it is due, the
collective is really issued, by another thread and in the order of the calls.

- It ends on no rank before it is due there, and it ends only when the slowest
  rank has issued it too: as in a ring, where every byte waits for every link.
- The program goes on meanwhile. What it computes between the call and `wait()`
  overlaps with the link, and so do DDP's buckets with its backward pass.
- Results are the backend's own, bit for bit.

Really moving the bytes on this machine comes on top. Receiving does not use the
link, which carries both directions at once; what is received has come when its
sender's link is done with it. Not throttled: other backends than gloo, and
sockets that the program opens itself.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, ClassVar

import torch
import torch.distributed as dist

from labsupport.distributed import interception
from labsupport.distributed.interception import Call
from labsupport.distributed.link_speed import LinkSpeed
from labsupport.errors import LabError

# A receiver's own link is idle.
RECEIVES = {"recv_", "recv_any_source_"}
# Ends before it returns, so there is no handle to wait on.
BLOCKS = {"monitored_barrier_"}
# gloo's handles of these have no future, only `wait`.
WITHOUT_FUTURE = {
    "send",
    "reduce_scatter_",
    "_reduce_scatter_base_",
    "reduce_scatter_tensor_coalesced_",
}


class PutOff(dist.Work):
    """A collective that waits for its turn, as what torch waits for.

    torch asks it for `wait` or, DDP and its hooks, for a future. Errors, of the
    backend and of a peer that is lost, come out of both as ever. (torch's own
    handle made from a future swallows them.)
    """

    # torch's C++ code does not keep a handle's Python part alive. So it is kept
    # here until somebody has waited for it, or has its future.
    kept: ClassVar[set[PutOff]] = set()

    def __init__(self, due: float, call: Call, issue: Callable[[], Any]) -> None:
        super().__init__()
        self.due = due
        self.issue: Callable[[], Any] | None = issue
        self.has_future = call.op not in WITHOUT_FUTURE
        self.issued = threading.Event()
        self.ended: torch.futures.Future[None] = torch.futures.Future()
        self.work: Any = None
        self.future: Any = None
        self.refused: BaseException | None = None
        self.kept.add(self)

    def take_turn(self) -> None:
        """Issue it, or note why it was refused."""
        assert self.issue is not None
        try:
            result = self.issue()
            boxed = result[-1] if isinstance(result, tuple) else result
            self.work = dist.Work.unbox(boxed)
            if self.has_future:
                self.future = self.work.get_future()
        except BaseException as error:  # whoever waits for it shall hear of it
            self.refused = error
        self.issue = None
        self.issued.set()
        if self.future is not None:
            self.future.add_done_callback(lambda _: self.ended.set_result(None))
        else:
            self.ended.set_result(None)

    def wait(self, timeout: timedelta | None = None) -> bool:
        self.issued.wait()
        self.kept.discard(self)
        if self.refused is not None:
            raise self.refused
        return self.work.wait(timeout) if timeout else self.work.wait()

    def get_future(self) -> torch.futures.Future[Any]:
        self.kept.discard(self)

        def result(_: Any) -> Any:
            if self.refused is not None:
                raise self.refused
            return self.future.value()

        return self.ended.then(result)

    def is_completed(self) -> bool:
        return self.ended.done()


class Link:
    """This rank's network card."""

    def __init__(self, speed: LinkSpeed) -> None:
        self.speed = speed
        self.free = 0.0
        self.lock = threading.Lock()
        self.hurry = threading.Event()
        self.turns: queue.SimpleQueue[PutOff | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self.run, name="link", daemon=True)
        self.thread.start()

    def run(self) -> None:
        while (put_off := self.turns.get()) is not None:
            self.sleep_until(put_off.due)
            put_off.take_turn()

    def sleep_until(self, due: float) -> None:
        self.hurry.wait(max(0.0, due - time.monotonic()))

    def close(self, hurry: bool) -> None:
        """Wait until everything that was called has been issued."""
        if hurry:
            self.hurry.set()
        self.turns.put(None)
        self.thread.join()

    def reserve(self, sent: int, steps: int) -> float:
        """Use the card; returns when the last byte will have arrived."""
        rate = self.speed.bytes_per_s
        start = max(time.monotonic(), self.free)
        self.free = start + (0.0 if rate is None else sent / rate)
        return self.free + steps * self.speed.latency_s

    def around(self, call: Call, issue: Callable[[], Any]) -> Any:
        """Put a collective off; what torch gets can be waited for as ever."""
        if call.backend != "gloo" or call.op in RECEIVES:
            return issue()
        with self.lock:
            due = self.reserve(call.collective.sent, call.collective.steps)
            if call.op not in BLOCKS:
                put_off = PutOff(due, call, issue)
                self.turns.put(put_off)
                return call.result(put_off)
        self.sleep_until(due)
        return issue()


_link: Link | None = None


def start(speed: LinkSpeed) -> None:
    """Throttle this rank's collectives from now on, until `stop`.

    Raises:
        LabError: they are throttled already.
    """
    global _link
    if _link is not None:
        raise LabError(f"this rank's link is already {_link.speed}: use one throttle.")
    _link = Link(speed)
    # The innermost: a collective counts when it is called, not when it is due.
    interception.intercept(_link.around, innermost=True)


def stop(hurry: bool = False) -> None:
    """Full speed again, once the link has issued what was called.

    Args:
        hurry: issue it now, due or not: something has failed.
    """
    global _link
    if _link is None:
        return
    interception.stop_intercepting(_link.around)
    _link.close(hurry)
    _link = None


@contextlib.contextmanager
def throttle(speed: LinkSpeed) -> Iterator[None]:
    """Throttle this rank's collectives inside the `with`.

    Ranks may differ: `throttle(slow if rank == 2 else fast)`.

    Raises:
        LabError: they are throttled already.
    """
    start(speed)
    try:
        yield
    except BaseException:
        stop(hurry=True)
        raise
    stop()
