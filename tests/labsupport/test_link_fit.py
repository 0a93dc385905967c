"""A fitted link is the one that the times were made from."""

import math

import pytest

from labsupport.distributed.link_fit import fit_link
from labsupport.errors import LabError


def test_a_fit_finds_what_the_times_were_made_from():
    # W = 4: t = 6 alpha + 1.5 n / beta with 0.5 ms and 100 MB/s
    sizes = [1e3, 1e4, 1e5, 1e6, 1e7, 1e8]
    seconds = [6 * 5e-4 + 1.5 * n / 1e8 for n in sizes]
    link = fit_link(sizes, seconds, W=4)
    assert link.latency == pytest.approx(5e-4)
    assert link.bandwidth == pytest.approx(1e8)
    assert link.residuals == pytest.approx([0] * 6, abs=1e-9)
    assert link.seconds(1e6) == pytest.approx(0.018)


def test_a_fit_weighs_small_messages_as_much_as_large_ones():
    sizes = [1e3, 1e4, 1e5, 1e6, 1e7, 1e8]
    wrong = (1.05, 0.95, 1.05, 0.95, 1.05, 0.95)
    seconds = [(2 * 5e-4 + n / 1e8) * w for n, w in zip(sizes, wrong, strict=True)]
    link = fit_link(sizes, seconds, W=2)
    # 5 % of the largest is 50 ms; without weights it would swamp all of alpha.
    assert link.latency == pytest.approx(5e-4, rel=0.06)
    assert link.bandwidth == pytest.approx(1e8, rel=0.06)
    assert max(map(abs, link.residuals)) < 0.11
    # Residuals are fitted / measured - 1.
    assert link.residuals[0] == pytest.approx(link.seconds(1e3) / seconds[0] - 1)


def test_a_latency_is_never_negative():
    link = fit_link([1e6, 2e6, 4e6], [0.009, 0.020, 0.041], W=2)
    assert link.latency == 0
    # One unknown left: the slope with the least relative error, by hand
    # sum(a) / sum(a^2) with a = n / t.
    a = [1e6 / 0.009, 2e6 / 0.020, 4e6 / 0.041]
    assert 1 / link.bandwidth == pytest.approx(sum(a) / sum(x * x for x in a))


@pytest.mark.parametrize(
    ("sizes", "seconds", "W", "words"),
    [
        ([1e3, 1e4], [1.0], 2, "2 sizes and 1 times"),
        ([1e3, 1e3], [1.0, 1.1], 2, "two different sizes"),
        ([0, 1e3], [1.0, 1.1], 2, "above 0"),
        ([1e3, 1e4], [1.0, math.nan], 2, "above 0"),
        ([1e3, 1e4], [1.0, 2.0], 1, "W=1"),
        ([1e3, 1e6], [1.0, 0.5], 2, "no slower"),
    ],
)
def test_times_that_no_link_has(sizes, seconds, W, words):
    with pytest.raises(LabError, match=words):
        fit_link(sizes, seconds, W)
