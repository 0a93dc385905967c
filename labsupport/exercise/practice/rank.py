"""One practice rank: a thread, and the `dist` that its function is given."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from labsupport.exercise.check import CheckFailed
from labsupport.exercise.practice.collectives import COLLECTIVES
from labsupport.exercise.practice.request import Request, Splits, quote, reader_line

if TYPE_CHECKING:
    from labsupport.exercise.practice.group import PracticeGroup

MESSAGES = ("send", "recv", "isend", "irecv")


class PracticeRank:
    """The functions of torch.distributed that practice ranks have, and a thread.

    Attributes:
        go: released when it is this rank's turn.
        clock: the rounds it has taken part in.
        waits_for: what keeps it from going on.
        open: its requests that were not waited for yet.
        watched: its first argument, if that is a tensor.
        result, error, ended: how its function ended.
    """

    def __init__(self, group: PracticeGroup, rank: int) -> None:
        self.group = group
        self.rank = rank
        self.go = threading.Semaphore(0)
        self.clock = 0
        self.waits_for: Request | None = None
        self.open: list[Request] = []
        self.watched: Tensor | None = None
        self.result: Any = None
        self.error: BaseException | None = None
        self.ended = False

    # --- as in torch.distributed -------------------------------------------

    def get_rank(self) -> int:
        return self.rank

    def get_world_size(self) -> int:
        return self.group.world

    def isend(self, tensor: Tensor, dst: int) -> Request:
        self._check_peer("send to", dst)
        return self._post(Request(self, "isend", tensor, dst))

    def irecv(self, tensor: Tensor, src: int) -> Request:
        self._check_peer("receive from", src)
        request = self._post(Request(self, "irecv", tensor, src))
        spoil(tensor)
        return request

    def send(self, tensor: Tensor, dst: int) -> None:
        self.isend(tensor, dst).wait()

    def recv(self, tensor: Tensor, src: int) -> None:
        self.irecv(tensor, src).wait()

    def all_reduce(self, tensor: Tensor) -> None:
        self._meet("all_reduce", tensor, tensor)

    def all_gather_into_tensor(
        self, output_tensor: Tensor, input_tensor: Tensor
    ) -> None:
        self._meet("all_gather_into_tensor", output_tensor, input_tensor)

    def all_gather_single(self, output_tensor: Tensor, input_tensor: Tensor) -> None:
        """What newer versions call all_gather_into_tensor."""
        self._meet("all_gather_single", output_tensor, input_tensor)

    def reduce_scatter_tensor(self, output: Tensor, input: Tensor) -> None:
        self._meet("reduce_scatter_tensor", output, input)

    def reduce_scatter_single(self, output: Tensor, input: Tensor) -> None:
        """What newer versions call reduce_scatter_tensor."""
        self._meet("reduce_scatter_single", output, input)

    def all_to_all_single(
        self,
        output: Tensor,
        input: Tensor,
        output_split_sizes: Sequence[int] | None = None,
        input_split_sizes: Sequence[int] | None = None,
    ) -> None:
        splits = (output_split_sizes, input_split_sizes)
        self._meet("all_to_all_single", output, input, splits)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        known = ", ".join((*MESSAGES, *COLLECTIVES))
        raise AttributeError(f"practice ranks have no dist.{name}; they have {known}")

    # --- the thread --------------------------------------------------------

    def work(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        """Run the function when it is this rank's turn."""
        if arguments and isinstance(arguments[0], Tensor):
            self.watched = arguments[0]
        self.go.acquire()
        try:
            if not self.group.ending:
                self.result = function(*arguments, self)
                self.note_state()
                self._check_all_waited_for()
        except Ended:
            pass
        except BaseException as error:
            self.error = error
        self.ended = True
        self.group.back.release()

    def wait_for(self, request: Request) -> None:
        """Hand the turn back until the request is done."""
        self.waits_for = request
        while not request.done:
            self.group.back.release()
            self.go.acquire()
            if self.group.ending:
                raise Ended
        self.waits_for = None
        self.clock = max(self.clock, request.round)

    def note_state(self) -> None:
        """Keep what the first argument is now, for the pictures."""
        if self.watched is not None:
            self.group.states[self.rank][self.clock] = self.watched.detach().clone()

    def offset(self, tensor: Tensor) -> int | None:
        """Where a part of the first argument begins in it."""
        whole = self.watched
        if whole is None:
            return None
        if tensor.untyped_storage().data_ptr() != whole.untyped_storage().data_ptr():
            return None
        return int(tensor.storage_offset() - whole.storage_offset())

    def _post(self, request: Request) -> Request:
        self.note_state()
        self.group.posted.append(request)
        self.open.append(request)
        return request

    def _meet(
        self, call: str, output: Tensor, input: Tensor, splits: Splits = (None, None)
    ) -> None:
        self.note_state()
        request = Request(self, call, output, source=input, splits=splits)
        self.open.append(request)
        request.wait()

    def _check_peer(self, way: str, peer: int) -> None:
        here = quote([reader_line()])
        last = self.group.world - 1
        if peer not in range(self.group.world):
            came = f"rank {self.rank}, which wants to {way} rank {peer}{here}"
            raise CheckFailed(f"ranks from 0 to {last}", came)
        if peer == self.rank:
            came = f"rank {self.rank}, which wants to {way} itself{here}"
            raise CheckFailed("messages between two different ranks", came)

    def _check_all_waited_for(self) -> None:
        if self.open:
            forgotten = " and ".join(request.words for request in self.open)
            raise CheckFailed(
                "a wait() for every request",
                f"rank {self.rank}, which ended without waiting {forgotten}"
                f"{quote([request.line for request in self.open])}",
            )


class Ended(BaseException):
    """Ends the thread of a rank whose run has failed elsewhere."""


def spoil(tensor: Tensor) -> None:
    """Fill a buffer with what nobody takes for data."""
    if tensor.is_floating_point() or tensor.is_complex():
        tensor.fill_(float("nan"))
    else:
        tensor.fill_(99)
