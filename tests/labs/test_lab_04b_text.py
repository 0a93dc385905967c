"""What the text of lab 04b says of its record holds in the record."""

import statistics

import pytest

from labs.lab_04b import record_tables as tables
from labs.lab_04b.exploring import ARMS, TRIALS
from labsupport.claims.record import load_record
from labsupport.claims.rows import pick


def middle(name, metric, **wanted):
    rows = pick(load_record("04b", name)["rows"], **wanted)
    return statistics.median(row[metric] for row in rows)


def test_unequal_workers():
    """ "A step takes 90 ms instead of 161", bound 80, 6 % of waiting among all."""
    assert middle("balance", "ms", arm="balanced") == pytest.approx(90, abs=0.5)
    assert middle("balance", "ms", arm="equal") == pytest.approx(161, abs=0.5)
    assert middle("balance", "bound_ms", arm="balanced") == pytest.approx(80, abs=1)
    left, among_equals = (
        middle("balance", "idle", arm=arm) for arm in ("balanced", "even_equal")
    )
    assert left == pytest.approx(0.06, abs=0.005) and left < among_equals
    alike = [
        middle("balance", "ms", arm=arm) for arm in ("even_equal", "even_balanced")
    ]
    assert alike[1] > alike[0]
    rows = pick(load_record("04b", "balance")["rows"], arm="even_balanced")
    outlier = max(rows, key=lambda row: row["ms"])
    assert outlier["batches"] == [19, 29] and round(outlier["ms"]) == 92


def test_exploring():
    rows = load_record("04b", "explore")["rows"]
    spans = {arm: tables.confidence(tables.gaps(rows, arm)) for arm in (*ARMS, "half")}
    assert spans["sam"][0] == pytest.approx(0.18, abs=0.006)
    # "Just where plain ends with half the gradients."
    assert spans["half"][1] < spans["sam"][0] < spans["half"][2]
    # "Averages end where plain does, EMA a hair above."
    assert spans["lawa"][1] < 0 < spans["lawa"][2]
    assert spans["ema"][1] > 0 and spans["ema"][2] < 0.01
    assert tables.explore_answer() == "none of them: plain is as low"
    # "All arms chose the highest rate of the search."
    for arm in ARMS:
        highest = max(trial.lr for trial in TRIALS[arm])
        assert {row["lr"] for row in pick(rows, arm=arm)} == {highest}
        # "The weaker of their two strengths": EMA's and LAWA's shorter memory, too.
        if arm != "plain":
            weaker = min(trial.strength for trial in TRIALS[arm])
            assert {row["strength"] for row in pick(rows, arm=arm)} == {weaker}


def test_a_text_read_eight_times():
    """SAM is lower by 0.18, plain with half the gradients nearly so."""
    rows = load_record("04b", "repeated")["rows"]
    sam, half = (tables.confidence(tables.gaps(rows, arm)) for arm in ("sam", "half"))
    assert sam[0] == pytest.approx(-0.18, abs=0.006) and half[0] < -0.165
    against_half = [
        row["validation"] - pick(rows, arm="half", seed=row["seed"])[0]["validation"]
        for row in pick(rows, arm="sam")
    ]
    mean, _, high = tables.confidence(against_half)
    assert mean == pytest.approx(-0.011, abs=0.0006) and high < -0.004
    assert mean / sam[0] == pytest.approx(1 / 17, abs=0.005)


@pytest.mark.parametrize("name", ["explore", "repeated"])
def test_flat_places(name):
    """Around SAM's end the loss rises half as much; around half the gradients' too."""
    plain, sam, half = (
        middle(name, "rise", arm=arm) for arm in ("plain", "sam", "half")
    )
    assert 0.4 < sam / plain < 0.6 and 0.4 < half / plain < 0.62


def test_the_way_down():
    """LAWA is ahead from a quarter to half of the way; SAM is behind all along."""
    rows = load_record("04b", "explore")["rows"]
    curves = {
        arm: [
            statistics.fmean(column)
            for column in zip(
                *(row["curve"] for row in pick(rows, arm=arm)), strict=True
            )
        ]
        for arm in ARMS
    }
    ahead = [
        plain - lawa
        for plain, lawa in zip(curves["plain"], curves["lawa"], strict=True)
    ]
    assert all(0.01 < gain < 0.03 for gain in ahead[1:4])
    ema = [a - b for a, b in zip(curves["plain"], curves["ema"], strict=True)]
    assert ema[2:4] == pytest.approx([0.01, 0.01], abs=0.003) and max(ema) == ema[2]
    assert max(ahead[0], *ahead[4:]) < 0.005
    assert all(
        sam > plain for sam, plain in zip(curves["sam"], curves["plain"], strict=True)
    )


def test_planes():
    """A random plane shows nothing of the path, its own nearly all."""
    rows = load_record("04b", "slices")["rows"]
    shares = {
        plane: [row["share"] for row in pick(rows, plane=plane)]
        for plane in ("random", "path")
    }
    assert max(shares["random"]) < 0.001 and min(shares["path"]) > 0.9
    for row in rows:  # a bowl: whatever the corner, it is higher
        grid = row["grid"]
        corners = (grid[0][0], grid[0][-1], grid[-1][0], grid[-1][-1])
        assert min(corners) > min(map(min, grid)) + 0.1


def test_noise_and_batches():
    rows = pick(load_record("04b", "noise")["rows"], arm="gpt")

    def scale(window):
        signal, noise = (
            statistics.fmean(row[name][window] for row in rows)
            for name in ("signal", "noise")
        )
        return noise / signal

    # "At first one sequence would do. Later noise is most of a batch of 8."
    assert scale(0) < 1.5 and all(scale(window) > 8 for window in range(1, 8))
    batch = {line.split()[0]: line for line in tables.batch_lines()[1:]}
    best = {
        name: float(line.split(" (")[0].split()[-1]) for name, line in batch.items()
    }
    assert best["follows"] - best["8"] == pytest.approx(0.08, abs=0.005)
    assert best["64"] - best["8"] == pytest.approx(0.33, abs=0.005)
    steps = {
        arm: middle("batch", "steps", arm=arm) for arm in ("small", "large", "adaptive")
    }
    assert steps["small"] == 8 * steps["large"] > 2 * steps["adaptive"]
