"""The numbers that a rank writes down and a notebook reads: what was moved.

Nothing here needs torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from labsupport.distributed.folders import read_json


@dataclass(frozen=True)
class Connection:
    """One TCP connection of this rank.

    Attributes:
        local, peer: "127.0.0.1:40123", this end and the other.
        sent: bytes handed to the system, each counted once.
        received: bytes that arrived.
        sent_again: bytes that had to be sent once more; 0 without loss.
    """

    local: str
    peer: str
    sent: int
    received: int
    sent_again: int

    def __sub__(self, earlier: Connection) -> Connection:
        return Connection(
            self.local,
            self.peer,
            self.sent - earlier.sent,
            self.received - earlier.received,
            self.sent_again - earlier.sent_again,
        )


@dataclass(frozen=True)
class Count:
    """One kind of collective on one rank.

    Attributes:
        calls: how often it was issued.
        payload: bytes that this rank handed in.
        ideal_sent: bytes that the textbook's algorithm sends from this rank.
    """

    calls: int = 0
    payload: int = 0
    ideal_sent: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(
            self.calls + other.calls,
            self.payload + other.payload,
            self.ideal_sent + other.ideal_sent,
        )

    def __sub__(self, other: Count) -> Count:
        return Count(
            self.calls - other.calls,
            self.payload - other.payload,
            self.ideal_sent - other.ideal_sent,
        )


@dataclass
class RankTraffic:
    """What one rank moved.

    Attributes:
        rank: this rank.
        ranks: how many there are.
        collectives: the count of each kind, by its name in torch.distributed.
        connections: what each of its sockets moved; None when not measured.
        not_measured: why not, or "".
    """

    rank: int = 0
    ranks: int = 1
    collectives: dict[str, Count] = field(default_factory=dict)
    connections: list[Connection] | None = None
    not_measured: str = ""

    def __getitem__(self, collective: str) -> Count:
        """The count of one kind; all zero when there was none."""
        return self.collectives.get(collective, Count())

    @property
    def total(self) -> Count:
        return sum(self.collectives.values(), Count())

    @property
    def payload(self) -> int:
        """Bytes handed to collectives."""
        return self.total.payload

    @property
    def ideal_sent(self) -> int:
        """Bytes that the textbook's algorithms send from this rank."""
        return self.total.ideal_sent

    @property
    def sent(self) -> int | None:
        """Bytes that left through sockets; None when not measured."""
        if self.connections is None:
            return None
        return sum(connection.sent for connection in self.connections)

    @property
    def received(self) -> int | None:
        """Bytes that came in through sockets; None when not measured."""
        if self.connections is None:
            return None
        return sum(connection.received for connection in self.connections)

    def __str__(self) -> str:
        from labsupport.distributed.traffic_report import Traffic

        return str(Traffic([self]))


def read_counts(path: Path) -> RankTraffic | None:
    """What `stop_and_write` wrote; None when the rank did not get that far."""
    written = read_json(path)
    if written is None:
        return None
    written["collectives"] = {
        name: Count(**count) for name, count in written["collectives"].items()
    }
    if written["connections"] is not None:
        written["connections"] = [Connection(**c) for c in written["connections"]]
    return RankTraffic(**written)
