"""What a torchrun cell leaves in the notebook: `dp[0].loss`, `dp.error`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from labsupport.errors import LabError

if TYPE_CHECKING:
    import pandas as pd

    from labsupport.distributed.traffic_report import Traffic


@dataclass(frozen=True)
class RankError:
    """The root cause of a failed run.

    Attributes:
        rank: the rank to blame; None when no single one is (a timeout).
        kind: "error" (a Python exception), "exit" (sys.exit or os._exit with a
            code), "killed" (a signal), "left" (ended while others still
            needed it), "peer" (nothing but lost connections), "timeout",
            "launch" (torchrun itself failed).
        type: the exception's or the signal's name, or "".
        message: the exception's message, or a sentence.
        report: what the cell shows.
    """

    rank: int | None
    kind: str
    type: str
    message: str
    report: str

    def __str__(self) -> str:
        return self.report


class RanksFailed(LabError):
    """A torchrun cell failed; `error` is the root cause."""

    def __init__(self, error: RankError, report: str) -> None:
        super().__init__(report)
        self.error = error


class RunInterrupted(LabError):
    """The reader stopped a torchrun cell."""


class Rank:
    """The values that one rank shared, as attributes."""

    def __init__(self, number: int, values: dict[str, Any]) -> None:
        self.__dict__.update(values)
        self._number = number
        self._names = list(values)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # a protocol of Python's or Jupyter's
            raise AttributeError(name)
        shared = ", ".join(self._names) or "nothing"
        raise AttributeError(
            f"rank {self._number} did not share {name!r}; it shared {shared}"
        )

    def __dir__(self) -> list[str]:
        return self._names

    def __repr__(self) -> str:
        return f"Rank({self._number}: {', '.join(self._names) or 'nothing shared'})"


class Ranks:
    """The outcome of a run: one `Rank` per process on this machine, in order.

    Attributes:
        ok: every rank ran to its end.
        error: the root cause, or None.
        folder: where the logs are, relative to the course.
    """

    def __init__(
        self,
        values: list[dict[str, Any]],
        error: RankError | None,
        folder: str,
        logged: list[dict[str, float]] | None = None,
        traffic: Traffic | None = None,
        first: int = 0,
    ) -> None:
        self._ranks = [
            Rank(number, shared) for number, shared in enumerate(values, start=first)
        ]
        self._first = first
        self._logged = logged or []
        self._traffic = traffic
        self.error = error
        self.ok = error is None
        self.folder = folder

    @property
    def traffic(self) -> Traffic:
        """What the ranks sent each other; see traffic_report.py.

        Raises:
            LabError: the cell did not ask for it.
        """
        if self._traffic is None:
            raise LabError("nobody counted: add --traffic to the cell's first line.")
        return self._traffic

    @property
    def metrics(self) -> pd.DataFrame:
        """What the ranks logged: a row for each call of `log`, by rank and step."""
        import pandas as pd

        table = pd.DataFrame(self._logged)
        if table.empty:
            return table
        return table.sort_values(["rank", "step"], ignore_index=True, kind="stable")

    def __len__(self) -> int:
        return len(self._ranks)

    def __iter__(self) -> Iterator[Rank]:
        return iter(self._ranks)

    def __getitem__(self, rank: int) -> Rank:
        last = self._first + len(self) - 1
        if not self._first <= rank <= last:
            there = f"ranks {self._first} to {last}"
            raise IndexError(f"rank {rank} does not exist: this run had {there}")
        return self._ranks[rank - self._first]

    def stack(self, name: str) -> Any:
        """One value from every rank along a new first dimension, rank by rank.

        Tensors and numbers give a tensor of shape (ranks, ...), numpy arrays
        an array.

        Raises:
            LabError: a rank did not share it, or the shapes differ.
        """
        import numpy as np
        import torch

        missing = [rank._number for rank in self._ranks if name not in rank._names]
        if missing:
            raise LabError(f"{name!r} was not shared by {name_ranks(missing)}.")
        values = [getattr(rank, name) for rank in self._ranks]
        try:
            if all(isinstance(value, torch.Tensor) for value in values):
                return torch.stack(values)
            if any(isinstance(value, np.ndarray) for value in values):
                return np.stack(values)
            return torch.tensor(values)
        except (TypeError, ValueError, RuntimeError) as error:
            raise LabError(f"{name!r} cannot be stacked over ranks: {error}") from None

    def __repr__(self) -> str:
        names = list(dict.fromkeys(n for rank in self._ranks for n in rank._names))
        shared = f"shared {', '.join(names)}" if names else "nothing shared"
        state = "ok"
        if self.error is not None:
            who = "" if self.error.rank is None else f"rank {self.error.rank}: "
            state = f"failed: {who}{self.error.type or self.error.kind}"
        return f"Ranks({len(self)}, {state}, {shared})"


def name_ranks(numbers: list[int]) -> str:
    """ "rank 1", "ranks 1 and 3", "ranks 0 to 3"."""
    numbers = sorted(numbers)
    if len(numbers) == 1:
        return f"rank {numbers[0]}"
    if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"ranks {numbers[0]} to {numbers[-1]}"
    first = ", ".join(str(number) for number in numbers[:-1])
    return f"ranks {first} and {numbers[-1]}"
