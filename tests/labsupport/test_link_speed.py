"""`--link 100mbit,5ms`: what is meant, and what is refused."""

from __future__ import annotations

import pytest

from labsupport.distributed.link_speed import LinkSpeed, parse_link
from labsupport.errors import LabError


@pytest.mark.parametrize(
    ("text", "bytes_per_s", "latency_s"),
    [
        ("100mbit", 12.5e6, 0.0),
        ("1gbit,5ms", 125e6, 0.005),
        ("5ms", None, 0.005),
        ("50mbit,0.5ms", 6.25e6, 0.0005),
        ("2.5Gbit, 20us", 312.5e6, 20e-6),
        ("800kbit,1s", 1e5, 1.0),
        ("10mbit,0ms", 1.25e6, 0.0),
    ],
)
def test_what_is_meant(text: str, bytes_per_s: float | None, latency_s: float) -> None:
    link = parse_link(text)
    assert link.bytes_per_s == pytest.approx(bytes_per_s)
    assert link.latency_s == pytest.approx(latency_s)
    assert parse_link(str(link)) == link, "as text it can be handed to a rank"


def test_as_a_reader_would_write_it() -> None:
    assert str(LinkSpeed(12.5e6, 0.005)) == "100mbit,5ms"
    assert str(LinkSpeed(125e6)) == "1gbit"
    assert str(LinkSpeed(1e5, 20e-6)) == "800kbit,20us"
    assert str(LinkSpeed(None, 1.5)) == "1.5s"
    assert str(LinkSpeed(None)) == "0us", "a link that slows nothing"


@pytest.mark.parametrize(
    "text",
    [
        "fast",
        "",
        "-1mbit",
        "0mbit",
        "100mb",
        "100",
        "100 mbit/s",
        "nanmbit",
        "1e3mbit",
        "5 parsec",
        "-5ms",
        "100mbit,",
        "100mbit,5ms,1s",
        "5ms,6ms",
        "5ms,100mbit",
    ],
)
def test_nonsense_is_one_sentence(text: str) -> None:
    with pytest.raises(LabError, match="kbit, mbit or gbit") as caught:
        parse_link(text)
    assert repr(text) in str(caught.value)
    assert "\n" not in str(caught.value)
