"""`100mbit,5ms`: how fast a link between ranks is.

The units are those of the system's own tool, tc: 1 mbit is a million bits per
second. tc's `mb` for megabytes is left out, because it reads as megabits.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from labsupport.errors import LabError

BITS_PER_S = {"gbit": 1e9, "mbit": 1e6, "kbit": 1e3}
SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}

NUMBER = r"(\d+(?:\.\d+)?) ?"
RATE = re.compile(f"{NUMBER}({'|'.join(BITS_PER_S)})")
LATENCY = re.compile(f"{NUMBER}({'|'.join(SECONDS)})")


@dataclass(frozen=True)
class LinkSpeed:
    """What a rank's network card can do.

    Attributes:
        bytes_per_s: bytes per second that it sends; None for no limit.
        latency_s: seconds until a byte that was sent arrives.
    """

    bytes_per_s: float | None
    latency_s: float = 0.0

    def __str__(self) -> str:
        """As `parse_link` reads it."""
        parts = []
        if self.bytes_per_s is not None:
            parts.append(in_largest_unit(self.bytes_per_s * 8, BITS_PER_S))
        if self.latency_s or not parts:
            parts.append(in_largest_unit(self.latency_s, SECONDS))
        return ",".join(parts)


def in_largest_unit(value: float, units: dict[str, float]) -> str:
    """12.5 -> "12.5s"; the units stand in falling order."""
    name, size = next(
        ((name, size) for name, size in units.items() if value >= size),
        list(units.items())[-1],
    )
    return f"{value / size:.15g}{name}"


def parse_link(text: str) -> LinkSpeed:
    """Read "100mbit", "1gbit,5ms" or "5ms".

    Raises:
        LabError: anything else, a rate of zero included.
    """
    parts = [part.strip().lower() for part in text.split(",")]
    rate = RATE.fullmatch(parts[0])
    if rate is not None:
        parts = parts[1:]
    latency = LATENCY.fullmatch(parts[0]) if len(parts) == 1 else None
    too_slow = rate is not None and float(rate[1]) == 0
    if too_slow or (parts and latency is None):
        raise LabError(
            f"{text!r} is no link: write a rate above zero in kbit, mbit or gbit, "
            "a latency in us, ms or s, or both, as in 100mbit,5ms."
        )
    return LinkSpeed(
        bytes_per_s=None if rate is None else float(rate[1]) * BITS_PER_S[rate[2]] / 8,
        latency_s=0.0 if latency is None else float(latency[1]) * SECONDS[latency[2]],
    )
