"""What all ranks of a run moved, as tables and as a few lines of text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labsupport.distributed.ranks import name_ranks
from labsupport.distributed.traffic_counts import RankTraffic, read_counts

if TYPE_CHECKING:
    import pandas as pd

MOST_KINDS = 6
MOST_RANKS = 8
ALIKE = 0.01  # ranks whose bytes differ by less share a line


@dataclass(frozen=True)
class Traffic:
    """What the ranks of one run moved.

    Attributes:
        ranks: one entry for each rank that wrote its counts, in order.
        missing: ranks that did not, because they were killed.
    """

    ranks: Sequence[RankTraffic]
    missing: Sequence[int] = field(default=())

    def __getitem__(self, rank: int) -> RankTraffic:
        """The traffic of one rank.

        Raises:
            KeyError: it wrote no counts.
        """
        return {traffic.rank: traffic for traffic in self.ranks}[rank]

    def table(self) -> pd.DataFrame:
        """One row for each rank and collective, then one with the rank's total.

        Columns: rank, collective, calls, payload, ideal_sent (all counted),
        sent, received (measured, so only in the rows "total"; <NA> when not
        measured). Bytes.
        """
        import pandas as pd

        rows: list[list[Any]] = []
        for traffic in self.ranks:
            for name, c in by_weight(traffic):
                rows.append(
                    [traffic.rank, name, c.calls, c.payload, c.ideal_sent, None, None]
                )
            c = traffic.total
            measured = [traffic.sent, traffic.received]
            rows.append(
                [traffic.rank, "total", c.calls, c.payload, c.ideal_sent, *measured]
            )
        names = "rank collective calls payload ideal_sent sent received".split()
        table = pd.DataFrame(rows, columns=names)
        numbers = [name for name in names if name != "collective"]
        return table.astype(dict.fromkeys(numbers, "Int64"))

    def peers(self) -> pd.DataFrame:
        """Measured bytes between each rank and each other: rank, peer, sent, received.

        A peer is known by its own end of the same connection; it is <NA> where
        that rank wrote no counts.
        """
        import pandas as pd

        owner = {
            connection.local: traffic.rank
            for traffic in self.ranks
            for connection in traffic.connections or []
        }
        rows = [
            [traffic.rank, owner.get(c.peer), c.sent, c.received]
            for traffic in self.ranks
            for c in traffic.connections or []
        ]
        table = pd.DataFrame(rows, columns=["rank", "peer", "sent", "received"])
        return (
            table.astype("Int64")
            .groupby(["rank", "peer"], as_index=False, dropna=False)
            .sum()
        )

    def counted(self) -> str:
        """What was counted: the same text on every machine.

        A cell shows "a to b" where ranks differ.
        """
        if not any(traffic.collectives for traffic in self.ranks):
            return "no collective was called"
        kinds: dict[str, None] = {}
        for traffic in self.ranks:
            kinds |= dict.fromkeys(traffic.collectives)
        order = sorted(
            kinds, key=lambda name: (-max(t[name].ideal_sent for t in self.ranks), name)
        )
        rows = [[who(self.ranks), "calls", "handed in", "ideal sent"]]
        for name in order[:MOST_KINDS]:
            counts = [traffic[name] for traffic in self.ranks]
            rows.append(
                [
                    name,
                    spread((c.calls for c in counts), str),
                    spread((c.payload for c in counts), exact_bytes),
                    spread((c.ideal_sent for c in counts), exact_bytes),
                ]
            )
        lines = aligned(rows)
        if len(order) > MOST_KINDS:
            lines.append(f"and {', '.join(order[MOST_KINDS:])}")
        return "\n".join(lines)

    def measured(self) -> str:
        """What went through the ranks' sockets, and what that is to the ideal."""
        reasons = {t.not_measured for t in self.ranks if t.not_measured}
        if reasons:
            return f"not measured at the sockets: {'; '.join(sorted(reasons))}"
        if not self.ranks:
            return "not measured at the sockets"
        if len(self.ranks) > 1 and (alike(self.ranks) or len(self.ranks) > MOST_RANKS):
            return "each rank's sockets: " + moved(self.ranks)
        return "\n".join(f"rank {t.rank}'s sockets: {moved([t])}" for t in self.ranks)

    def __str__(self) -> str:
        lines = [self.counted(), self.measured()]
        if self.missing:
            lines.append(f"{name_ranks(list(self.missing))} left no counts")
        return "\n".join(lines)


def read_traffic(paths: Sequence[Path], first: int = 0) -> Traffic:
    """Read what the ranks wrote with `stop_and_write`.

    Args:
        paths: one for each rank of this machine, in order.
        first: the rank that the first one is, when there are several machines.
    """
    counts = [read_counts(path) for path in paths]
    return Traffic(
        ranks=[traffic for traffic in counts if traffic is not None],
        missing=[rank for rank, traffic in enumerate(counts, first) if traffic is None],
    )


def by_weight(traffic: RankTraffic) -> list[tuple[str, Any]]:
    """The heaviest collective first."""
    return sorted(
        traffic.collectives.items(), key=lambda item: (-item[1].ideal_sent, item[0])
    )


def who(ranks: Sequence[RankTraffic]) -> str:
    if len(ranks) == 1:
        return f"counted on rank {ranks[0].rank}"
    return f"counted on each of {len(ranks)} ranks"


def spread(values: Iterable[int], text: Any) -> str:
    """ "3", or "3 to 5" where the ranks differ."""
    found = sorted(set(values))
    if len(found) == 1:
        return text(found[0])
    return f"{text(found[0])} to {text(found[-1])}"


def alike(ranks: Sequence[RankTraffic]) -> bool:
    for values in ([t.sent or 0 for t in ranks], [t.received or 0 for t in ranks]):
        if max(values) - min(values) > ALIKE * max(values):
            return False
    return True


def moved(ranks: Sequence[RankTraffic]) -> str:
    """ "18.9 MB sent (1.00 x ideal), 18.9 MB received"; several ranks as a span."""
    sent = [t.sent or 0 for t in ranks]
    received = [t.received or 0 for t in ranks]
    if alike(ranks):  # a few bytes apart: one of them speaks for all
        sent, received = sent[:1], received[:1]
    text = f"{spread(sent, rough_bytes)} sent"
    ideal = sum(t.ideal_sent for t in ranks)
    if ideal:
        ratio = sum(t.sent or 0 for t in ranks) / ideal
        text += f" ({ratio:.2f} x ideal)"
    return f"{text}, {spread(received, rough_bytes)} received"


def exact_bytes(count: int) -> str:
    """12582912 -> "12.583 MB"; up to a kilobyte every byte."""
    return bytes_text(count, 3)


def rough_bytes(count: int) -> str:
    return bytes_text(count, 1)


def bytes_text(count: int, decimals: int) -> str:
    """In units of a thousand, as the rates of links are."""
    size = float(count)
    if size < 1000:
        return f"{count} B"
    units = ["kB", "MB", "GB"]
    while size >= 1000 and units:
        size, unit = size / 1000, units.pop(0)
    return f"{size:.{decimals}f} {unit}"


def aligned(rows: list[list[str]]) -> list[str]:
    """The first column to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            [row[0].ljust(widths[0])]
            + [
                cell.rjust(width)
                for cell, width in zip(row[1:], widths[1:], strict=True)
            ]
        )
        for row in rows
    ]
